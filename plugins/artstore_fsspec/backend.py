"""The backend `fsspec`: a store at any URL that fsspec understands, with what that file system can promise."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, SecretStr, field_serializer

from artstore.errors import ConfigError
from artstore.spi import Capabilities, Context
from artstore_fsspec.connections import Connections
from artstore_fsspec.files import FsspecObjects
from artstore_fsspec.protocols import connected, facts_of, protocol_of
from artstore_fsspec.streams import translated
from artstore_objects.backend import ObjectBackend


class FsspecBackend(ObjectBackend):
    """One store below a URL, for the processes of one home."""

    # Of any file system; that of a URL that is known promises more.
    capabilities = Capabilities(
        durable=False, atomic_sidecar=False, shared=False, lists_uploads=False, keys_reusable=False
    )

    class Settings(BaseModel, extra="forbid"):
        """`[backend.fsspec]`"""

        url: SecretStr
        """Such as `sftp://host/path`; secret, as it may hold a password."""
        options: dict[str, Any] = Field(default={}, repr=False)
        """What that file system is built with."""
        allow_missing_guarantees: bool = False
        """Take a file system that promises less than the contract asks."""
        grace: float = Field(default=86_400, gt=0)
        """Seconds after which no request of the past can come any more."""

        @field_serializer("options")
        def _hidden(self, options: dict[str, Any]) -> dict[str, str]:
            return dict.fromkeys(options, "**********")  # whichever of them is a password

    def __init__(self, settings: Settings, context: Context) -> None:
        url = settings.url.get_secret_value()
        protocol = protocol_of(url)
        facts = facts_of(protocol)
        self.capabilities = Capabilities(
            durable=facts.durable, atomic_sidecar=facts.whole, shared=False, multi_process=protocol != "memory",
            lists_uploads=False, keys_reusable=False,
        )  # fmt: skip
        weaker = self.capabilities.missing_guarantees()
        if weaker and not settings.allow_missing_guarantees:
            raise ConfigError(
                f"A file system '{protocol}' does not promise what a store has to: {' and '.join(weaker)}.",
                place="backend.fsspec.url",
                cure="Take another backend, or set backend.fsspec.allow_missing_guarantees = true and know what you lose.",
            )
        with translated("the store"):
            try:
                fs, root = connected(url, settings.options)
            except (ImportError, ValueError, TypeError) as e:
                raise ConfigError(
                    f"fsspec cannot open a store of the kind '{protocol}': {type(e).__name__}.",
                    place="backend.fsspec.url",
                    cure="Install the library for that protocol, and check url and options.",
                ) from e
        locks = context.state / "locks"
        if not context.read_only:
            locks.mkdir(mode=0o750, parents=True, exist_ok=True)
            with translated("the store"):
                fs.makedirs(root, exist_ok=True)
        connections = Connections(fs, lambda: connected(url, settings.options)[0], threads=facts.threads)
        super().__init__(FsspecObjects(connections, root, locks, staged=facts.staged), grace=settings.grace)
