"""The guard around a provider: whatever breaks the contract carries the name of its plugin.

The contract in `artstore.spi` names the errors that a method raises and what it returns. Anything else is a bug of the
provider's author: it is logged with the provider's name and traceback, and the kernel sees a `ProviderFault`, which it
treats like a part that does not answer. What is returned is checked by its class alone, so that a call stays cheap; the
shipped suites check the rest. Two results are checked by their value too: who calls, because it decides what is allowed
and goes into logs and sidecars, and an address, because it goes into a header as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from functools import cache, partial
from types import NoneType
from typing import Any, NamedTuple

from artstore import spi
from artstore.errors import ArtstoreError, ProviderFault
from artstore.host.roles import ROLES

log = logging.getLogger("artstore.plugins")

CLOSE_TIMEOUT = 10.0
"""Seconds that a provider may take to close. After them the element closes without it."""

PROTOCOLS = {role.name: role.protocol for role in ROLES.values()}
"""What the providers of each role must do."""

_NEVER_RAISE = ("abort", "close")
"""Methods whose failure nobody can act on: it is logged only."""

_PRODUCTS = (spi.Writer, spi.Reader, spi.Intent, spi.AbandonedLog)
"""Protocols of objects that a provider makes. These objects are guarded as well."""

Classes = tuple[type, ...]


class Each(NamedTuple):
    """A method returns an iterable of instances of these classes."""

    classes: Classes


RETURNS: dict[str, Classes | Each] = {
    # naming
    "name": (spi.Name,),
    "parse": (spi.Parsed, NoneType),
    "carries": (bool,),
    "directory_of": (str, NoneType),
    "directory_at": (str,),
    "is_directory": (bool,),
    # backend, with its writers and readers
    "create": (spi.Writer,),
    "read": (spi.Reader,),
    "pieces": Each((bytes,)),
    "read_sidecar": (bytes,),
    "list": Each((spi.Entry,)),
    "list_directories": Each((str,)),  # of a cache too
    "read_document": (bytes, NoneType),
    "free_bytes": (int, NoneType),
    "list_tombstones": Each((str,)),
    "age": (float, int),
    "in_progress": Each((str,)),
    "recover": Each((spi.Recovered,)),
    "resolve": (bool,),
    "is_sole_writer": (bool,),
    "rekey": Each((str,)),
    "redirect": (str, NoneType),
    # cache
    "key": (str, NoneType),
    "search": (spi.Page,),
    "ids_in": (dict,),
    "entries_in": Each((tuple,)),
    "totals": (spi.Totals,),
    "generation": (str, NoneType),
    # log and coordination
    "begin": (spi.Intent,),
    "position": (object,),
    "abandoned": Each((spi.AbandonedLog,)),
    "transactions": (list,),
    "exclusive": (AbstractContextManager,),
    "any_dirty": (bool,),
    "open_uploads": (Sequence,),
    # auth
    "authenticate": (spi.Principal,),
    "issue": (str,),
}
"""What each method returns, by name: Protocols that share a name agree. Methods that are not listed return None."""


def _fault_of_principal(principal: spi.Principal) -> str | None:
    """Return what is wrong with a principal, or None. The name itself is not quoted: it could forge a line of a log."""
    for field in ("id", "name"):
        if not spi.is_user_name(getattr(principal, field)):
            return (
                f"it returned a principal whose {field} is not 1 to 255 characters without control characters"
            )
    if not isinstance(principal.scopes, AbstractSet):  # in a text, a scope would be found within another one
        return "it returned a principal whose scopes are not a set"
    return None


def _fault_of_address(url: str | None) -> str | None:
    if url is None or (url.isascii() and url.isprintable() and " " not in url):
        return None
    return "it returned an address with characters that a header cannot hold"


VALUES: dict[str, Callable[[Any], str | None]] = {
    "authenticate": _fault_of_principal,
    "redirect": _fault_of_address,
}
"""For methods whose result is checked by its value: what returns the fault of a value, or None."""


def wrap(provider: Any, role: str, owner: str) -> Any:
    """Return `provider`, guarded. `owner` names it in messages. Raises `ProviderFault` when methods are missing."""
    return Guard(provider, owner, (PROTOCOLS[role], *_optional_protocols(provider, role, owner)))


def _optional_protocols(provider: Any, role: str, owner: str) -> Iterator[type]:
    """Yield the optional Protocols that a provider keeps. Raises `ProviderFault` when it has half of one.

    With half a `Coordination` counted as none, nodes would not exclude each other any more, without a word.
    """
    for protocol in ROLES[role].optional:
        names = methods_of((protocol,))
        missing = [name for name in names if not callable(getattr(provider, name, None))]
        if not missing:
            yield protocol
        elif len(missing) < len(names):
            raise ProviderFault(f"{owner} lacks {', '.join(missing)}: it is half a {protocol.__name__}.")


class Guard:
    """A provider, or an object that it made. Attributes that are not methods are those of the guarded object."""

    def __init__(self, guarded: Any, owner: str, protocols: tuple[type, ...]) -> None:
        self._guarded = guarded
        self._owner = owner
        names = methods_of(protocols)
        missing = [name for name in names if not callable(getattr(guarded, name, None))]
        if missing:
            raise ProviderFault(f"{owner} lacks {', '.join(missing)}: it is not a {protocols[0].__name__}.")
        # Instance attributes cost least to call, and `isinstance` finds them when it is asked for a Protocol. They do
        # not refer to the guard, so that it is freed without the garbage collector: each upload makes several.
        for name in names:
            setattr(self, name, _guard_method(getattr(guarded, name), name, owner))
        if "close" in names and protocols[0] not in _PRODUCTS:
            self.close = partial(_close_in_time, guarded, owner)

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._guarded, name)
        except (ArtstoreError, AttributeError):
            raise
        except (Exception, SystemExit) as e:
            raise _fault(self._owner, name, type(e).__name__, e) from e


def _guard_method(method: Callable[..., Any], name: str, owner: str) -> Callable[..., Any]:
    check = checker(name)

    def call(*args: Any, **named: Any) -> Any:
        try:
            value = method(*args, **named)
        except ArtstoreError:
            raise
        except (Exception, SystemExit) as e:
            fault = _fault(owner, f"{name}()", type(e).__name__, e)
            if name in _NEVER_RAISE:
                return None
            raise fault from e
        return check(owner, value)

    return call


def _close_in_time(provider: Any, owner: str) -> None:
    """Close a provider in a thread of its own, so that one that hangs does not keep the others from closing."""

    def close() -> None:
        try:
            provider.close()
        except (Exception, SystemExit) as e:
            _fault(owner, "close()", type(e).__name__, e)

    thread = threading.Thread(target=close, name="close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        close()
        return
    thread.join(CLOSE_TIMEOUT)
    if thread.is_alive():
        log.error("%s did not close within %g seconds: the element closes without it", owner, CLOSE_TIMEOUT)


def _fault(owner: str, where: str, what: str, cause: BaseException | None = None) -> ProviderFault:
    """Log a breach of the contract, and return it as an error. The text of `cause` may be secret: it is only logged."""
    shown = f"{what}: {cause}" if cause is not None else what
    log.error("%s broke its contract in %s: %s", owner, where, shown, exc_info=cause)
    return ProviderFault(f"{owner} failed in {where}: {what}.")


@cache
def methods_of(protocols: tuple[type, ...]) -> tuple[str, ...]:
    """Return the names of the methods of these Protocols, inherited ones included."""
    names = {
        name: None
        for protocol in protocols
        for kind in protocol.__mro__
        for name, method in vars(kind).items()
        if callable(method) and not name.startswith("_")
    }
    return tuple(names)


# --- what comes back --------------------------------------------------------------------------------------

_Check = Callable[[str, Any], Any]


@cache
def checker(name: str) -> _Check:
    """Return the function that checks what the method `name` returned, and hands it on or guards it."""
    returns = RETURNS.get(name)
    if returns is None:
        return lambda owner, value: _check_nothing(owner, name, value)
    if isinstance(returns, Each):
        check_item = _value_checker(name, returns.classes)
        return lambda owner, value: _check_iterable(owner, name, value, check_item)
    return _value_checker(name, returns)


def _value_checker(name: str, classes: Classes) -> _Check:
    if classes[0] in _PRODUCTS:
        return lambda owner, value: _guard_product(owner, name, value, classes[0])

    fault_of = VALUES.get(name)

    def check(owner: str, value: Any) -> Any:
        if not isinstance(value, classes):
            raise _wrong_class(owner, name, value, classes)
        if fault_of is not None:
            fault = fault_of(value)
            if fault is not None:
                raise _fault(owner, f"{name}()", fault)
        return value

    return check


def _check_nothing(owner: str, name: str, value: Any) -> None:
    # What is returned in place of None does no harm, unless the work is still to be done (`async def`).
    if value is not None and isinstance(value, Awaitable):
        raise _wrong_class(owner, name, value, (NoneType,))


def _check_iterable(owner: str, name: str, value: Any, check_item: _Check) -> Iterator[Any]:
    if not isinstance(value, Iterable):
        raise _fault(owner, f"{name}()", f"it returned {type(value).__name__}, not an iterator")
    return _check_items(owner, name, iter(value), check_item)


def _check_items(owner: str, name: str, items: Iterator[Any], check_item: _Check) -> Iterator[Any]:
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except ArtstoreError:
            raise
        except (Exception, SystemExit) as e:
            raise _fault(owner, f"{name}()", type(e).__name__, e) from e
        yield check_item(owner, item)


def _guard_product(owner: str, name: str, value: Any, product: type) -> Guard:
    try:
        return Guard(value, owner, (product,))
    except ProviderFault:
        raise _wrong_class(owner, name, value, (product,)) from None


def _wrong_class(owner: str, name: str, value: Any, classes: Classes) -> ProviderFault:
    expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in classes)
    return _fault(owner, f"{name}()", f"it returned {type(value).__name__}, not {expected}")
