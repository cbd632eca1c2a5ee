"""Finds plugins by their entry points, and providers by role and name. A broken plugin does not disturb the others.

This is our own loader: pluggy's stops at the first broken plugin, and lets one distribution replace a plugin of another
distribution that has the same name.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, requires
from types import ModuleType
from typing import Any, Literal

import pluggy
from pydantic import BaseModel

from artstore import hookspecs, spi
from artstore.errors import PluginError
from artstore.hookspecs import Provider
from artstore.host.roles import ROLES
from artstore.host.settings import suggestion

log = logging.getLogger("artstore.plugins")

GROUP = "artstore"
"""The group of entry points in which plugins are looked for."""
OUR_DISTRIBUTION = "artstore"

Status = Literal["ok", "blocked", "broken", "clash", "missing extra", "wrong API"]


@dataclass(slots=True, kw_only=True)
class Offer:
    """A provider that one plugin offers. `problem` says why it cannot be used."""

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


def _new_hooks() -> pluggy.PluginManager:
    hooks = pluggy.PluginManager(GROUP)
    hooks.add_hookspecs(hookspecs)
    return hooks


@dataclass(slots=True)
class Registry:
    """Every plugin that was found, and every provider that they offer."""

    plugins: list[Plugin] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    _hooks: pluggy.PluginManager = field(default_factory=_new_hooks)

    def load(
        self,
        found: Iterable[EntryPoint] | None = None,
        *,
        block: Iterable[str] = (),
        strict: bool = False,
        ours_only: bool = False,
    ) -> None:
        """Import the modules that the entry points name, and collect their offers.

        A plugin that cannot be imported is recorded as broken. Raises `PluginError` for one when `strict`, and for a
        name in `block` that no plugin has.
        """
        ours_only = ours_only or os.environ.get("ARTSTORE_PLUGINS", "").lower() == "none"
        blocked = set(block)
        points = set(entry_points(group=GROUP) if found is None else found)
        # Each access to a name or a version parses the metadata again: read them once for each distribution.
        versions = {d: (d.name, d.version) if d else ("", "") for d in {p.dist for p in points}}
        for point in sorted(points, key=lambda p: (versions[p.dist], p.name)):
            distribution, version = versions[point.dist]
            distribution = distribution or "unknown"
            plugin = Plugin(name=f"{distribution}:{point.name}", distribution=distribution, version=version)
            self.plugins.append(plugin)
            if plugin.name in blocked or (ours_only and distribution != OUR_DISTRIBUTION):
                plugin.status = "blocked"
                continue
            try:
                self.register(plugin, point.load())
            except (Exception, SystemExit) as e:  # a foreign module may do anything at import
                plugin.status, plugin.problem = "broken", f"{type(e).__name__}: {e}"
                log.warning("plugin %s is broken: %s", plugin.name, plugin.problem)
                if strict:
                    raise _broken_plugin(plugin) from e
        unknown = sorted(blocked - {p.name for p in self.plugins})
        if unknown:
            raise PluginError(
                f"There is no plugin '{unknown[0]}' to block.",
                place="plugins.block",
                cure=suggestion(unknown[0], [p.name for p in self.plugins]),
            )
        self._find_missing_extras()
        self._find_clashes()

    def register(self, plugin: Plugin, module: object) -> None:
        """Add a plugin and what it offers. Raises whatever its hooks raise; then nothing is added."""
        offers = list(_offers(plugin, module))
        try:
            self._hooks.register(module, plugin.name)
            self._hooks.check_pending()
        except Exception:
            self._hooks.unregister(name=plugin.name)  # or the check of every later plugin would fail
            raise
        self.offers += offers

    def choose(self, role: str, name: str, *, place: str = "") -> type[Any]:
        """Import and return the class of the provider `name` of a role. Raises `PluginError`.

        `place`: the setting that names the provider, unless it is the setting of the role.
        """
        offer = self.find_offer(role, name, place=place)
        module_name, _, class_name = offer.provider.target.partition(":")
        try:
            provider = getattr(importlib.import_module(module_name), class_name)
        except ImportError as e:
            offer.status, offer.problem = ("missing extra" if offer.provider.extra else "broken"), str(e)
            cure = (
                f"pip install '{offer.distribution}[{offer.provider.extra}]'" if offer.provider.extra else ""
            )
            raise PluginError(
                f"Provider '{name}' of {offer.plugin} cannot be imported: {e}.", place=role, cure=cure
            ) from e
        except (Exception, SystemExit) as e:
            offer.status, offer.problem = "broken", f"{type(e).__name__}: {e}"
            raise PluginError(
                f"Provider '{name}' of {offer.plugin} is broken: {offer.problem}.", place=role
            ) from e
        _check_class(offer, provider)
        if offer.status == "missing extra":  # it was imported, so what is installed is enough
            offer.status, offer.problem = "ok", ""
        return provider  # type: ignore[no-any-return]

    def find_offer(self, role: str, name: str, *, place: str = "") -> Offer:
        """Return the one offer of that name. Raises `PluginError` when there is none, or more than one."""
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

    def _find_missing_extras(self) -> None:
        """Note the offers whose extra is not installed, by the metadata alone: nothing is imported for it."""
        for offer in self.offers:
            extra = offer.provider.extra
            missing = sorted(missing_libraries(offer.distribution, extra)) if extra else []
            if missing:
                offer.status = "missing extra"
                offer.problem = f"needs {', '.join(missing)}: pip install '{offer.distribution}[{extra}]'"

    def _find_clashes(self) -> None:
        """Note the offers that have the role and the name of another one."""
        for offer in self.offers:
            same = [
                o.plugin
                for o in self.offers
                if (o.role, o.provider.name) == (offer.role, offer.provider.name)
            ]
            if len(same) > 1:
                offer.status = "clash"
                offer.problem = f"offered by {' and by '.join(sorted(same))}"


def _offers(plugin: Plugin, module: object) -> Iterator[Offer]:
    """Yield what the hooks of a module offer. Raises `TypeError` for anything that is not an offer."""
    if not isinstance(module, ModuleType) and not hasattr(module, "__dict__"):
        raise TypeError(f"an entry point of '{GROUP}' names a module, not {module!r}")
    for role in ROLES.values():
        hook = getattr(module, role.hook, None)
        if hook is None:
            continue
        for provider in hook():
            if not isinstance(provider, Provider):
                raise TypeError(f"{role.hook}() must give Provider records, not {provider!r}")
            yield Offer(
                role=role.name,
                provider=provider,
                plugin=plugin.name,
                distribution=plugin.distribution,
                version=plugin.version,
            )


def _check_class(offer: Offer, provider: Any) -> None:
    """Raise `PluginError` unless the class was made for this API and has a settings model."""
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


def _broken_plugin(plugin: Plugin) -> PluginError:
    return PluginError(
        f"Plugin {plugin.name} {plugin.version} is broken: {plugin.problem}.",
        place="plugins",
        cure=f'Repair it, remove it, or block it: [plugins] block = ["{plugin.name}"].',
    )


def missing_libraries(distribution: str, extra: str) -> Iterator[str]:
    """Yield the libraries of an extra that are not installed. Only metadata is read; nothing is imported."""
    try:
        requirements = requires(distribution) or []
    except PackageNotFoundError:
        return
    for requirement in requirements:
        library, _, condition = requirement.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", library)
        if name and re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            try:
                Distribution.from_name(name[0])
            except PackageNotFoundError:
                yield name[0]
