"""The wall: a provider that breaks its contract is told by its name, and harms nobody else."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from artstore.errors import Conflict, ProviderFault
from artstore.host import guard
from artstore.host.guard import ROOMS, guarded
from artstore.spi import Page, Principal, Query, Reader, Span, SupportsIssue, Totals
from artstore.testing import MemoryBackend, MemoryCache, StaticAuth
from artstore.testing.backend import DATA, KEY, SIDECAR, get, put

WHO = "The backend 'tape' of acme:x"


def spoilt(kind: type, method: str, gives: Any = None, raises: BaseException | None = None) -> Any:
    """A provider that is well but for one method."""

    def broken(self: Any, *args: Any, **named: Any) -> Any:
        if raises is not None:
            raise raises
        return gives

    return type(kind.__name__, (kind,), {method: broken})()


def test_what_is_well_is_handed_on() -> None:
    backend = guarded(MemoryBackend(), "backend", WHO)
    put(backend)
    assert get(backend) == DATA
    assert backend.read_sidecar(KEY) == SIDECAR
    assert backend.read_document("none") is None
    assert [e.key for e in backend.list("2025/01/11/15")] == [KEY]
    assert backend.capabilities == MemoryBackend.capabilities
    with pytest.raises(Conflict):
        put(backend)
    auth = guarded(StaticAuth(), "auth", "a")
    assert isinstance(auth, SupportsIssue)
    assert auth.authenticate(auth.issue(user="u", roles=["user"], seconds=9)).name == "u"


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyError("k"), OSError(5, "I/O"), SystemExit(3), AssertionError()]
)
def test_a_foreign_error_is_a_fault_with_a_name(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    backend = guarded(spoilt(MemoryBackend, "create", raises=error), "backend", WHO)
    with pytest.raises(ProviderFault) as fault:
        backend.create(KEY)
    assert WHO in fault.value.detail
    assert type(error).__name__ in fault.value.detail
    assert "boom" not in fault.value.detail  # what it says may be a secret: it is for the log
    assert fault.value.__cause__ is error
    assert f"{WHO} broke its contract in create()" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(("role", "kind", "method", "arguments", "gives"), [
    ("backend", MemoryBackend, "create", (KEY,), None),
    ("backend", MemoryBackend, "create", (KEY,), "a writer"),
    ("backend", MemoryBackend, "read", (KEY,), None),
    ("backend", MemoryBackend, "sidecar", (KEY,), None),
    ("backend", MemoryBackend, "sidecar", (KEY,), "text"),
    ("backend", MemoryBackend, "record", ("element.json",), "text"),
    ("backend", MemoryBackend, "space", (), None),
    ("backend", MemoryBackend, "free_bytes", (), "much"),
    ("backend", MemoryBackend, "age", (KEY,), "old"),
    ("backend", MemoryBackend, "scan", ("d",), None),
    ("cache", MemoryCache, "key", ("id",), 5),
    ("cache", MemoryCache, "search", (Query(),), None),
    ("cache", MemoryCache, "search", (Query(),), Page(items=["row"], next=None)),  # type: ignore[list-item]
    ("cache", MemoryCache, "totals", (), (1, 2)),
    ("cache", MemoryCache, "totals", (), Totals("1", 2)),  # type: ignore[arg-type]
    ("cache", MemoryCache, "directory", ("d",), []),
    ("auth", StaticAuth, "authenticate", ("t",), None),
    ("auth", StaticAuth, "authenticate", ("t",), True),
    ("auth", StaticAuth, "authenticate", ("t",), Principal(id=1, name="n")),  # type: ignore[arg-type]
    ("auth", StaticAuth, "authenticate", ("t",), Principal(id="1", name="n", scopes=["files:read"])),  # type: ignore[arg-type]
])  # fmt: skip
def test_a_result_of_another_type_is_a_fault(
    role: str, kind: type, method: str, arguments: Any, gives: Any
) -> None:
    provider = guarded(spoilt(kind, method, gives=gives), role, WHO)
    with pytest.raises(ProviderFault, match=f"{WHO} failed in {method}"):
        getattr(provider, method)(*arguments)


def test_an_iterator_that_fails_or_gives_nonsense_on_its_way() -> None:
    def scan(self: Any, directory: str) -> Any:
        yield "not an entry"

    def list_tombstones(self: Any) -> Any:
        yield KEY
        raise ValueError

    backend = guarded(
        type("Odd", (MemoryBackend,), {"scan": scan, "list_tombstones": tombstones})(), "backend", WHO
    )
    with pytest.raises(ProviderFault, match="scan"):
        list(backend.list("d"))
    keys = backend.list_tombstones()
    assert next(keys) == KEY
    with pytest.raises(ProviderFault, match="tombstones"):
        next(keys)


def test_what_a_provider_gives_is_behind_the_wall_too() -> None:
    class Broken:
        size, path = 3, None

        def pieces(self, span: Span) -> Any:
            yield b"a"
            yield "b"

        def close(self) -> None:
            raise RuntimeError

    backend = guarded(spoilt(MemoryBackend, "read", gives=Broken()), "backend", WHO)
    reader: Reader = backend.read(KEY)
    assert reader.size == 3
    with pytest.raises(ProviderFault, match="pieces"):
        list(reader.pieces(Span(0, 3)))
    reader.close()  # which never raises


def test_work_that_is_only_promised_is_a_fault() -> None:
    class Later:
        def __await__(self) -> Any: ...

    cache = guarded(spoilt(MemoryCache, "put", gives=Later()), "cache", WHO)
    with pytest.raises(ProviderFault, match="put"):
        cache.put([])


def test_half_a_provider_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ProviderFault, match=r"acme:x lacks create, .*close: it is no Backend"):
        guarded(object(), "backend", WHO)


def test_one_that_hangs_when_it_should_close_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "CLOSE_WITHIN", 0.05)
    hold = threading.Event()
    hanging = spoilt(MemoryBackend, "close", raises=None)
    hanging.close = hold.wait
    with caplog.at_level(logging.ERROR):
        guarded(hanging, "backend", WHO).close()
    assert f"{WHO} does not close" in caplog.text
    hold.set()
    guarded(spoilt(MemoryBackend, "close", raises=RuntimeError()), "backend", WHO).close()
    assert "broke its contract in close()" in caplog.text


def test_every_role_has_a_room() -> None:
    from artstore.host.plugins import HOOKS

    assert set(HOOKS) <= set(ROOMS)
