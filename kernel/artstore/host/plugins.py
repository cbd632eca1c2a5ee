"""Finds plugins by entry points and providers by name. A fault in one is told, and stays with that one.

Our own loader: pluggy's stops at the first broken plugin, and lets one distribution shadow another's name.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

import pluggy
from pydantic import BaseModel

from artstore import hookspecs, spi
from artstore.errors import PluginError
from artstore.hookspecs import Provider
from artstore.host.extras import missing
from artstore.host.settings import Settings, Tables, suggestion

log = logging.getLogger("artstore.plugins")

GROUP = "artstore"
HOME_DISTRIBUTION = "artstore"
HOOKS = {
    "naming": "artstore_namings",
    "backend": "artstore_backends",
    "cache": "artstore_caches",
    "wal": "artstore_logs",
    "auth": "artstore_auths",
    "observer": "artstore_observers",
}

Status = Literal["ok", "blocked", "broken", "clash", "missing extra", "wrong API"]


@dataclass(slots=True, kw_only=True)
class Offer:
    """A provider as one plugin offers it. `problem` says why it cannot be used."""

    role: str
    provider: Provider
    plugin: str
    distribution: str
    version: str
    status: Status = "ok"
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Plugin:
    """An entry point of the group `artstore`. `name` is `<distribution>:<entry point>`."""

    name: str
    distribution: str
    version: str
    status: Status = "ok"
    problem: str = ""


@dataclass(slots=True)
class Registry:
    """Every plugin that was found, and what each offers."""

    plugins: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    _hooks: pluggy.PluginManager = field(default_factory=lambda: _new_hooks())  # noqa: PLW0108 - defined below

    def load(
        self,
        found: Iterable[EntryPoint] | None = None,
        *,
        block: Iterable[str] = (),
        strict: bool = False,
        strangers: bool = True,
    ) -> None:
        """Import what the entry points name and collect the offers. Raises `PluginError` when `strict`."""
        strangers = strangers and os.environ.get("ARTSTORE_PLUGINS", "").lower() != "none"
        blocked = set(block)
        points = set(entry_points(group=GROUP) if found is None else found)
        # Each look at a name or a version reads the metadata anew.
        told = {dist: (dist.name, dist.version) if dist else ("", "") for dist in {p.dist for p in points}}
        for point in sorted(points, key=lambda p: (told[p.dist], p.name)):
            distribution, version = told[point.dist]
            distribution = distribution or "unknown"
            plugin = Plugin(name=f"{distribution}:{point.name}", distribution=distribution, version=version)
            self.plugins.append(plugin)
            if plugin.name in blocked or (not strangers and distribution != HOME_DISTRIBUTION):
                plugin.status = "blocked"
                continue
            try:
                self.register(plugin, point.load())
            except (Exception, SystemExit) as e:  # a stranger's module may do anything at import
                plugin.status, plugin.problem = "broken", f"{type(e).__name__}: {e}"
                log.warning("plugin %s is broken: %s", plugin.name, plugin.problem)
                if strict:
                    raise self._broken(plugin) from e
        unknown = blocked - {p.name for p in self.plugins}
        if unknown:
            name = sorted(unknown)[0]
            raise PluginError(
                f"There is no plugin '{name}' to block.",
                place="plugins.block",
                cure=suggestion(name, [p.name for p in self.plugins]),
            )
        self._mark_missing()
        self._mark_clashes()

    def register(self, plugin: Plugin, module: object) -> None:
        """Take a plugin in and collect what it offers. Raises whatever its hooks raise."""
        offers = list(_offers(plugin, module))
        try:
            self._hooks.register(module, plugin.name)
            self._hooks.check_pending()
        except Exception:
            self._hooks.unregister(name=plugin.name)  # or it would fail the check of every later one
            raise
        self.offers += offers

    def choose(self, role: str, name: str, *, place: str = "") -> type[Any]:
        """The class behind the provider `name` of a role. Raises `PluginError` with the cure.

        `place`: the setting that names it, unless that is the role's own.
        """
        offer = self.offer(role, name, place=place)
        module_name, _, class_name = offer.provider.target.partition(":")
        try:
            provider = getattr(importlib.import_module(module_name), class_name)
        except ImportError as e:
            offer.status, offer.problem = ("missing extra" if offer.provider.extra else "broken"), str(e)
            raise PluginError(
                f"Provider '{name}' of {offer.plugin} cannot be imported: {e}.",
                place=role,
                cure=f"pip install '{offer.distribution}[{offer.provider.extra}]'"
                if offer.provider.extra
                else "",
            ) from e
        except (Exception, SystemExit) as e:
            offer.status, offer.problem = "broken", f"{type(e).__name__}: {e}"
            raise PluginError(
                f"Provider '{name}' of {offer.plugin} is broken: {offer.problem}.", place=role
            ) from e
        self._check_class(offer, provider)
        if offer.status == "missing extra":  # what is there is enough
            offer.status, offer.problem = "ok", ""
        return provider  # type: ignore[no-any-return]

    def used(self, role: str, tables: Tables) -> list[str]:
        """The providers chosen for a role, and those that they wrap, as far as that can be told."""
        names = list(tables.chosen())
        for name in names:
            try:
                fields = self.choose(role, name).Settings.model_fields
            except PluginError:
                continue
            inner = tables.table(name).get("inner", fields["inner"].default) if "inner" in fields else name
            if inner not in names:
                names.append(inner)
        return names

    def offer(self, role: str, name: str, *, place: str = "") -> Offer:
        """The one offer of that name. Raises `PluginError` when there is none, or more than one."""
        found = [o for o in self.offers if o.role == role and o.provider.name == name]
        if not found:
            names = sorted({o.provider.name for o in self.offers if o.role == role})
            broken = [f"{p.name} is broken ({p.problem})" for p in self.plugins if p.status == "broken"]
            raise PluginError(
                "; ".join([f"Nothing offers a {role} '{name}'", *broken]) + ".",
                place=place or role,
                cure=suggestion(name, names),
            )
        if len(found) > 1:
            raise PluginError(
                f"The {role} '{name}' is offered by {' and by '.join(sorted(o.plugin for o in found))}.",
                place=role,
                cure=f'Block all but one of them: [plugins] block = ["{found[-1].plugin}"].',
            )
        return found[0]

    def _mark_missing(self) -> None:
        """Offers whose extra is not installed, as far as its distribution tells: nothing is imported for this."""
        for offer in self.offers:
            if offer.provider.extra and (
                lacking := sorted(missing(offer.distribution, offer.provider.extra))
            ):
                offer.status = "missing extra"
                offer.problem = (
                    f"needs {', '.join(lacking)}: pip install '{offer.distribution}[{offer.provider.extra}]'"
                )

    def _mark_clashes(self) -> None:
        for offer in self.offers:
            twins = [
                o.plugin
                for o in self.offers
                if (o.role, o.provider.name) == (offer.role, offer.provider.name)
            ]
            if len(twins) > 1:
                offer.status = "clash"
                offer.problem = f"offered by {' and by '.join(sorted(twins))}"

    def _broken(self, plugin: Plugin) -> PluginError:
        return PluginError(
            f"Plugin {plugin.name} {plugin.version} is broken: {plugin.problem}.",
            place="plugins",
            cure=f'Mend it, remove it, or block it: [plugins] block = ["{plugin.name}"].',
        )

    def _check_class(self, offer: Offer, provider: Any) -> None:
        api = getattr(provider, "API", None)
        if api != spi.API:
            offer.status, offer.problem = "wrong API", f"made for API {api}, this is API {spi.API}"
            raise PluginError(
                f"Provider '{offer.provider.name}' of {offer.plugin} was made for API {api}; this is API {spi.API}.",
                place=offer.role,
                cure=f"Install a version of {offer.distribution} that fits, or another artstore.",
            )
        settings = getattr(provider, "Settings", None)
        if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
            offer.status, offer.problem = "broken", "its class has no Settings (a pydantic model)"
            raise PluginError(
                f"Provider '{offer.provider.name}' of {offer.plugin}: {offer.problem}.", place=offer.role
            )


def plugin_rows(registry: Registry, settings: Settings) -> list[dict[str, Any]]:
    """Every offer, and every plugin that could not make one, as plain values."""
    used = {role: registry.used(role, getattr(settings, role)) for role in HOOKS}
    rows: list[dict[str, Any]] = [
        {
            "role": o.role,
            "name": o.provider.name,
            "chosen": o.provider.name in used[o.role],
            "plugin": o.plugin,
            "distribution": o.distribution,
            "version": o.version,
            "status": o.status,
            "summary": o.provider.summary,
            "problem": o.problem,
            "allows_missing_guarantees": _allows_missing_guarantees(o, settings),
        }
        for o in sorted(registry.offers, key=lambda o: (list(HOOKS).index(o.role), o.provider.name, o.plugin))
    ]
    silent = [p for p in registry.plugins if p.status != "ok"]
    return rows + [
        {
            "role": None,
            "name": None,
            "chosen": False,
            "plugin": p.name,
            "distribution": p.distribution,
            "version": p.version,
            "status": p.status,
            "summary": "",
            "problem": p.problem,
            "allows_missing_guarantees": False,
        }
        for p in silent
    ]


def _allows_missing_guarantees(offer: Offer, settings: Settings) -> bool:
    """Whether the operator took a provider that promises less than it should."""
    tables: Tables = getattr(settings, offer.role)
    name = offer.provider.name
    said = tables.table(name).get("allow_missing_guarantees", False) if name in tables.chosen() else False
    return str(said).lower() in ("true", "1", "yes", "on")


def _new_hooks() -> pluggy.PluginManager:
    hooks = pluggy.PluginManager(GROUP)
    hooks.add_hookspecs(hookspecs)
    return hooks


def _offers(plugin: Plugin, module: object) -> Iterable[Offer]:
    if not isinstance(module, ModuleType) and not hasattr(module, "__dict__"):
        raise TypeError(f"an entry point of '{GROUP}' names a module, not {module!r}")
    for role, hook in HOOKS.items():
        function = getattr(module, hook, None)
        if function is None:
            continue
        for provider in function():
            if not isinstance(provider, Provider):
                raise TypeError(f"{hook}() must give Provider records, not {provider!r}")
            yield Offer(
                role=role,
                provider=provider,
                plugin=plugin.name,
                distribution=plugin.distribution,
                version=plugin.version,
            )
