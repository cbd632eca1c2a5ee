"""The adapters that granian can serve, and what the server has to know about each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from artstore.host.settings import Configuration

DEFAULT = "starlette"
"""The adapter of an element that names none."""


class Adapter(NamedTuple):
    """An adapter. `name` is what an operator writes, and the library that the adapter needs."""

    name: str
    module: str
    """Where `create_app` is."""
    interface: Literal["asgi", "wsgi"]
    body_buffer: int
    """Bytes of a request body that granian may receive ahead of the app."""


ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        # Each piece that is handed over wakes three threads. With 1 MiB a large plain upload took a third more
        # processor time than with 4 MiB; with more, fast clients would hold more memory.
        Adapter("starlette", "artstore_starlette.app", "asgi", body_buffer=4 << 20),
        # Here 1 MiB was the fastest.
        Adapter("falcon", "artstore_falcon.app", "wsgi", body_buffer=1 << 20),
    )
}


def choose_adapter(configuration: Configuration) -> Adapter:
    """Return the adapter that `server.adapter` names. Nothing is imported for it. Raises `ConfigError`."""
    from artstore.errors import ConfigError
    from artstore.host.settings import place_of

    name = configuration.settings.server.adapter or DEFAULT
    if name not in ADAPTERS:
        known = " or ".join(f"'{known}'" for known in ADAPTERS)
        raise ConfigError(
            f"must be {known} (it is {name!r}).",
            place=place_of("server", ["adapter"], configuration.sources),
            cure="See docs/configuration.md.",
        )
    return ADAPTERS[name]
