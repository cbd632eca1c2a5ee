"""What every provider has: an API generation, a settings model, and a constructor `(settings, context)`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from artstore.limits import Size as Size  # noqa: PLC0414 - for the settings of providers

API = 1
"""The generation of this contract. A provider names the generation that it was written for."""
PIECE = 1 << 20
"""Bytes that are read, hashed or written at a time, everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a provider learns about the element that it serves."""

    home: Path
    files: Path
    """The store of an embedded element. Only a backend writes here."""
    state: Path
    """Caches, logs, and keys made at the first start. May be deleted while the element is stopped."""
    read_only: bool = False
    """The provider is opened to be inspected, perhaps while the element is being served. Then its constructor creates,
    recovers and claims nothing, and only methods that change nothing are called. A cache that does not exist yet, or a
    log in a database, raises `NotFound`."""
    expects_store: bool = False
    """This home has served its store before. When there is none, its volume may not be mounted: a backend then makes
    none in its place, and raises `artstore.errors.missing_store`, or lets the kernel miss `element.json`."""
    element_id: str = ""
    """Set for observers, which are built after the element id is known."""
    inner: Any = None
    """The provider that this one wraps and closes. It is given to a provider whose settings have a field `inner`,
    which holds the name of that provider."""


class NoSettings(BaseModel, extra="forbid"):
    """Settings of a provider that has none."""


class Configurable(Protocol):
    """A class of providers. It is built once per process, as `cls(settings, context)`."""

    API: ClassVar[int]
    """The generation of the contract that the class was written for."""
    Settings: ClassVar[type[BaseModel]]
    """The settings of the provider, with `extra="forbid"`. They are validated only when the provider is chosen."""
