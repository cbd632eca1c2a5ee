"""Observers in a kernel: each change is delivered, whatever fails or dies, and no request waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore import observers
from artstore.attr import Attr
from artstore.backlog import Backlog
from artstore.element import Element
from artstore.errors import ConfigError, Unavailable
from artstore.host.identity import establish
from artstore.host.providers import build_observers, open_registry
from artstore.host.settings import Configuration, Settings
from artstore.ids import Key, now
from artstore.kernel import Kernel
from artstore.ledger import Ledger
from artstore.limits import Limits
from artstore.locks import Locks
from artstore.modes import Mode
from artstore.observers import Observers, Queue
from artstore.parts import Parts
from artstore.spi import Change, SingleNode
from artstore.testing import MemoryCache, make_context
from artstore_local.backend import LocalBackend
from artstore_naming.dated import DatedNaming
from artstore_wal.log import FileIntent, FileLog
from support.servers import until
from support.uploads import BY, upload


class Recorder:
    """An observer that keeps what it received, and how much of it was flushed. `fault` may raise."""

    API = 1
    Settings = Settings

    def __init__(self, fault: Callable[[], None] = lambda: None) -> None:
        self.received: list[tuple[Change, str, int | None]] = []
        self.flushed = 0
        self.closed = False
        self.fault = fault

    def committed(self, op: Change, file_id: str, key: str, attr: Attr | None) -> None:
        self.fault()
        assert key
        self.received.append((op, file_id, attr.revision if attr else None))

    def flush(self) -> None:
        self.fault()
        self.flushed = len(self.received)

    def close(self) -> None:
        self.closed = True


class Home:
    """One element whose processes live and die here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache = MemoryCache()
        self.open: list[Kernel] = []

    def start(self, *recorders: Any) -> Kernel:
        context = make_context(self.path)
        backend = LocalBackend(LocalBackend.Settings(), context)
        locks = Locks(context.state / "locks")
        element = Element(backend, locks)
        establish(
            backend, locks, element_id=None, naming="dated", mode=Mode.EDIT, fallback_id="se-1", at=now()
        )
        parts = Parts(
            backend=backend,
            cache=self.cache,
            naming=DatedNaming(DatedNaming.Settings(), context),
            log=FileLog(FileLog.Settings(keep_hours=1, max_size=1 << 20), context),
            coordination=SingleNode(),
            locks=locks,
            element=element,
            limits=Limits(min_free=0),
        )
        queues = [Queue(f"{n}", observer) for n, observer in enumerate(recorders)]
        backlog, ledger = Backlog(parts, context.state / "index-pending"), Ledger(context.state / "space")
        kernel = Kernel(parts, backlog, ledger, Observers(queues))
        kernel.recover()
        self.open.append(kernel)
        return kernel

    def kill(self, kernel: Kernel) -> None:
        """As SIGKILL would: locks are released, nothing else is done."""
        for segment, _ in kernel.parts.log.position():
            segment.release()
        kernel.parts.backend._staging.close()
        for queue in kernel.observers._queues:
            with queue._changed:
                queue._events.clear()
                queue._delivered = queue._flushed
                queue._closing = True
                queue._changed.notify_all()
        self.open.remove(kernel)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    for kernel in made.open:
        kernel.close()
        kernel.observers.close()


def describe(kernel: Kernel, file_id: str, text: str) -> None:
    kernel.update(BY, file_id, lambda attr: {"description": text})


def delete(kernel: Kernel, file_id: str) -> None:
    kernel.delete(BY, file_id, lambda attr: None)


def test_every_change_is_delivered_in_order_and_once(home: Home) -> None:
    recorder = Recorder()
    kernel = home.start(recorder)
    one, two = upload(kernel), upload(kernel)
    describe(kernel, one.file_id, "x")
    describe(kernel, one.file_id, "x")  # changes nothing
    delete(kernel, one.file_id)
    assert kernel.observers.is_delivered()
    assert recorder.received == [
        ("upload", one.file_id, 1), ("upload", two.file_id, 1), ("update", one.file_id, 2), ("delete", one.file_id, 2),
    ]  # fmt: skip
    assert recorder.flushed == 4


def test_flushed_events_are_not_delivered_again(home: Home) -> None:
    kernel = home.start(Recorder())
    upload(kernel)
    kernel.background.flush()
    home.kill(kernel)
    again = Recorder()
    assert home.start(again).observers.is_delivered()
    assert again.received == []


def stuck() -> None:
    raise Unavailable("Not now.")


