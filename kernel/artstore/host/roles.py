"""The roles of an element: which hook offers their providers, and which Protocol those providers keep."""

from __future__ import annotations

from dataclasses import dataclass

from artstore import spi


@dataclass(frozen=True, slots=True)
class Role:
    """A part of an element that a plugin can provide. `name` is also the name of its setting."""

    name: str
    hook: str
    """The hook of `artstore.hookspecs` by which plugins offer providers of this role."""
    protocol: type
    """What every provider of this role does."""
    default: str | None
    """The provider of an element that names none. None: the role may have any number of providers, and those that have
    settings are used."""
    optional: tuple[type, ...] = ()
    """What a provider of this role may do besides."""


ROLES = {
    role.name: role
    for role in (
        Role("naming", "artstore_namings", spi.Naming, "dated"),
        Role(
            "backend",
            "artstore_backends",
            spi.RecoverableBackend,
            "local",
            (spi.SupportsRedirect, spi.SupportsRekey),
        ),
        Role("cache", "artstore_caches", spi.Cache, "sql", (spi.SupportsClaim,)),
        Role("wal", "artstore_logs", spi.Log, "files", (spi.Coordination, spi.SupportsClaim)),
        Role("auth", "artstore_auths", spi.Auth, "jwt", (spi.SupportsIssue,)),
        Role("observer", "artstore_observers", spi.Observer, None),
    )
}
