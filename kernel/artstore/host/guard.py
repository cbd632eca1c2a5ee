"""The wall between the kernel and a provider.

What a provider raises or gives back that its contract in `spi.py` does not name is a bug of its author: it is
logged with the provider's name, and for the kernel it is a part that does not answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from artstore import spi
from artstore.errors import ArtstoreError, ProviderFault

log = logging.getLogger("artstore.plugins")

ROOMS: dict[str, type] = {
    "naming": spi.Naming,
    "backend": spi.Backend,
    "cache": spi.Cache,
    "wal": spi.Log,
    "auth": spi.Auth,
    "observer": spi.Observer,
}
CLOSE_WITHIN = 10.0
"""Seconds after which a provider that does not close is left behind."""

_QUIET = ("abort", "close")
"""What never raises: there is nobody left who could do anything about it."""


def guarded(provider: Any, role: str, who: str) -> Any:
    """`provider`, behind the wall. `who` names it in messages. Raises `ProviderFault` when methods are missing."""
    rooms = (ROOMS[role], *_abilities(type(provider)))  # type: ignore[arg-type]  # a type is hashable
    return _enclose(provider, rooms, who)


def _enclose(provider: Any, rooms: tuple[type, ...], who: str) -> Any:
    kind, names = _wall(rooms)
    missing = [name for name in names if not callable(getattr(provider, name, None))]
    if missing:
        raise ProviderFault(f"{who} lacks {', '.join(missing)}: it is no {rooms[0].__name__}.")
    return kind(provider, who)


class Wall:
    """A provider, or what it gave, whose faults carry its name. Attributes are those of what is behind."""

    def __init__(self, behind: Any, who: str) -> None:
        self._behind = behind
        self._who = who

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def _fault(self, where: str, what: str, cause: BaseException | None = None) -> ProviderFault:
        shown = f"{what}: {cause}" if cause is not None else what
        log.error("%s broke its contract in %s: %s", self._who, where, shown, exc_info=cause)
        return ProviderFault(f"{self._who} failed in {where}: {what}.")


@cache
def _abilities(provider: type) -> tuple[type, ...]:
    """The Protocols that a class of providers keeps beside that of its role."""
    optional = (value for name, value in vars(spi).items() if name.startswith("Supports"))
    return tuple(kind for kind in optional if issubclass(provider, kind))


@cache
def _wall(rooms: tuple[type, ...]) -> tuple[type[Wall], list[str]]:
    methods: dict[str, Any] = {}
    for room in rooms:
        for name, method in vars(room).items():
            if callable(method) and not name.startswith("_"):
                methods[name] = _method(name, get_type_hints(method).get("return", Any))
    if "close" in methods and rooms[0] in ROOMS.values():
        methods["close"] = _close
    return type(f"Wall{rooms[0].__name__}", (Wall,), methods), list(methods)


def _method(name: str, gives: Any) -> Callable[..., Any]:
    take = _taker(gives)

    def call(self: Any, *args: Any, **named: Any) -> Any:
        try:
            value = getattr(self._behind, name)(*args, **named)
        except ArtstoreError:
            raise
        except (Exception, SystemExit) as e:
            fault = self._fault(f"{name}()", type(e).__name__, e)
            if name in _QUIET:
                return None
            raise fault from e
        return take(self, name, value)

    return call


def _close(self: Any) -> None:
    """In a thread of its own: one that hangs must not keep the others from closing."""

    def close() -> None:
        try:
            self._behind.close()
        except (Exception, SystemExit) as e:
            self._fault("close()", type(e).__name__, e)

    thread = threading.Thread(target=close, name="close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is at its end
        close()
        return
    thread.join(CLOSE_WITHIN)
    if thread.is_alive():
        log.error("%s does not close: after %g seconds it is left behind", self._who, CLOSE_WITHIN)


# --- what comes back --------------------------------------------------------------------------------------

_Take = Callable[[Any, str, Any], Any]


@cache
def _taker(hint: Any) -> _Take:
    """What to do with a value that should be a `hint`: hand it on, or put it behind the wall as well."""
    if get_origin(hint) is Iterator:
        return _iterator(_taker(get_args(hint)[0]))
    if _is_room(hint):
        return lambda self, name, value: _given(self, name, value, hint)
    fits = _predicate(hint)

    def take(self: Any, name: str, value: Any) -> Any:
        if not fits(value):
            raise self._fault(f"{name}()", f"it gave {type(value).__name__}, not {_shown(hint)}")
        return value

    return take


def _given(self: Any, name: str, value: Any, room: type) -> Any:
    try:
        return _enclose(value, (room,), self._who)
    except ProviderFault:
        raise self._fault(
            f"{name}()", f"it gave {type(value).__name__}, which is no {room.__name__}"
        ) from None


def _iterator(take: _Take) -> _Take:
    def items(self: Any, name: str, found: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                item = next(found)
            except StopIteration:
                return
            except ArtstoreError:
                raise
            except (Exception, SystemExit) as e:
                raise self._fault(f"{name}()", type(e).__name__, e) from e
            yield take(self, name, item)

    def taken(self: Any, name: str, value: Any) -> Any:
        if not isinstance(value, Iterable):
            raise self._fault(f"{name}()", f"it gave {type(value).__name__}, not an iterator")
        return items(self, name, iter(value))

    return taken


def _is_room(hint: Any) -> bool:
    return getattr(hint, "_is_protocol", False) and getattr(hint, "__module__", "").startswith(
        f"{spi.__name__}."
    )


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("artstore.", "")


@cache
def _predicate(hint: Any) -> Callable[[Any], bool]:
    """Whether a value is a `hint`, as deep as costs nothing."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if hint in (None, NoneType):
        # What it gives instead is of no interest, unless the work is still to be done (`async def`).
        return lambda value: value is None or not hasattr(value, "__await__")
    if origin in (Union, UnionType):
        several = tuple(_is_none if p is NoneType else _predicate(p) for p in parts)
        return lambda value: any(fits(value) for fits in several)
    if origin is Literal:
        return lambda value: value in parts
    if origin in (list, Sequence, frozenset):
        kind, each = (Sequence if origin is Sequence else origin), _predicate(parts[0])
        return lambda value: isinstance(value, kind) and all(each(v) for v in value)
    if origin in (dict, Mapping, tuple):
        return lambda value: isinstance(value, origin)
    if hint is float:
        return lambda value: isinstance(value, float | int)
    if isinstance(hint, type) and hint.__module__.startswith(f"{spi.__name__}.") and _fields(hint):
        fields = _fields(hint)
        return lambda value: isinstance(value, hint) and all(fits(getattr(value, n)) for n, fits in fields)
    if isinstance(hint, type):
        return lambda value: isinstance(value, hint)
    return lambda value: True


def _is_none(value: Any) -> bool:
    return value is None


def _fields(kind: type) -> list[tuple[str, Callable[[Any], bool]]]:
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return [(name, _predicate(hint)) for name, hint in get_type_hints(kind).items()]
    return []
