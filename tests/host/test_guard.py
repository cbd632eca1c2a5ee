"""The guard: a provider that breaks its contract is named, and harms nothing else."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from artstore import spi
from artstore.errors import Conflict, ProviderFault, StorageFull
from artstore.host import guard
from artstore.host.guard import PROTOCOLS, RETURNS, Each, methods_of, wrap
from artstore.host.roles import ROLES
from artstore.spi import (
    Coordination,
    Log,
    NoSettings,
    Page,
    Query,
    Reader,
    SingleNode,
    Span,
    SupportsIssue,
    SupportsRedirect,
)
from artstore.testing import MemoryBackend, MemoryCache, StaticAuth
from artstore.testing.backend import DATA, KEY, SIDECAR, get, put

OWNER = "The backend 'tape' of acme:x"


def broken(kind: type, method: str, gives: Any = None, raises: BaseException | None = None) -> Any:
    """Return a provider that is correct but for one method."""

    def fail(self: Any, *args: Any, **named: Any) -> Any:
        if raises is not None:
            raise raises
        return gives

    return type(kind.__name__, (kind,), {method: fail})()


class MemoryLog(Log, SingleNode):
    """As much of a log as the guard looks at."""

    API = 1
    Settings = NoSettings

    def begin(self, operation: str, **named: Any) -> Any:
        return MemoryIntent()

    def position(self) -> int:
        return 7

    def checkpoint(self, position: Any) -> None: ...

    def abandoned(self) -> Iterator[Any]:
        yield MemoryAbandoned()

    def transactions(self, **named: Any) -> list[Any]:
        return []


class MemoryIntent(spi.Intent):
    def commit(self) -> None: ...

    def roll_back(self, error: str) -> None: ...

    def end_in_doubt(self, error: str) -> None: ...

    def sync(self) -> None:
        raise OSError(5, "I/O")


class MemoryAbandoned(spi.AbandonedLog):
    certainly_dead = True  # type: ignore[assignment]
    uncheckpointed = ()  # type: ignore[assignment]

    @property
    def pending(self) -> Any:
        raise KeyError("k")

    def end(self, transaction: Any, status: Any, error: str | None = None) -> None:
        raise ValueError

    def close(self) -> None: ...

    def release(self) -> None: ...


def test_a_correct_provider_works_as_without_a_guard() -> None:
    backend = wrap(MemoryBackend(), "backend", OWNER)
    put(backend)
    assert get(backend) == DATA
    assert backend.read_sidecar(KEY) == SIDECAR
    assert backend.read_document("none") is None
    assert [e.key for e in backend.list("2025/01/11/15")] == [KEY]
    assert backend.capabilities == MemoryBackend.capabilities
    with pytest.raises(Conflict):
        put(backend)
    assert not isinstance(backend, SupportsRedirect)
    auth = wrap(StaticAuth(), "auth", "a")
    assert isinstance(auth, SupportsIssue)
    assert auth.authenticate(auth.issue(user="u", roles=["user"], seconds=9)).name == "u"


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyError("k"), OSError(5, "I/O"), SystemExit(3), AssertionError()]
)
@pytest.mark.parametrize("method", ["create", "delete", "in_progress", "free_bytes"])
def test_a_foreign_exception_carries_the_name_of_the_plugin(
    method: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Also from a method that a Protocol inherits from another (`Backend`, `Recoverable`)."""
    backend = wrap(broken(MemoryBackend, method, raises=error), "backend", OWNER)
    with pytest.raises(ProviderFault) as fault:
        getattr(backend, method)()
    assert fault.value.detail == f"{OWNER} failed in {method}(): {type(error).__name__}."
    assert "boom" not in fault.value.detail  # the text may hold a secret: it goes to the log
    assert fault.value.__cause__ is error
    assert f"{OWNER} broke its contract in {method}()" in caplog.text
    assert "Traceback" in caplog.text


def test_a_foreign_exception_of_a_writer_carries_the_name_of_the_plugin() -> None:
    class Writer:
        def write(self, piece: bytes) -> None:
            raise OSError(28, "No space left on device")

        def publish(self, sidecar: bytes) -> None:
            raise StorageFull("No space.")

        def abort(self) -> None:
            raise RuntimeError

    backend = wrap(broken(MemoryBackend, "create", gives=Writer()), "backend", OWNER)
    writer: spi.Writer = backend.create(KEY)
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in write"):
        writer.write(b"x")
    with pytest.raises(StorageFull):
        writer.publish(b"{}")
    writer.abort()  # it never raises


def test_a_foreign_exception_of_a_reader_carries_the_name_of_the_plugin() -> None:
    class Broken:
        size, path = 3, None

        def pieces(self, span: Span) -> Any:
            yield b"a"
            yield "b"

        def close(self) -> None:
            raise RuntimeError

    backend = wrap(broken(MemoryBackend, "read", gives=Broken()), "backend", OWNER)
    reader: Reader = backend.read(KEY)
    assert (reader.size, reader.path) == (3, None)
    with pytest.raises(ProviderFault, match="pieces"):
        list(reader.pieces(Span(0, 3)))
    reader.close()  # it never raises


