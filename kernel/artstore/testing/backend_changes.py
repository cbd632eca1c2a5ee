"""Tests of changes to a store: sidecars, deletion, documents."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from artstore.errors import Conflict, NotFound, PreconditionFailed
from artstore.spi import RecoverableBackend
from artstore.testing.backend_store import (
    DATA,
    KEY,
    SIDECAR,
    BackendFixtures,
    Plant,
    entries,
    get,
    key,
    put,
    smoke,
    together,
)


class BackendChanges(BackendFixtures):
    """A change is a compare-and-swap, and is seen whole or not at all."""

    def test_a_missing_sidecar_is_not_found(self, backend: RecoverableBackend) -> None:
        for others in (0, 1):
            for n in range(others):
                put(backend, key(n + 1))
            with pytest.raises(NotFound):
                backend.read_sidecar(KEY)
            with pytest.raises(NotFound):
                backend.delete(KEY, if_match=SIDECAR)
            with pytest.raises(NotFound):
                backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR)
        self.assert_listed(backend, {key(1): (True, True)})

    def test_a_sidecar_up_to_the_limit_is_read_back(self, backend: RecoverableBackend) -> None:
        limit = backend.capabilities.sidecar_limit
        for n, size in enumerate((2, limit - 1, limit)):
            sidecar = b"{" + b" " * (size - 2) + b"}"
            put(backend, key(n), sidecar=sidecar)
            assert backend.read_sidecar(key(n)) == sidecar

    def test_a_sidecar_over_the_limit_is_read_up_to_one_byte_more(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        plant(KEY, DATA, b"x" * 100_000)
        assert backend.read_sidecar(KEY) == b"x" * 4097

    def test_a_sidecar_is_replaced(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.replace_sidecar(KEY, b'{"new": 1}', if_match=SIDECAR)
        assert backend.read_sidecar(KEY) == b'{"new": 1}'
        assert get(backend) == DATA
        self.assert_listed(backend, {KEY: (True, True)})

    def test_a_changed_sidecar_is_not_replaced(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.replace_sidecar(KEY, b"1", if_match=SIDECAR)
        with pytest.raises(PreconditionFailed):
            backend.replace_sidecar(KEY, b"2", if_match=SIDECAR)
        assert backend.read_sidecar(KEY) == b"1"

    def test_threads_lose_no_replacement(self, backend: RecoverableBackend) -> None:
        put(backend, sidecar=b"0")

        def increment(_: int) -> int:
            done = 0
            while done < 10:
                old = backend.read_sidecar(KEY)
                try:
                    backend.replace_sidecar(KEY, b"%d" % (int(old) + 1), if_match=old)
                except PreconditionFailed:
                    continue
                done += 1
            return done

        assert together(6, increment) == [10] * 6
        assert backend.read_sidecar(KEY) == b"60"

    def test_a_replacement_does_not_bring_back_a_deleted_file(self, backend: RecoverableBackend) -> None:
        for n in range(20):
            put(backend, key(n), sidecar=b"old")

            def change(i: int, n: int = n) -> None:
                if i:
                    backend.replace_sidecar(key(n), b"%d" % i, if_match=b"old")
                else:
                    backend.delete(key(n), if_match=b"old")

            results = together(3, change)
            assert results.count(None) == 1, results
            assert all(r is None or isinstance(r, NotFound | PreconditionFailed) for r in results), results
            if results[0] is None:
                with pytest.raises(NotFound):
                    backend.read_sidecar(key(n))
            else:
                assert backend.read_sidecar(key(n)) == b"%d" % results.index(None)

    @smoke
    def test_a_reader_sees_the_old_sidecar_or_the_new_one(self, backend: RecoverableBackend) -> None:
        if not backend.capabilities.atomic_sidecar:
            return
        versions = [b'{"a": "%s"}' % (b"a" * 3000), b'{"b": 1}']
        put(backend, sidecar=versions[0])
        done = threading.Event()

        def read() -> set[bytes]:
            seen = set()
            while not done.is_set():
                seen.add(backend.read_sidecar(KEY))
            return seen

        with ThreadPoolExecutor(2) as pool:
            reads = [pool.submit(read) for _ in range(2)]
            try:
                for n in range(50):
                    backend.replace_sidecar(KEY, versions[(n + 1) % 2], if_match=versions[n % 2])
            finally:
                done.set()
        assert reads[0].result() | reads[1].result() <= set(versions)

    @smoke
    def test_a_deleted_file_is_gone_and_leaves_a_tombstone(self, backend: RecoverableBackend) -> None:
        put(backend)
        put(backend, key(1))
        backend.delete(KEY, if_match=SIDECAR)
        with pytest.raises(NotFound):
            backend.read_sidecar(KEY)
        self.assert_eventually(lambda: entries(backend).get(KEY, (False, False))[1], False)
        self.assert_tombstones(backend, [KEY])
        backend.delete_data(KEY)
        self.assert_listed(backend, {key(1): (True, True)})
        with pytest.raises(NotFound):
            backend.read(KEY)
        backend.purge(KEY)
        self.assert_tombstones(backend, [])
        self.assert_nothing(backend)

    def test_one_of_many_deletions_wins(self, backend: RecoverableBackend) -> None:
        put(backend)
        results = together(6, lambda _: backend.delete(KEY, if_match=SIDECAR))
        assert results.count(None) == 1, results
        assert all(r is None or isinstance(r, NotFound) for r in results), results
        self.assert_tombstones(backend, [KEY])

    def test_a_changed_file_is_not_deleted(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR)
        with pytest.raises(PreconditionFailed):
            backend.delete(KEY, if_match=SIDECAR)
        assert (backend.read_sidecar(KEY), get(backend)) == (b"{}", DATA)
        self.assert_tombstones(backend, [])
        backend.delete(KEY, if_match=b"{}")
        self.assert_tombstones(backend, [KEY])

    def test_a_tombstone_takes_the_key_until_it_is_purged(self, backend: RecoverableBackend) -> None:
        # The process that finishes the deletion, perhaps another one, must not remove the data of a newer file.
        put(backend)
        backend.delete(KEY, if_match=SIDECAR)
        with pytest.raises(Conflict):
            put(backend, data=b"successor")
        backend.delete_data(KEY)
        with pytest.raises(Conflict):
            put(backend, data=b"successor")
        backend.purge(KEY)
        self.assert_free(backend)

    def test_data_with_a_sidecar_is_not_removed(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.delete_data(KEY)
        assert get(backend) == DATA

    def test_removing_what_does_not_exist_is_no_error(self, backend: RecoverableBackend) -> None:
        for _ in range(2):
            backend.delete_data(KEY)
            backend.purge(KEY)
            backend.quarantine(KEY)
        put(backend)
        backend.delete(KEY, if_match=SIDECAR)
        for _ in range(2):
            backend.delete_data(KEY)
        for _ in range(2):
            backend.purge(KEY)
        self.assert_listed(backend, {})

    @smoke
    def test_quarantine_moves_data_and_sidecar(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        plant(key(0), b"data", None)
        plant(key(1), None, b"sidecar")
        plant(key(2), b"data", b"sidecar")
        for n in range(3):
            backend.quarantine(key(n))
        self.assert_listed(backend, {})
        self.assert_directories(backend, [])
        self.assert_tombstones(backend, [])
        plant(key(0), b"again", b"again")
        backend.quarantine(key(0))
        self.assert_nothing(backend, key(0))

    def test_documents_are_replaced_whole(self, backend: RecoverableBackend) -> None:
        assert backend.read_document("element.json") is None
        backend.write_document("element.json", b"{}")
        backend.write_document("checkpoint.json", b"[1]")
        backend.write_document("element.json", b'{"mode": "rw"}')
        assert backend.read_document("element.json") == b'{"mode": "rw"}'
        assert backend.read_document("checkpoint.json") == b"[1]"
        with pytest.raises(Conflict):
            backend.write_document("element.json", b"{}", if_absent=True)
        backend.write_document("new.json", b"{}", if_absent=True)
        assert backend.read_document("new.json") == b"{}"
        self.assert_directories(backend, [])

    def test_a_changed_document_is_not_replaced(self, backend: RecoverableBackend) -> None:
        backend.write_document("element.json", b"0")
        with pytest.raises(PreconditionFailed):
            backend.write_document("element.json", b"1", if_match=b"2")
        with pytest.raises((PreconditionFailed, NotFound)):
            backend.write_document("other.json", b"1", if_match=b"0")
        assert (backend.read_document("element.json"), backend.read_document("other.json")) == (b"0", None)

        def count(_: int) -> None:
            for _ in range(5):
                while True:
                    old = backend.read_document("element.json") or b""
                    try:
                        backend.write_document("element.json", b"%d" % (int(old) + 1), if_match=old)
                        break
                    except PreconditionFailed:
                        continue

        assert together(4, count) == [None] * 4
        assert backend.read_document("element.json") == b"20"

    def test_a_document_read_beside_writes_is_whole(self, backend: RecoverableBackend) -> None:
        documents = [b"%d" % n * 5000 for n in range(4)]
        backend.write_document("element.json", documents[0])

        def write(i: int) -> None:
            for _ in range(10):
                backend.write_document("element.json", documents[i])
                assert backend.read_document("element.json") in documents

        assert together(4, write) == [None] * 4
