"""The door: what a plugin may offer and what it may hear.

A plugin is any module named by an entry point of the group `artstore`. Its hooks *offer* providers as
cheap records; the operator picks one per role by name, and only that one is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pluggy

hookspec = pluggy.HookspecMarker("artstore")
hookimpl = pluggy.HookimplMarker("artstore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An offer: what fills a role, under the name an operator writes.

    `target` is `module:Class`, imported only when chosen; `extra` completes the advice
    `pip install 'distribution[extra]'` when that import fails for a missing library.
    """

    name: str
    target: str
    summary: str
    extra: str | None = None


@hookspec
def artstore_namings() -> Iterable[Provider]:
    """Offer namings: classes with the methods of `artstore.spi.Naming`."""
    raise NotImplementedError


@hookspec
def artstore_backends() -> Iterable[Provider]:
    """Offer backends: classes with the methods of `artstore.spi.Backend`."""
    raise NotImplementedError


@hookspec
def artstore_caches() -> Iterable[Provider]:
    """Offer caches: classes with the methods of `artstore.spi.Cache`."""
    raise NotImplementedError


@hookspec
def artstore_logs() -> Iterable[Provider]:
    """Offer logs that nodes share: classes with the methods of `artstore.spi.Log`."""
    raise NotImplementedError


@hookspec
def artstore_auths() -> Iterable[Provider]:
    """Offer auths: classes with the methods of `artstore.spi.Auth`."""
    raise NotImplementedError


@hookspec
def artstore_observers() -> Iterable[Provider]:
    """Offer observers: classes with the methods of `artstore.spi.Observer`. Each that has settings is told."""
    raise NotImplementedError
