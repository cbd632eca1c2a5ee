"""What a plugin may offer: one hook for each role.

A plugin is a module that an entry point of the group `artstore` names. Its hooks *offer* providers as small records.
The operator chooses one for each role by its name, and only that one is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pluggy

hookspec = pluggy.HookspecMarker("artstore")
hookimpl = pluggy.HookimplMarker("artstore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An offer of a provider, under the name that an operator writes in the settings.

    `target` is `module:Class`, imported only when it is chosen. `extra`: what to install when that import fails because
    a library is missing, as in `pip install 'distribution[extra]'`.
    """

    name: str
    target: str
    summary: str
    extra: str | None = None


@hookspec
def artstore_namings() -> Iterable[Provider]:
    """Offer namings: classes that subclass `artstore.spi.Naming`."""
    raise NotImplementedError


@hookspec
def artstore_backends() -> Iterable[Provider]:
    """Offer backends: classes that subclass `artstore.spi.Backend`."""
    raise NotImplementedError


@hookspec
def artstore_caches() -> Iterable[Provider]:
    """Offer caches: classes that subclass `artstore.spi.Cache`."""
    raise NotImplementedError


@hookspec
def artstore_logs() -> Iterable[Provider]:
    """Offer write-ahead logs: classes that subclass `artstore.spi.Log`."""
    raise NotImplementedError


@hookspec
def artstore_auths() -> Iterable[Provider]:
    """Offer auths: classes that subclass `artstore.spi.Auth`."""
    raise NotImplementedError


@hookspec
def artstore_observers() -> Iterable[Provider]:
    """Offer observers: classes that subclass `artstore.spi.Observer`. Each that has settings is used."""
    raise NotImplementedError
