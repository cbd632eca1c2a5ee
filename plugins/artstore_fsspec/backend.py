"""The backend `fsspec`: a store at any URL that fsspec understands. It guarantees what that file system can."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, SecretStr, field_serializer

from artstore.errors import ConfigError
from artstore.spi import Capabilities, Context
from artstore_fsspec.connections import Connections
from artstore_fsspec.files import FsspecStore
from artstore_fsspec.namespace import Namespace, translate_errors
from artstore_fsspec.protocols import connect, facts_of, protocol_of
from artstore_objects.backend import ObjectBackend


class FsspecBackend(ObjectBackend):
    """One store below a URL, for the processes of one home. The protocol is in `artstore_objects.backend`."""

    # What any file system guarantees. A known protocol guarantees more, see `__init__`.
    capabilities = Capabilities(
        durable=False, atomic_sidecar=False, shared=False, lists_uploads=False, keys_reusable=False
    )

    class Settings(BaseModel, extra="forbid"):
        """`[backend.fsspec]`"""

        url: SecretStr
        """For example `sftp://host/path`. Secret, because it may hold a password."""
        options: dict[str, Any] = Field(default={}, repr=False)
        """Arguments for the file system."""
        allow_missing_guarantees: bool = False
        """Accept a file system that guarantees less than the contract of a backend asks."""
        tombstone_retention: float = Field(default=86_400, gt=0)
        """Seconds after which a request of the past cannot arrive any more: until then a deleted key stays taken."""

        @field_serializer("options")
        def _hide_values(self, options: dict[str, Any]) -> dict[str, str]:
            return dict.fromkeys(options, "**********")  # any of them may be a password

    def __init__(self, settings: Settings, context: Context) -> None:
        url = settings.url.get_secret_value()
        protocol = protocol_of(url)
        facts = facts_of(protocol)
        self.capabilities = Capabilities(
            durable=facts.durable, atomic_sidecar=facts.atomic, shared=False, multi_process=protocol != "memory",
            lists_uploads=False, keys_reusable=False,
        )  # fmt: skip
        missing = self.capabilities.missing_guarantees()
        if missing and not settings.allow_missing_guarantees:
            raise ConfigError(
                f"A file system '{protocol}' does not guarantee what a store has to: {' and '.join(missing)}.",
                place="backend.fsspec.url",
                cure="Choose another backend, or set backend.fsspec.allow_missing_guarantees = true to do without.",
            )
        with translate_errors("the store"):
            try:
                fs, root = connect(url, settings.options)
            except (ImportError, ValueError, TypeError) as e:
                raise ConfigError(
                    f"fsspec cannot open a store of the kind '{protocol}': {type(e).__name__}.",
                    place="backend.fsspec.url",
                    cure="Install the library for that protocol, and check url and options.",
                ) from e
        locks = context.state / "locks"
        if not context.read_only:
            locks.mkdir(mode=0o750, parents=True, exist_ok=True)
            if not context.expects_store:
                with translate_errors("the store"):
                    fs.makedirs(root, exist_ok=True)
        connections = Connections(fs, lambda: connect(url, settings.options)[0], threads=facts.threads)
        names = Namespace(connections, root, locks, staged=facts.staged)
        super().__init__(FsspecStore(names), tombstone_retention=settings.tombstone_retention)