def test_undelivered_events_of_a_dead_process_are_delivered_at_the_next_start(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = home.start(Recorder(stuck))
    one, two, three = (upload(kernel, name=f"{n}.txt") for n in range(3))
    describe(kernel, two.file_id, "x")
    delete(kernel, three.file_id)
    with monkeypatch.context() as patch:
        patch.setattr(observers, "DELIVERY_TIMEOUT", 0.05)
        kernel.background.flush()  # which may not forget them
    home.kill(kernel)
    recorder = Recorder()
    assert home.start(recorder).observers.is_delivered()
    assert set(recorder.received) == {
        ("upload", one.file_id, 1), ("update", two.file_id, 2), ("delete", three.file_id, None),
    }  # fmt: skip
    last = Recorder()
    assert home.start(last).observers.is_delivered()
    assert last.received == []


class Death(BaseException):
    """The process is gone before it takes a step."""


@pytest.mark.parametrize("op", ["upload", "update", "delete"])
@pytest.mark.parametrize("step", ["index entry", "queue", "end of the intent"])
def test_a_change_is_delivered_wherever_its_process_died(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str, op: str
) -> None:
    kernel = home.start(Recorder())
    one = upload(kernel)
    kernel.background.flush()

    def die(*_: Any, **__: Any) -> None:
        raise Death

    with monkeypatch.context() as patch:
        if step == "index entry":
            patch.setattr(kernel.parts.cache, "remove" if op == "delete" else "put", die)
        elif step == "queue":
            patch.setattr(kernel.observers, "deliver", die)
        else:
            patch.setattr(FileIntent, "commit", die)
        change: dict[str, Callable[[], Any]] = {
            "upload": lambda: upload(kernel, name="new.txt"),
            "update": lambda: describe(kernel, one.file_id, "new"),
            "delete": lambda: delete(kernel, one.file_id),
        }
        with pytest.raises(Death):
            change[op]()
    home.kill(kernel)
    recorder = Recorder()
    again = home.start(recorder)
    assert again.observers.is_delivered()
    ((delivered, file_id, revision),) = recorder.received
    assert delivered == op
    assert revision == {"upload": 1, "update": 2, "delete": None}[op]
    if op == "upload":
        assert again.attr(file_id).original_filename == "new.txt"
    else:
        assert file_id == one.file_id


def test_a_live_process_delivers_the_events_of_a_dead_one(home: Home) -> None:
    recorder = Recorder()
    alive = home.start(recorder)
    dead = home.start(Recorder(stuck))
    one = upload(dead)
    home.kill(dead)
    alive.background.recover()
    assert recorder.received == [("upload", one.file_id, 1)]


def test_the_log_of_a_dead_process_is_kept_while_observers_fail(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "DELIVERY_TIMEOUT", 0.05)
    first = home.start(Recorder(stuck))
    one = upload(first)
    home.kill(first)
    second = home.start(Recorder(stuck))
    assert second.attr(one.file_id) == one  # the element goes on
    home.kill(second)
    monkeypatch.undo()
    recorder = Recorder()
    assert home.start(recorder).observers.is_delivered()
    assert recorder.received == [("upload", one.file_id, 1)]


def test_an_observer_that_is_always_behind_receives_everything_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is checkpointed as far as the observer came, though more is queued at each flush."""
    monkeypatch.setattr(observers, "RETRY", 0.01)
    turns = threading.Semaphore(0)

    def wait() -> None:
        if not turns.acquire(blocking=False):
            raise Unavailable("Not now.")

    kernel = home.start(Recorder(wait))
    for _ in range(2):
        upload(kernel)
        kernel.background.flush(wait=False)
    turns.release(3)  # two events and a flush
    until(lambda: kernel.observers.has_flushed([2]), "the first events to be flushed")
    last = upload(kernel)
    kernel.background.flush(wait=False)
    home.kill(kernel)
    recorder = Recorder()
    assert home.start(recorder).observers.is_delivered()
    assert recorder.received == [("upload", last.file_id, 1)]


def test_a_file_that_changed_often_is_delivered_again_for_each_change(home: Home) -> None:
    """One line for its present state is all that is left of its changes."""
    kernel = home.start(Recorder(stuck))
    one = upload(kernel)
    for n in range(3):
        describe(kernel, one.file_id, f"{n}")
    home.kill(kernel)
    home.cache = MemoryCache()  # so that recovery also finds that the entry is missing
    home.cache.set_generation("another")
    recorder = Recorder()
    assert home.start(recorder).observers.is_delivered()
    assert recorder.received == [("update", one.file_id, 4)]


def test_failed_deliveries_are_repeated_in_order(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "RETRY", 0.01)
    troubles = iter([Unavailable("Not now."), None, None, Unavailable("Nor now.")])

    def fault() -> None:
        if trouble := next(troubles, None):
            raise trouble

    recorder = Recorder(fault)
    kernel = home.start(recorder)
    made = [upload(kernel) for _ in range(5)]
    assert kernel.observers.is_delivered()
    assert [file_id for _, file_id, _ in recorder.received] == [attr.file_id for attr in made]


def test_a_faulty_or_hanging_observer_delays_no_other(
    monkeypatch: pytest.MonkeyPatch, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    def hang() -> None:
        gate.wait(30)

    def fail() -> None:
        raise RuntimeError("oops")

    recorder = Recorder()
    kernel = home.start(Recorder(fail), Recorder(hang), recorder)
    monkeypatch.setattr(
        observers, "DELIVERY_TIMEOUT", 0.05
    )  # for the one that never flushes, at the end of `home` too
    begun = time.monotonic()
    made = [upload(kernel) for _ in range(3)]
    until(lambda: len(recorder.received) == 3, "the third one to receive all")
    assert time.monotonic() - begun < 20
    gate.set()
    assert [kernel.attr(attr.file_id) for attr in made] == made
    until(lambda: caplog.text.count("missed the upload of") == 3, "its faults to be logged")
    assert "RuntimeError: oops" in caplog.text


def test_what_a_full_queue_rejects_is_delivered_at_the_next_start(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observers, "QUEUE_LIMIT", 3)
    monkeypatch.setattr(observers, "DELIVERY_TIMEOUT", 0.05)
    gate = threading.Event()
    slow = Recorder(lambda: gate.wait(30) and None)
    kernel = home.start(slow)
    made = [upload(kernel, name=f"{n}.txt") for n in range(8)]
    gate.set()
    until(lambda: len(slow.received) == 3, "the queue to be delivered")
    assert not kernel.observers.is_delivered()
    assert caplog.text.count("is too slow") == 1
    home.open.remove(kernel)
    kernel.close()  # in peace; the log is kept all the same
    kernel.observers.close()
    home.cache = MemoryCache()
    recorder = Recorder()
    monkeypatch.undo()
    assert home.start(recorder).observers.is_delivered()
    assert {file_id for _, file_id, _ in recorder.received} == {attr.file_id for attr in made}


def test_queued_events_are_delivered_before_the_end(home: Home) -> None:
    recorder = Recorder()
    kernel = home.start(recorder)
    attr = upload(kernel)
    home.open.remove(kernel)
    kernel.close()
    kernel.observers.close()
    assert recorder.received == [("upload", attr.file_id, 1)]
    assert recorder.closed


def test_an_update_in_doubt_that_happened_is_delivered(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    kernel = home.start(recorder)
    one = upload(kernel)
    replace = kernel.parts.backend.replace_sidecar

    def late(*arguments: Any, **more: Any) -> None:
        replace(*arguments, **more)
        raise Unavailable("The store did not answer in time.")

    monkeypatch.setattr(kernel.parts.backend, "replace_sidecar", late)
    with pytest.raises(Unavailable):
        describe(kernel, one.file_id, "x")
    kernel.background.drain()
    assert kernel.observers.is_delivered()
    assert ("update", one.file_id, 2) in recorder.received


def test_a_file_does_not_change_between_its_reading_and_its_redelivery(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the observers would receive the newer state first, and the older one as the last."""
    kernel = home.start(Recorder())
    one = upload(kernel)
    backend, locks = kernel.parts.backend, kernel.parts.locks
    read, read_keys = backend.read_sidecar, list[str]()

    def read_and_change(key: Key) -> bytes:
        with pytest.raises(Unavailable, match="holds a lock"), locks.file(one.file_id, timeout=0):
            pytest.fail("the file can be changed")
        read_keys.append(key)
        return read(key)

    monkeypatch.setattr(backend, "read_sidecar", read_and_change)
    kernel.observers.redeliver_current(backend, locks, one.file_id, one.key)
    assert read_keys == [one.key]


def test_observers_with_settings_are_built(tmp_path: Path) -> None:
    def build(tables: dict[str, Any]) -> Observers:
        configuration = Configuration(
            home=tmp_path, file=None, settings=Settings.model_validate({"observer": tables})
        )
        return build_observers(configuration, open_registry(configuration.settings), make_context(tmp_path))

    assert not build({})
    with pytest.raises(ConfigError, match="There is no observer 'webhok' to set") as caught:
        build({"webhok": {}})
    assert caught.value.place == "[observer.webhok]"
