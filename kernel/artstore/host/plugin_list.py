"""What is installed, which of it is used, and what is wrong with it, as plain rows."""

from __future__ import annotations

from typing import Any

from artstore.errors import PluginError
from artstore.host.plugins import Offer, Plugin, Registry
from artstore.host.roles import ROLES
from artstore.host.settings import ProviderTables, Settings


def plugin_rows(registry: Registry, settings: Settings) -> list[dict[str, Any]]:
    """Return a row for every offer, and one for every plugin that cannot be used."""
    used = {role: used_providers(registry, role, tables_of(settings, role)) for role in ROLES}
    order = list(ROLES)
    offers = sorted(registry.offers, key=lambda o: (order.index(o.role), o.provider.name, o.plugin))
    rows = [
        _row(
            offer,
            role=offer.role,
            name=offer.provider.name,
            chosen=offer.provider.name in used[offer.role],
            summary=offer.provider.summary,
            allows_missing_guarantees=_allows_missing_guarantees(offer, settings),
        )
        for offer in offers
    ]
    return rows + [_row(plugin) for plugin in registry.plugins if plugin.status != "ok"]


def _row(
    source: Offer | Plugin,
    *,
    role: str | None = None,
    name: str | None = None,
    chosen: bool = False,
    summary: str = "",
    allows_missing_guarantees: bool = False,
) -> dict[str, Any]:
    return {
        "role": role,
        "name": name,
        "chosen": chosen,
        "plugin": source.plugin if isinstance(source, Offer) else source.name,
        "distribution": source.distribution,
        "version": source.version,
        "status": source.status,
        "summary": summary,
        "problem": source.problem,
        "allows_missing_guarantees": allows_missing_guarantees,
    }


def used_providers(registry: Registry, role: str, tables: ProviderTables) -> list[str]:
    """Return the providers that the settings choose for a role, and those that they wrap.

    The settings are not checked. A chosen provider that cannot be used is listed, but not what it would wrap.
    """
    names = list(tables.chosen())
    for name in names:
        try:
            fields = registry.choose(role, name).Settings.model_fields
        except PluginError:
            continue
        inner = tables.table(name).get("inner", fields["inner"].default) if "inner" in fields else name
        if inner not in names:
            names.append(inner)
    return names


def tables_of(settings: Settings, role: str) -> ProviderTables:
    """Return the section of a role."""
    tables: ProviderTables = getattr(settings, role)
    return tables


def _allows_missing_guarantees(offer: Offer, settings: Settings) -> bool:
    """Return whether the operator accepted that this provider guarantees less than it should."""
    tables = tables_of(settings, offer.role)
    name = offer.provider.name
    value = tables.table(name).get("allow_missing_guarantees", False) if name in tables.chosen() else False
    return str(value).lower() in ("true", "1", "yes", "on")