def test_a_foreign_exception_of_an_intent_or_an_abandoned_log_carries_the_name_of_the_plugin() -> None:
    log = wrap(MemoryLog(), "wal", OWNER)
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in sync"):
        log.begin("upload", by="u").sync()
    (abandoned,) = log.abandoned()
    assert abandoned.certainly_dead
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in end"):
        abandoned.end(None, "committed")
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in pending: KeyError"):
        _ = abandoned.pending
    assert log.position() == 7
    assert isinstance(log, Coordination)
    with log.exclusive("element"):
        assert log.open_uploads("id") == ()


@pytest.mark.parametrize(("role", "kind", "method", "arguments", "gives"), [
    ("backend", MemoryBackend, "create", (KEY,), None),
    ("backend", MemoryBackend, "create", (KEY,), "a writer"),
    ("backend", MemoryBackend, "read", (KEY,), None),
    ("backend", MemoryBackend, "read_sidecar", (KEY,), None),
    ("backend", MemoryBackend, "read_sidecar", (KEY,), "text"),
    ("backend", MemoryBackend, "read_document", ("element.json",), "text"),
    ("backend", MemoryBackend, "free_bytes", (), "much"),
    ("backend", MemoryBackend, "age", (KEY,), "old"),
    ("backend", MemoryBackend, "resolve", (KEY,), None),
    ("backend", MemoryBackend, "list", ("d",), None),
    ("cache", MemoryCache, "key", ("id",), 5),
    ("cache", MemoryCache, "search", (Query(),), None),
    ("cache", MemoryCache, "search", (Query(),), [Page(items=[], next=None)]),
    ("cache", MemoryCache, "totals", (), (1, 2)),
    ("cache", MemoryCache, "ids_in", ("d",), []),
    ("auth", StaticAuth, "authenticate", ("t",), None),
    ("auth", StaticAuth, "authenticate", ("t",), True),
    ("auth", StaticAuth, "authenticate", ("t",), {"id": "1"}),
    ("wal", MemoryLog, "begin", ("upload",), None),
    ("wal", MemoryLog, "transactions", (), None),
    ("wal", MemoryLog, "exclusive", ("element",), None),
])  # fmt: skip
def test_a_result_of_another_class_is_a_fault(
    role: str, kind: type, method: str, arguments: Any, gives: Any
) -> None:
    provider = wrap(broken(kind, method, gives=gives), role, OWNER)
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in {method}"):
        getattr(provider, method)(*arguments)


