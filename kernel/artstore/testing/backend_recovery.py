"""Tests of what recovery needs of a store: dead processes, live ones, uploads in doubt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from artstore.errors import ArtstoreError, Conflict, PreconditionFailed
from artstore.spi import RecoverableBackend
from artstore.testing.backend_store import (
    DATA,
    KEY,
    LONGEST,
    SIDECAR,
    BackendFixtures,
    entries,
    get,
    key,
    put,
    smoke,
    together,
)


class BackendRecovery(BackendFixtures):
    """The promises of `Recoverable`, and what processes of one store see of each other."""

    @smoke
    def test_changes_outlive_the_process(
        self, backend: RecoverableBackend, reopen: Callable[[], RecoverableBackend] | None
    ) -> None:
        if reopen is None:
            return
        for n in range(3):
            put(backend, key(n), b"%d" % n)
        backend.replace_sidecar(key(0), b"new", if_match=SIDECAR)
        backend.delete(key(1), if_match=SIDECAR)
        backend.write_document("element.json", b"{}")
        backend = reopen()
        assert list(backend.recover()) == []
        assert get(backend, key(0)) == b"0"
        assert backend.read_sidecar(key(0)) == b"new"
        self.assert_tombstones(backend, [key(1)])
        self.assert_eventually(lambda: entries(backend).get(key(1), (False, False))[1], False)
        self.assert_eventually(lambda: entries(backend).get(key(2)), (True, True))
        assert backend.read_document("element.json") == b"{}"

    @pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    )  # a dead process closes nothing
    def test_the_unfinished_upload_of_a_dead_process_leaves_nothing(
        self, backend: RecoverableBackend, reopen: Callable[[], RecoverableBackend] | None
    ) -> None:
        if reopen is None:
            return
        put(backend, key(1))
        for k in (KEY, LONGEST):
            backend.create(k).write(DATA)
        backend = reopen()
        self.assert_listed(backend, {key(1): (True, True)})
        assert {recovered.outcome for recovered in backend.recover()} <= {"undone"}
        assert list(backend.recover()) == []
        self.assert_nothing(backend)
        self.assert_listed(backend, {KEY: (True, True), key(1): (True, True)})

    def test_uploads_in_progress_are_listed(self, backend: RecoverableBackend) -> None:
        put(backend, key(1))
        writer, given_up = backend.create(key(2)), backend.create(key(3))
        writer.write(DATA)
        given_up.abort()
        assert list(backend.in_progress()) in ([key(2)], [key(2), key(2)])
        assert [key(n) in backend.in_progress(key(n)) for n in (1, 2, 3)] == [False, True, False]
        writer.publish(SIDECAR)
        assert list(backend.in_progress()) == [*backend.in_progress(key(2))] == []
        assert list(backend.list("")) == []

    def test_resolve_returns_whether_an_upload_is_committed(self, backend: RecoverableBackend) -> None:
        put(backend)
        assert backend.resolve(KEY)
        assert get(backend) == DATA
        for _ in range(2):
            assert not backend.resolve(key(1))
        self.assert_nothing(backend, key(1))

    def test_an_upload_resolved_after_its_writer_died_stays_undone(
        self, backend: RecoverableBackend, reopen: Callable[[], RecoverableBackend] | None
    ) -> None:
        if reopen is None:
            return
        late = backend.create(KEY)
        late.write(DATA)
        backend = reopen()
        list(backend.recover())
        assert not backend.resolve(KEY)
        with suppress(Exception):  # its backend may have closed it
            late.publish(SIDECAR)
        late.abort()
        self.assert_nothing(backend)

    @smoke
    def test_an_upload_resolved_before_its_writer_publishes_stays_undone(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        """Its process was paused until others considered it dead, and goes on."""
        if open_second is None:
            return
        writer = open_second().create(KEY)
        writer.write(DATA)
        list(backend.recover())
        assert not backend.resolve(KEY)
        with pytest.raises(ArtstoreError):
            writer.publish(SIDECAR)
        writer.abort()
        assert not backend.resolve(KEY)
        self.assert_nothing(backend)

    def test_recover_leaves_uploads_of_this_process_alone(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        assert list(backend.recover()) == []
        writer.publish(SIDECAR)
        assert get(backend) == DATA

    def test_recover_leaves_uploads_of_live_processes_alone(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        if open_second is None:
            return
        other = open_second()
        writer = other.create(KEY)
        writer.write(DATA)
        assert list(backend.recover()) == []
        assert not backend.capabilities.lists_uploads or KEY in backend.in_progress(KEY)
        writer.publish(SIDECAR)
        assert get(backend) == DATA

    def test_the_sole_writer_notices_another_process(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        if open_second is None or not backend.is_sole_writer():  # some backends cannot know
            return
        other = open_second()
        assert not backend.is_sole_writer()
        assert not other.is_sole_writer()
        other.close()
        assert backend.is_sole_writer()

    def test_processes_see_changes_of_each_other_at_once(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        if open_second is None:
            return
        other = open_second()
        backend.write_document("element.json", b"1")
        assert other.read_document("element.json") == b"1"
        put(backend)
        assert get(other) == DATA
        with pytest.raises(Conflict):
            put(other)
        other.replace_sidecar(KEY, b"2", if_match=SIDECAR)
        assert backend.read_sidecar(KEY) == b"2"
        with pytest.raises(PreconditionFailed):
            backend.replace_sidecar(KEY, b"3", if_match=SIDECAR)
        other.delete(KEY, if_match=b"2")
        self.assert_tombstones(backend, [KEY])
        backend.write_document("element.json", b"2")
        assert other.read_document("element.json") == b"2"

    @smoke
    def test_processes_lose_no_replacement(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        if open_second is None:
            return
        both = [backend, open_second()]
        put(backend, sidecar=b"0")

        def increment(i: int) -> None:
            done = 0
            while done < 10:
                old = both[i % 2].read_sidecar(KEY)
                try:
                    both[i % 2].replace_sidecar(KEY, b"%d" % (int(old) + 1), if_match=old)
                except PreconditionFailed:
                    continue
                done += 1

        assert together(4, increment) == [None] * 4
        assert backend.read_sidecar(KEY) == b"40"
