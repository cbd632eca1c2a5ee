"""What every backend must do: subclass `BackendSuite`, override `backend`, run pytest.

Override `plant` if something other than the backend can write to the store, `reopen` if a store outlives the process,
`open_second` if two processes may use one store at once, `open_missing` if a backend makes its store when it is opened,
and `unplug` if it can be made to stop answering. The backend has to show what its `capabilities` claim: `durable` needs
`reopen`, `shared` needs `open_second`.

What the suite sees of durability: if the files of the store lie below `tmp_path`, it sees every `os.fsync` and
`os.fdatasync` of this process, and computes what a power loss would leave at each moment (`power.py`). It does not see
the syncs of a library in C (SQLite, LMDB), O_SYNC, and servers elsewhere: there it only opens the store again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ConfigError, Conflict, Damaged, NotFound
from artstore.ids import Key
from artstore.spi import API, PIECE, Capabilities, Entry, RecoverableBackend, Span
from artstore.testing.backend_changes import BackendChanges
from artstore.testing.backend_durability import BackendDurability
from artstore.testing.backend_recovery import BackendRecovery
from artstore.testing.backend_store import (
    DATA,
    HOUR,
    INVALID_KEYS,
    KEY,
    SIDECAR,
    UNUSUAL_KEYS,
    Plant,
    entries,
    get,
    key,
    put,
    smoke,
    smoke_only,
    together,
)

__all__ = [
    "DATA",
    "HOUR",
    "KEY",
    "SIDECAR",
    "BackendSuite",
    "entries",
    "get",
    "key",
    "put",
    "smoke",
    "smoke_only",
]


class BackendSuite(BackendChanges, BackendRecovery, BackendDurability):
    """The promises of `artstore.spi.Backend`, `Recoverable`, `Writer` and `Reader`, sentence by sentence."""

    def test_it_names_its_contract(self, backend: RecoverableBackend) -> None:
        assert backend.API == API
        assert backend.Settings.model_config.get(Key("extra")) == "forbid"
        assert isinstance(backend.capabilities, Capabilities)

    @smoke
    def test_a_published_file_can_be_read(self, backend: RecoverableBackend) -> None:
        put(backend)
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR
        self.assert_listed(backend, {KEY: (True, True)})
        assert list(backend.list(HOUR)) == [Entry(key=KEY, data=True, sidecar=True)]
        self.assert_directories(backend, [HOUR])

    def test_pieces_of_every_kind_are_appended(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        for piece in (b"ab", bytearray(b"cd"), b"", memoryview(b"-ef-")[1:3]):
            writer.write(piece)
        writer.publish(SIDECAR)
        assert get(backend) == b"abcdef"

    def test_a_piece_may_be_reused_by_its_caller(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        piece = bytearray(b"first")
        writer.write(piece)
        piece[:] = b"SECON"
        writer.write(piece)
        writer.publish(SIDECAR)
        assert get(backend) == b"firstSECON"

    @pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
    def test_data_of_any_size_is_read_back(self, backend: RecoverableBackend, size: int) -> None:
        data = random.Random(size).randbytes(size)
        put(backend, data=data)
        assert get(backend) == data

    def test_nothing_is_visible_before_publish(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        self.assert_listed(backend, {})
        self.assert_directories(backend, [])
        with pytest.raises(NotFound):
            backend.read_sidecar(KEY)
        with pytest.raises(NotFound):
            backend.read(KEY)
        writer.publish(SIDECAR)
        self.assert_listed(backend, {KEY: (True, True)})

    @smoke
    def test_abort_leaves_nothing(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        writer.abort()
        self.assert_nothing(backend)

    def test_abort_before_the_first_byte_and_twice(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.abort()
        writer.abort()
        self.assert_nothing(backend)

    def test_abort_after_publish_has_no_effect(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        writer.publish(SIDECAR)
        writer.abort()
        writer.abort()
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR

    def test_an_upload_that_breaks_off_leaves_nothing(self, backend: RecoverableBackend) -> None:
        def source() -> Any:
            yield b"half of "
            raise ConnectionResetError

        writer = backend.create(KEY)
        with pytest.raises(ConnectionResetError):
            try:
                for piece in source():
                    writer.write(piece)
                writer.publish(SIDECAR)
            finally:
                writer.abort()
        self.assert_nothing(backend)

    def test_a_taken_key_is_refused(self, backend: RecoverableBackend) -> None:
        put(backend)
        with pytest.raises(Conflict):
            put(backend, data=b"other", sidecar=b"{}")
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR

    def test_publish_refuses_a_key_taken_since_create(self, backend: RecoverableBackend) -> None:
        late = backend.create(KEY)
        late.write(b"late")
        try:
            put(backend)
        except Conflict:  # a backend may give a key to one writer at a time
            late.abort()
            return
        with pytest.raises(Conflict):
            late.publish(b"{}")
        late.abort()
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR

    @pytest.mark.parametrize(("data", "sidecar"), [(b"foreign", None), (None, b"foreign"), (b"a", b"b")])
    def test_the_key_of_a_foreign_file_is_refused(
        self,
        backend: RecoverableBackend,
        plant: Plant | None,
        data: bytes | None,
        sidecar: bytes | None,
    ) -> None:
        if plant is None:
            return
        plant(KEY, data, sidecar)
        with pytest.raises(Conflict):
            put(backend)
        self.assert_listed(backend, {KEY: (data is not None, sidecar is not None)})
        if data is not None:
            assert get(backend) == data
        if sidecar is not None:
            assert backend.read_sidecar(KEY) == sidecar

    @smoke
    def test_one_of_many_writers_of_a_key_wins(self, backend: RecoverableBackend) -> None:
        for n in range(5):
            results = together(
                8,
                lambda i, n=n: put(backend, key(n), b"%d" % i * 1000, b'{"n": %d}' % i),  # type: ignore[misc]
            )
            assert results.count(None) == 1, results
            assert all(r is None or isinstance(r, Conflict) for r in results), results
            winner = results.index(None)
            assert get(backend, key(n)) == b"%d" % winner * 1000
            assert backend.read_sidecar(key(n)) == b'{"n": %d}' % winner
        self.assert_listed(backend, {key(n): (True, True) for n in range(5)})

    @smoke
    def test_many_writers_of_many_keys_do_not_disturb_each_other(self, backend: RecoverableBackend) -> None:
        def write(i: int) -> None:
            for n in range(10):
                put(backend, key(100 * i + n), b"%d/%d" % (i, n), b'{"n": %d}' % n)

        assert together(8, write) == [None] * 8
        for i in range(8):
            for n in range(10):
                assert get(backend, key(100 * i + n)) == b"%d/%d" % (i, n)
                assert backend.read_sidecar(key(100 * i + n)) == b'{"n": %d}' % n

    @smoke
    @pytest.mark.parametrize("unusual", UNUSUAL_KEYS)
    def test_unusual_names_work_in_every_method(self, backend: RecoverableBackend, unusual: Key) -> None:
        directory = unusual.rpartition("/")[0]
        put(backend, unusual)
        assert get(backend, unusual) == DATA
        self.assert_listed(backend, {unusual: (True, True)}, directory)
        self.assert_directories(backend, [directory])
        backend.replace_sidecar(unusual, b"{}", if_match=SIDECAR)
        assert backend.read_sidecar(unusual) == b"{}"
        assert list(backend.recover()) == []
        backend.delete(unusual, if_match=b"{}")
        self.assert_tombstones(backend, [unusual])
        backend.delete_data(unusual)
        backend.purge(unusual)
        self.assert_tombstones(backend, [])
        self.assert_free(backend, unusual)
        backend.quarantine(unusual)
        self.assert_nothing(backend, unusual)

    @pytest.mark.parametrize("invalid", INVALID_KEYS)
    def test_an_invalid_key_is_not_found(self, backend: RecoverableBackend, invalid: Key) -> None:
        put(backend)
        with pytest.raises(NotFound):
            backend.read_sidecar(invalid)
        with pytest.raises(NotFound):
            backend.read(invalid)
        assert list(backend.list(invalid.rpartition("/")[0] + "/..")) == []
        assert list(backend.list("..")) == []

    @smoke
    def test_spans_are_read_exactly(self, backend: RecoverableBackend) -> None:
        size = 2 * PIECE + 100
        data = random.Random(1).randbytes(size)
        put(backend, data=data)
        reader = backend.read(KEY)
        assert reader.size == size
        for offset, length in [
            (0, 0), (0, 1), (size - 1, 1), (size, 0), (5, PIECE), (0, PIECE + 1), (PIECE - 1, 2), (7, size - 7),
        ]:  # fmt: skip
            pieces = list(reader.pieces(Span(offset, length)))
            assert b"".join(pieces) == data[offset : offset + length], (offset, length)
            assert all(0 < len(piece) <= PIECE for piece in pieces)
        reader.close()
        reader.close()

    def test_data_that_ends_too_early_is_damaged(self, backend: RecoverableBackend) -> None:
        put(backend)
        reader = backend.read(KEY)
        with pytest.raises(Damaged):
            list(reader.pieces(Span(0, len(DATA) + 1)))
        with pytest.raises(Damaged):
            list(reader.pieces(Span(len(DATA) + 5, 1)))
        reader.close()

    def test_the_path_of_a_reader_leads_to_the_same_bytes(self, backend: RecoverableBackend) -> None:
        put(backend)
        reader = backend.read(KEY)
        assert reader.path is None or Path(reader.path).read_bytes() == DATA
        reader.close()

    @smoke
    def test_open_data_stays_readable_while_the_file_is_deleted(self, backend: RecoverableBackend) -> None:
        data = random.Random(2).randbytes(3 * PIECE)
        put(backend, data=data)
        reader = backend.read(KEY)
        pieces = reader.pieces(Span(0, len(data)))
        read = next(pieces)
        backend.delete(KEY, if_match=SIDECAR)
        backend.delete_data(KEY)
        backend.purge(KEY)
        self.assert_free(backend)
        assert read + b"".join(pieces) == data
        reader.close()

    def test_many_threads_read_one_file(self, backend: RecoverableBackend) -> None:
        data = random.Random(3).randbytes(2 * PIECE + 3)
        put(backend, data=data)
        assert together(8, lambda i: get(backend, span=Span(i, PIECE)) == data[i : i + PIECE]) == [True] * 8

    def test_an_empty_store_lists_nothing(self, backend: RecoverableBackend) -> None:
        self.assert_directories(backend, [])
        assert list(backend.list(HOUR)) == []
        assert list(backend.list("no/such/directory")) == []
        self.assert_tombstones(backend, [])
        assert list(backend.recover()) == []

    def test_directories_are_sorted_and_begin_at_since(self, backend: RecoverableBackend) -> None:
        hours = ["2024/12/31/23", "2025/01/01/00", "2025/01/11/15", "2025/01/11/16", "2025/10/01/00"]
        for hour in reversed(hours):
            put(backend, Key(f"{hour}/a"))
        self.assert_directories(backend, hours)
        for n, hour in enumerate(hours):
            self.assert_directories(backend, hours[n:], hour)
        self.assert_directories(backend, hours[2:], "2025/01/01/01")
        self.assert_directories(backend, hours[1:], "2025/01")
        self.assert_directories(backend, [], "2026/01/01/00")

    def test_an_emptied_directory_is_not_listed(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.delete(KEY, if_match=SIDECAR)
        backend.delete_data(KEY)
        self.assert_directories(backend, [])

    def test_list_is_of_one_directory(self, backend: RecoverableBackend) -> None:
        put(backend, Key("2025/01/11/15/a"))
        put(backend, Key("2025/01/11/1/b"))
        self.assert_listed(backend, {Key("2025/01/11/15/a"): (True, True)}, "2025/01/11/15")
        self.assert_listed(backend, {}, "2025/01/11")
        self.assert_listed(backend, {Key("2025/01/11/1/b"): (True, True)}, "2025/01/11/1")

    @smoke
    def test_foreign_files_are_listed_and_left_alone(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        plant(f"{HOUR}/notes.txt", b"hi", None)
        plant(f"{HOUR}/half", None, b"{}")
        plant("Music/song.mp3", b"la", None)
        put(backend)
        self.assert_listed(backend, {
            KEY: (True, True), Key(f"{HOUR}/notes.txt"): (True, False), Key(f"{HOUR}/half"): (False, True),
        })  # fmt: skip
        self.assert_directories(backend, [HOUR, "Music"])
        assert list(backend.recover()) == []
        assert get(backend, Key("Music/song.mp3")) == b"la"
        assert backend.read_sidecar(Key(f"{HOUR}/half")) == b"{}"

    def test_a_store_that_should_be_there_is_not_made(
        self, open_missing: Callable[[], RecoverableBackend] | None
    ) -> None:
        if open_missing is None:
            return
        for _ in range(2):
            try:
                backend = open_missing()
            except ConfigError as e:
                assert e.place
                assert "--new-store" in e.cure
                continue
            assert backend.read_document("element.json") is None
            assert list(backend.list_directories()) == []

    def test_what_does_not_exist_has_no_age(self, backend: RecoverableBackend) -> None:
        put(backend)
        for missing in (key(1), Key("1999/01/01/00/nothing.txt")):
            with pytest.raises(NotFound):
                backend.age(missing)

    def test_age_is_that_of_the_younger_part(self, backend: RecoverableBackend, plant: Plant | None) -> None:
        if plant is None:
            return
        put(backend)
        plant(key(1), b"data", None)
        plant(key(2), None, b"sidecar")
        for n in (KEY, key(1), key(2)):
            assert 0 <= backend.age(n) < 60

    def test_a_listing_beside_uploads_shows_no_sidecar_without_data(
        self, backend: RecoverableBackend
    ) -> None:
        published: list[str] = []
        done = threading.Event()

        def write() -> None:
            for n in range(150):
                put(backend, key(n))
                published.append(key(n))
            done.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not done.is_set() and not writing.done():
                before = list(published)
                seen = {k for k, (_, sidecar) in entries(backend).items() if sidecar}
                assert self.eventual or set(before) <= seen
                for k in list(seen)[-3:]:
                    assert get(backend, k) == DATA
            writing.result()
        self.assert_listed(backend, {key(n): (True, True) for n in range(150)})

    def test_free_bytes_are_a_number_or_unlimited(self, backend: RecoverableBackend) -> None:
        free = backend.free_bytes()
        assert free is None or free >= 0

    def test_a_healthy_store_passes_its_check(self, backend: RecoverableBackend) -> None:
        backend.check(writing=False)
        backend.check(writing=True)
        self.assert_directories(backend, [])