@pytest.mark.parametrize(("field", "value"), [
    ("name", "a\nFORGED"), ("name", "a\r"), ("name", "\x1b[2J"), ("name", "a\x00"), ("name", "\x85"),
    ("name", "\ud800"),
    ("name", ""), ("name", " "), ("name", "x" * 256), ("name", None), ("name", b"ivanov"), ("name", 7),
    ("id", "a\nFORGED"), ("id", ""), ("id", None), ("id", 42),
    ("scopes", "files:readonly"), ("scopes", ["files:read"]), ("scopes", None), ("scopes", {"files:read": True}),
])  # fmt: skip
def test_a_principal_that_could_forge_a_log_or_a_right_is_a_fault(
    field: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    right = {"id": "u-1", "name": "Иванов", "scopes": frozenset({"files:read"})}
    auth = wrap(broken(StaticAuth, "authenticate", gives=spi.Principal(**right)), "auth", OWNER)
    assert auth.authenticate("t").name == "Иванов"
    auth = wrap(
        broken(StaticAuth, "authenticate", gives=spi.Principal(**right | {field: value})), "auth", OWNER
    )
    with pytest.raises(ProviderFault, match=rf"{OWNER} failed in authenticate\(\): .* {field} "):
        auth.authenticate("t")
    assert "FORGED" not in caplog.text


@pytest.mark.parametrize(
    "url", ["http://h/\r\nSet-Cookie: a=b", "http://h/a b", "http://h/\x00", "http://h/ä"]
)
def test_an_address_that_could_forge_a_header_is_a_fault(url: str) -> None:
    class Elsewhere(MemoryBackend):
        def redirect(self, key: Any, *, content_type: str, disposition: str) -> str:
            return key

    backend = wrap(Elsewhere(), "backend", OWNER)
    assert (
        backend.redirect("https://h/a?b=%20", content_type="a/b", disposition="inline") == "https://h/a?b=%20"
    )
    with pytest.raises(ProviderFault, match=r"redirect\(\): it returned an address"):
        backend.redirect(url, content_type="a/b", disposition="inline")


def test_a_wrong_result_is_told_in_the_words_of_its_author(caplog: pytest.LogCaptureFixture) -> None:
    backend = wrap(broken(MemoryBackend, "read_document", gives="text"), "backend", OWNER)
    with pytest.raises(ProviderFault, match=r"it returned str, not bytes or None\."):
        backend.read_document("element.json")
    assert f"{OWNER} broke its contract in read_document(): it returned str, not bytes or None" in caplog.text
    with pytest.raises(ProviderFault, match=r"failed in create\(\): it returned NoneType, not Writer\."):
        wrap(broken(MemoryBackend, "create"), "backend", OWNER).create(KEY)


def test_an_iterator_that_fails_or_yields_another_class_in_the_middle() -> None:
    def list_entries(self: Any, directory: str) -> Any:
        yield "not an entry"

    def list_tombstones(self: Any) -> Any:
        yield KEY
        raise ValueError

    odd = type("Odd", (MemoryBackend,), {"list": list_entries, "list_tombstones": list_tombstones})
    backend = wrap(odd(), "backend", OWNER)
    with pytest.raises(ProviderFault, match=r"list\(\): it returned str, not Entry"):
        list(backend.list("d"))
    keys = backend.list_tombstones()
    assert next(keys) == KEY
    with pytest.raises(ProviderFault, match=f"{OWNER} failed in list_tombstones"):
        next(keys)


def test_an_asynchronous_method_is_a_fault() -> None:
    class Later:
        def __await__(self) -> Any: ...

    cache = wrap(broken(MemoryCache, "put", gives=Later()), "cache", OWNER)
    with pytest.raises(ProviderFault, match="put"):
        cache.put([])
    assert wrap(broken(MemoryCache, "put", gives="whatever"), "cache", OWNER).put([]) is None


def test_an_incomplete_provider_is_refused_with_the_methods_that_it_lacks() -> None:
    with pytest.raises(ProviderFault, match=r"acme:x lacks create, .*close.* resolve.*: it is not a Recov"):
        wrap(object(), "backend", OWNER)


def test_a_log_that_coordinates_nodes_by_half_is_refused() -> None:
    """Else the element would go on as if no other node were there, without a word."""

    class Wrapper:
        lacks: tuple[str, ...] = ()

        def __getattr__(self, name: str) -> Any:
            if name in self.lacks:
                raise AttributeError(name)
            return getattr(MemoryLog(), name)

    assert isinstance(wrap(Wrapper(), "wal", OWNER), Coordination)
    Wrapper.lacks = ("open_uploads",)
    with pytest.raises(ProviderFault, match=r"lacks open_uploads: it is half a Coordination"):
        wrap(Wrapper(), "wal", OWNER)
    Wrapper.lacks = methods_of((Coordination,))
    assert not isinstance(wrap(Wrapper(), "wal", OWNER), Coordination)


def test_a_log_that_inherits_half_of_the_coordination_cannot_be_built() -> None:
    class Half(Coordination):
        def exclusive(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
            return nullcontext()

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_provider_that_hangs_while_it_closes_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "CLOSE_TIMEOUT", 0.05)
    hold = threading.Event()
    hanging = MemoryBackend()
    hanging.close = hold.wait  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.ERROR):
        wrap(hanging, "backend", OWNER).close()
    assert f"{OWNER} did not close within 0.05 seconds" in caplog.text
    hold.set()
    wrap(broken(MemoryBackend, "close", raises=RuntimeError()), "backend", OWNER).close()
    assert "broke its contract in close()" in caplog.text


def test_a_guarded_writer_needs_no_garbage_collector() -> None:
    backend = wrap(MemoryBackend(), "backend", OWNER)
    gc.disable()
    try:
        writer = backend.create(KEY)
        freed = weakref.ref(writer)
        writer.abort()
        del writer
        assert freed() is None
    finally:
        gc.enable()


def test_the_table_of_results_agrees_with_the_contract() -> None:
    protocols = {p for role in ROLES.values() for p in (role.protocol, *role.optional)}
    seen = set()
    for protocol in protocols | set(guard._PRODUCTS):
        for name in methods_of((protocol,)):
            hint = get_type_hints(getattr(protocol, name))["return"]
            expected = RETURNS.get(name)
            seen.add(name)
            if hint is NoneType:
                assert expected is None, f"{protocol.__name__}.{name}"
                continue
            assert expected is not None, f"{protocol.__name__}.{name}"
            if isinstance(expected, Each):
                assert get_origin(hint) is Iterator, f"{protocol.__name__}.{name}"
                (hint,), expected = get_args(hint), expected.classes
            assert _classes(hint) <= set(expected), f"{protocol.__name__}.{name}"
    assert seen >= set(RETURNS)


def _classes(hint: Any) -> set[Any]:
    """Return the classes of a type hint, without what they contain."""
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(_classes, get_args(hint)))
    if hint is Any:
        return {object}
    if get_origin(hint) is Literal:
        return {str}
    return {getattr(hint, "__supertype__", None) or get_origin(hint) or hint}


def test_every_role_has_a_protocol() -> None:
    assert set(PROTOCOLS) == set(ROLES)
