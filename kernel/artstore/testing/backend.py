"""What every backend must do: subclass `BackendSuite`, override `backend`, run pytest.

Override `plant` where a stranger can write to the store past the backend, `reopen` where a store outlives the
process, `neighbour` where two may work on one store at once, and `unplug` where it can be made not to answer.
What `capabilities` claim has to be shown: `durable` needs `reopen`, `shared` needs `neighbour`.

What the suite sees of durability: where the files of the store lie below `tmp_path`, every `os.fsync` and
`os.fdatasync` of this process, and from them what a power cut would leave at each moment (`power.py`). Syncs that
a library does in C (SQLite, LMDB), O_SYNC, and servers elsewhere it cannot see: there it only opens the store again.
"""

from __future__ import annotations

import errno
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from artstore.errors import (
    ArtstoreError,
    Conflict,
    Damaged,
    NotFound,
    PreconditionFailed,
    Refused,
    StorageFull,
    Unavailable,
)
from artstore.ids import Key
from artstore.spi import API, PIECE, Capabilities, Entry, RecoverableBackend, Span
from artstore.testing.power import Disk, failing

Plant = Callable[[str, bytes | None, bytes | None], None]

HOUR = "2025/01/11/15"
KEY = Key(f"{HOUR}/report_ivanov_20250111T153045_a1b2c3d4.pdf")
DATA, SIDECAR = b"the data", b'{"the": "sidecar"}'
LONGEST = Key(f"{HOUR}/{'x' * 192}_ivanov_20250111T153045_a1.pdf")
ODD = [
    f"{HOUR}/отчёт за год_иванов_20250111T153045_a1b2c3d4.pdf",
    f"{HOUR}/a b  c_ivanov_20250111T153045_a1b2c3d4.tar.gz",
    f"{HOUR}/\U0001f600\u4e2d\u6587_ivanov_20250111T153045_a1b2c3d4",
    f"{HOUR}/,,a,b~%41&=+#@!$'();[]{{}}^`_ivanov_20250111T153045_a1b2c3d4.x",
    f"{HOUR}/-rf_ivanov_20250111T153045_a1b2c3d4.pdf",
    f"{HOUR}/.hidden_ivanov_20250111T153045_a1b2c3d4.pdf",
    f"{HOUR}/lock",
    f"{HOUR}/~update~_ivanov_20250111T153045_a1b2c3d4.pdf",
    LONGEST,
    "flat/report.pdf",
    "a, b,,c/d,e/Ордер №1/report.pdf",
]
CHANGES = ["publish", "replace_sidecar", "delete", "write_document"]
NOWHERE = ["../report.pdf", "2025/../../report.pdf", "/etc/passwd", f"{HOUR}/..", f"{HOUR}//report.pdf"]


def key(n: int) -> Key:
    """The n-th key of one hour."""
    return f"{HOUR}/report_ivanov_20250111T153045_{n:08x}.pdf"


def put(backend: RecoverableBackend, key: Key = KEY, data: bytes = DATA, sidecar: bytes = SIDECAR) -> None:
    """A whole file."""
    writer = backend.create(key)
    try:
        writer.write(data)
    except BaseException:
        writer.abort()
        raise
    writer.publish(sidecar)  # which leaves nothing by itself when it fails


def get(backend: RecoverableBackend, key: Key = KEY, span: Span | None = None) -> bytes:
    """The data of a file, or a span of it."""
    reader = backend.read(key)
    try:
        return b"".join(reader.pieces(span or Span(0, reader.size)))
    finally:
        reader.close()


def entries(backend: RecoverableBackend, directory: str = HOUR) -> dict[str, tuple[bool, bool]]:
    """What a directory holds: key -> (data, sidecar)."""
    return {entry.key: (entry.data, entry.sidecar) for entry in backend.list(directory)}


def together(n: int, step: Callable[[int], Any]) -> list[Any]:
    """The results of `step(0) ... step(n - 1)`, begun at one moment; an `ArtstoreError` is a result too."""
    barrier = threading.Barrier(n)

    def run(i: int) -> Any:
        barrier.wait()
        try:
            return step(i)
        except ArtstoreError as e:
            return e

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def state(backend: RecoverableBackend) -> tuple[bytes | None, bytes | None, list[str], bytes | None]:
    """Sidecar, data, tombstones and record, as far as they are there."""
    try:
        sidecar = backend.read_sidecar(KEY)
    except NotFound:
        sidecar = None
    try:
        data = get(backend)
    except NotFound:
        data = None
    return sidecar, data, sorted(backend.list_tombstones()), backend.read_document("element.json")


class BackendSuite:
    """The promises of `artstore.spi.Backend`, `Writer` and `Reader`, sentence by sentence."""

    eventual: ClassVar[float] = 0.0
    """Seconds by which listings (`scan`, `directories`, `tombstones`) may lag; what is asked by its key never lags."""

    unseen_syncs: ClassVar[bool] = False
    """The store is below `tmp_path`, and is synced by a library in C: no power cut can be shown."""

    @pytest.fixture
    def backend(self) -> RecoverableBackend:
        """A backend with an empty store, closed by whoever made it."""
        raise NotImplementedError("override this fixture: return the backend under test")

    @pytest.fixture
    def plant(self) -> Plant | None:
        """Puts data and a sidecar (or only one of them) under a key, past the backend, as a stranger would.

        None where nobody could.
        """
        return None

    @pytest.fixture
    def reopen(self) -> Callable[[], RecoverableBackend] | None:
        """Ends `backend` as death would and opens its store again; None for a store that dies with it.

        May be called again once the backend it gave was closed.
        """
        return None

    @pytest.fixture
    def neighbour(self) -> Callable[[], RecoverableBackend] | None:
        """Opens the store of `backend` once more, beside it; None where that cannot be."""
        return None

    @pytest.fixture
    def unplug(self) -> Callable[[], None] | None:
        """Makes what is behind `backend` stop answering: a server that ends, a disk that goes. None: it cannot."""
        return None

    def told(self, look: Callable[[], Any], wanted: Any) -> None:
        """Fail unless a listing says what it should, within `eventual` seconds."""
        ends = time.monotonic() + self.eventual
        while (seen := look()) != wanted and time.monotonic() < ends:
            time.sleep(0.05)
        assert seen == wanted

    def listed(
        self, backend: RecoverableBackend, wanted: dict[str, tuple[bool, bool]], directory: str = HOUR
    ) -> None:
        """Fail unless `directory` holds exactly `wanted`: key -> (data, sidecar)."""
        self.told(lambda: entries(backend, directory), wanted)

    def directories(self, backend: RecoverableBackend, wanted: list[str], since: str = "") -> None:
        self.told(lambda: list(backend.list_directories(since)), wanted)

    def list_tombstones(self, backend: RecoverableBackend, wanted: list[str]) -> None:
        self.told(lambda: sorted(backend.list_tombstones()), wanted)

    def assert_nothing(self, backend: RecoverableBackend, key: Key = KEY) -> None:
        """No trace of `key`, and its place is free."""
        directory = key.rpartition("/")[0]
        self.told(lambda: key in entries(backend, directory), False)
        with pytest.raises(NotFound):
            backend.read_sidecar(key)
        with pytest.raises(NotFound):
            backend.read(key)
        self.assert_free(backend, key)

    def assert_free(self, backend: RecoverableBackend, key: Key = KEY) -> None:
        """A file can be put at `key`, unless keys are used once."""
        try:
            put(backend, key)
        except Conflict:
            assert not backend.capabilities.keys_reusable
        else:
            assert get(backend, key) == DATA

    # --- what it declares ---

    def test_it_says_which_contract_it_was_written_for(self, backend: RecoverableBackend) -> None:
        assert backend.API == API
        assert backend.Settings.model_config.get("extra") == "forbid"
        assert isinstance(backend.capabilities, Capabilities)

    # --- create, write, publish ---

    def test_what_was_published_is_there(self, backend: RecoverableBackend) -> None:
        put(backend)
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR
        self.listed(backend, {KEY: (True, True)})
        assert list(backend.list(HOUR)) == [Entry(key=KEY, data=True, sidecar=True)]
        self.directories(backend, [HOUR])

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
    def test_data_of_any_size_comes_back(self, backend: RecoverableBackend, size: int) -> None:
        data = random.Random(size).randbytes(size)
        put(backend, data=data)
        assert get(backend) == data

    def test_nothing_is_visible_before_publish(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        self.listed(backend, {})
        self.directories(backend, [])
        with pytest.raises(NotFound):
            backend.read_sidecar(KEY)
        with pytest.raises(NotFound):
            backend.read(KEY)
        writer.publish(SIDECAR)
        self.listed(backend, {KEY: (True, True)})

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

    def test_abort_after_publish_is_harmless(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        writer.publish(SIDECAR)
        writer.abort()
        writer.abort()
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR

    def test_a_source_that_breaks_half_way_leaves_nothing(self, backend: RecoverableBackend) -> None:
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

    def test_a_taken_key_is_refused_and_kept(self, backend: RecoverableBackend) -> None:
        put(backend)
        with pytest.raises(Conflict):
            put(backend, data=b"other", sidecar=b"{}")
        assert get(backend) == DATA
        assert backend.read_sidecar(KEY) == SIDECAR

    def test_a_key_taken_meanwhile_is_refused_at_publish(self, backend: RecoverableBackend) -> None:
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
    def test_a_key_that_a_stranger_took_is_refused(
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
        self.listed(backend, {KEY: (data is not None, sidecar is not None)})
        if data is not None:
            assert get(backend) == data
        if sidecar is not None:
            assert backend.read_sidecar(KEY) == sidecar

    def test_of_many_writers_of_one_key_one_wins(self, backend: RecoverableBackend) -> None:
        for n in range(5):

            def write(i: int, key: Key = key(n)) -> int:
                put(backend, key, b"%d" % i * 1000, b'{"n": %d}' % i)
                return i

            results = together(8, write)
            winners = [r for r in results if isinstance(r, int)]
            assert len(winners) == 1, results
            assert all(isinstance(r, int | Conflict) for r in results), results
            assert get(backend, key(n)) == b"%d" % winners[0] * 1000
            assert backend.read_sidecar(key(n)) == b'{"n": %d}' % winners[0]
        self.listed(backend, {key(n): (True, True) for n in range(5)})

    def test_many_writers_of_many_keys_do_not_disturb_each_other(self, backend: RecoverableBackend) -> None:
        def write(i: int) -> None:
            for n in range(10):
                put(backend, key(100 * i + n), b"%d/%d" % (i, n), b'{"n": %d}' % n)

        assert together(8, write) == [None] * 8
        for i in range(8):
            for n in range(10):
                assert get(backend, key(100 * i + n)) == b"%d/%d" % (i, n)
                assert backend.read_sidecar(key(100 * i + n)) == b'{"n": %d}' % n

    @pytest.mark.parametrize("odd", ODD)
    def test_odd_names_work_everywhere(self, backend: RecoverableBackend, odd: str) -> None:
        directory = odd.rpartition("/")[0]
        put(backend, odd)
        assert get(backend, odd) == DATA
        self.listed(backend, {odd: (True, True)}, directory)
        self.directories(backend, [directory])
        backend.replace_sidecar(odd, b"{}", if_match=SIDECAR)
        assert backend.read_sidecar(odd) == b"{}"
        assert list(backend.recover()) == []
        backend.delete(odd, if_match=b"{}")
        self.list_tombstones(backend, [odd])
        backend.delete_data(odd)
        backend.purge(odd)
        self.list_tombstones(backend, [])
        self.assert_free(backend, odd)
        backend.quarantine(odd)
        self.assert_nothing(backend, odd)

    @pytest.mark.parametrize("nowhere", NOWHERE)
    def test_a_key_that_is_none_is_not_found(self, backend: RecoverableBackend, nowhere: str) -> None:
        put(backend)
        with pytest.raises(NotFound):
            backend.read_sidecar(nowhere)
        with pytest.raises(NotFound):
            backend.read(nowhere)
        assert list(backend.list(nowhere.rpartition("/")[0] + "/..")) == []
        assert list(backend.list("..")) == []

    # --- sidecars ---

    def test_a_sidecar_that_is_not_there(self, backend: RecoverableBackend) -> None:
        for others in (0, 1):
            for n in range(others):
                put(backend, key(n + 1))
            with pytest.raises(NotFound):
                backend.read_sidecar(KEY)
            with pytest.raises(NotFound):
                backend.delete(KEY, if_match=SIDECAR)
            with pytest.raises(NotFound):
                backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR)
        self.listed(backend, {key(1): (True, True)})

    def test_a_sidecar_of_every_size_comes_back_whole(self, backend: RecoverableBackend) -> None:
        most = backend.capabilities.sidecar_limit
        for n, size in enumerate((2, most - 1, most)):
            sidecar = b"{" + b" " * (size - 2) + b"}"
            put(backend, key(n), sidecar=sidecar)
            assert backend.read_sidecar(key(n)) == sidecar

    def test_of_a_huge_sidecar_one_byte_too_many_is_read(
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
        self.listed(backend, {KEY: (True, True)})

    def test_a_sidecar_that_is_no_longer_the_old_one_stays(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.replace_sidecar(KEY, b"1", if_match=SIDECAR)
        with pytest.raises(PreconditionFailed):
            backend.replace_sidecar(KEY, b"2", if_match=SIDECAR)
        assert backend.read_sidecar(KEY) == b"1"

    def test_no_replacement_is_lost_under_threads(self, backend: RecoverableBackend) -> None:
        put(backend, sidecar=b"0")

        def add(_: int) -> int:
            done = 0
            while done < 10:
                old = backend.read_sidecar(KEY)
                try:
                    backend.replace_sidecar(KEY, b"%d" % (int(old) + 1), if_match=old)
                except PreconditionFailed:
                    continue
                done += 1
            return done

        assert together(6, add) == [10] * 6
        assert backend.read_sidecar(KEY) == b"60"

    def test_no_replacement_brings_back_what_was_deleted(self, backend: RecoverableBackend) -> None:
        for n in range(20):
            put(backend, key(n), sidecar=b"old")

            def change(i: int, key: Key = key(n)) -> None:
                if i:
                    backend.replace_sidecar(key, b"%d" % i, if_match=b"old")
                else:
                    backend.delete(key, if_match=b"old")

            results = together(3, change)
            assert results.count(None) == 1, results
            assert all(r is None or isinstance(r, NotFound | PreconditionFailed) for r in results), results
            if results[0] is None:
                with pytest.raises(NotFound):
                    backend.read_sidecar(key(n))
            else:
                assert backend.read_sidecar(key(n)) == b"%d" % results.index(None)

    def test_a_reader_sees_the_old_sidecar_or_the_new_one(self, backend: RecoverableBackend) -> None:
        if not backend.capabilities.atomic_sidecar:
            return
        versions = [b'{"a": "%s"}' % (b"a" * 3000), b'{"b": 1}']
        put(backend, sidecar=versions[0])
        over = threading.Event()

        def look() -> set[bytes]:
            seen = set()
            while not over.is_set():
                seen.add(backend.read_sidecar(KEY))
            return seen

        with ThreadPoolExecutor(2) as pool:
            looks = [pool.submit(look) for _ in range(2)]
            try:
                for n in range(50):
                    backend.replace_sidecar(KEY, versions[(n + 1) % 2], if_match=versions[n % 2])
            finally:
                over.set()
        assert looks[0].result() | looks[1].result() <= set(versions)

    # --- deleting ---

    def test_an_entombed_file_is_deleted(self, backend: RecoverableBackend) -> None:
        put(backend)
        put(backend, key(1))
        backend.delete(KEY, if_match=SIDECAR)
        with pytest.raises(NotFound):
            backend.read_sidecar(KEY)
        self.told(lambda: entries(backend).get(KEY, (False, False))[1], False)
        self.list_tombstones(backend, [KEY])
        backend.delete_data(KEY)
        self.listed(backend, {key(1): (True, True)})
        with pytest.raises(NotFound):
            backend.read(KEY)
        backend.purge(KEY)
        self.list_tombstones(backend, [])
        self.assert_nothing(backend)

    def test_a_file_is_deleted_once(self, backend: RecoverableBackend) -> None:
        put(backend)
        results = together(6, lambda _: backend.delete(KEY, if_match=SIDECAR))
        assert results.count(None) == 1, results
        assert all(r is None or isinstance(r, NotFound) for r in results), results
        self.list_tombstones(backend, [KEY])

    def test_what_was_changed_meanwhile_is_not_deleted(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR)
        with pytest.raises(PreconditionFailed):
            backend.delete(KEY, if_match=SIDECAR)
        assert (backend.read_sidecar(KEY), get(backend)) == (b"{}", DATA)
        self.list_tombstones(backend, [])
        backend.delete(KEY, if_match=b"{}")
        self.list_tombstones(backend, [KEY])

    def test_an_entombed_key_is_taken_until_it_is_forgotten(self, backend: RecoverableBackend) -> None:
        # Whoever finishes the deletion, a neighbour perhaps, must not take the data of its successor.
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

    def test_removing_and_forgetting_what_is_not_there_is_no_error(self, backend: RecoverableBackend) -> None:
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
        self.listed(backend, {})

    def test_quarantine_takes_whatever_is_there(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        plant(key(0), b"data", None)
        plant(key(1), None, b"sidecar")
        plant(key(2), b"data", b"sidecar")
        for n in range(3):
            backend.quarantine(key(n))
        self.listed(backend, {})
        self.directories(backend, [])
        self.list_tombstones(backend, [])
        plant(key(0), b"again", b"again")
        backend.quarantine(key(0))
        self.assert_nothing(backend, key(0))

    # --- reading ---

    def test_spans(self, backend: RecoverableBackend) -> None:
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

    def test_data_stays_readable_while_it_is_removed(self, backend: RecoverableBackend) -> None:
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

    def test_many_read_at_once(self, backend: RecoverableBackend) -> None:
        data = random.Random(3).randbytes(2 * PIECE + 3)
        put(backend, data=data)
        assert together(8, lambda i: get(backend, span=Span(i, PIECE)) == data[i : i + PIECE]) == [True] * 8

    # --- listing ---

    def test_an_empty_store_lists_nothing(self, backend: RecoverableBackend) -> None:
        self.directories(backend, [])
        assert list(backend.list(HOUR)) == []
        assert list(backend.list("no/such/directory")) == []
        self.list_tombstones(backend, [])
        assert list(backend.recover()) == []

    def test_directories_are_sorted_and_begin_at_since(self, backend: RecoverableBackend) -> None:
        hours = ["2024/12/31/23", "2025/01/01/00", "2025/01/11/15", "2025/01/11/16", "2025/10/01/00"]
        for hour in reversed(hours):
            put(backend, f"{hour}/a")
        self.directories(backend, hours)
        for n, hour in enumerate(hours):
            self.directories(backend, hours[n:], hour)
        self.directories(backend, hours[2:], "2025/01/01/01")
        self.directories(backend, hours[1:], "2025/01")
        self.directories(backend, [], "2026/01/01/00")

    def test_an_emptied_directory_is_not_listed(self, backend: RecoverableBackend) -> None:
        put(backend)
        backend.delete(KEY, if_match=SIDECAR)
        backend.delete_data(KEY)
        self.directories(backend, [])

    def test_a_scan_is_of_one_directory(self, backend: RecoverableBackend) -> None:
        put(backend, "2025/01/11/15/a")
        put(backend, "2025/01/11/1/b")
        self.listed(backend, {"2025/01/11/15/a": (True, True)}, "2025/01/11/15")
        self.listed(backend, {}, "2025/01/11")
        self.listed(backend, {"2025/01/11/1/b": (True, True)}, "2025/01/11/1")

    def test_what_a_stranger_left_is_listed_and_left_alone(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        plant(f"{HOUR}/notes.txt", b"hi", None)
        plant(f"{HOUR}/half", None, b"{}")
        plant("Music/song.mp3", b"la", None)
        put(backend)
        self.listed(backend, {
            KEY: (True, True), f"{HOUR}/notes.txt": (True, False), f"{HOUR}/half": (False, True),
        })  # fmt: skip
        self.directories(backend, [HOUR, "Music"])
        assert list(backend.recover()) == []
        assert get(backend, "Music/song.mp3") == b"la"
        assert backend.read_sidecar(f"{HOUR}/half") == b"{}"

    def test_age_counts_from_when_the_younger_came(
        self, backend: RecoverableBackend, plant: Plant | None
    ) -> None:
        if plant is None:
            return
        put(backend)
        plant(key(1), b"data", None)
        plant(key(2), None, b"sidecar")
        for n in (KEY, key(1), key(2)):
            assert 0 <= backend.age(n) < 60

    def test_listing_during_writes_never_shows_a_file_without_its_data(
        self, backend: RecoverableBackend
    ) -> None:
        published: list[str] = []
        over = threading.Event()

        def write() -> None:
            for n in range(150):
                put(backend, key(n))
                published.append(key(n))
            over.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not over.is_set() and not writing.done():
                before = list(published)
                seen = {k for k, (_, sidecar) in entries(backend).items() if sidecar}
                assert self.eventual or set(before) <= seen
                for k in list(seen)[-3:]:
                    assert get(backend, k) == DATA
            writing.result()
        self.listed(backend, {key(n): (True, True) for n in range(150)})

    # --- the element's own documents ---

    def test_records(self, backend: RecoverableBackend) -> None:
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
        self.directories(backend, [])

    def test_a_record_is_swapped_for_what_was_seen(self, backend: RecoverableBackend) -> None:
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

    def test_a_record_is_always_whole(self, backend: RecoverableBackend) -> None:
        documents = [b"%d" % n * 5000 for n in range(4)]
        backend.write_document("element.json", documents[0])

        def write(i: int) -> None:
            for _ in range(10):
                backend.write_document("element.json", documents[i])
                assert backend.read_document("element.json") in documents

        assert together(4, write) == [None] * 4

    # --- a dead process, and a live one ---

    def test_everything_outlives_the_process(
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
        self.list_tombstones(backend, [key(1)])
        self.told(lambda: entries(backend).get(key(1), (False, False))[1], False)
        self.told(lambda: entries(backend).get(key(2)), (True, True))
        assert backend.read_document("element.json") == b"{}"

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead close nothing
    def test_the_unfinished_upload_of_a_dead_process_leaves_nothing(
        self, backend: RecoverableBackend, reopen: Callable[[], RecoverableBackend] | None
    ) -> None:
        if reopen is None:
            return
        put(backend, key(1))
        for k in (KEY, LONGEST):
            backend.create(k).write(DATA)
        backend = reopen()
        self.listed(backend, {key(1): (True, True)})
        assert {settled.outcome for settled in backend.recover()} <= {"undone"}
        assert list(backend.recover()) == []
        self.assert_nothing(backend)
        self.listed(backend, {KEY: (True, True), key(1): (True, True)})

    def test_what_is_under_way_is_told(self, backend: RecoverableBackend) -> None:
        put(backend, key(1))
        writer, given_up = backend.create(key(2)), backend.create(key(3))
        writer.write(DATA)
        given_up.abort()
        assert list(backend.in_progress()) in ([key(2)], [key(2), key(2)])
        assert [key(n) in backend.in_progress(key(n)) for n in (1, 2, 3)] == [False, True, False]
        writer.publish(SIDECAR)
        assert list(backend.in_progress()) == [*backend.in_progress(key(2))] == []
        assert list(backend.list("")) == []

    def test_settling_tells_what_is_committed(self, backend: RecoverableBackend) -> None:
        put(backend)
        assert backend.resolve(KEY)
        assert get(backend) == DATA
        for _ in range(2):
            assert not backend.resolve(key(1))
        self.assert_nothing(backend, key(1))

    def test_an_upload_settled_after_its_writer_died_stays_undone(
        self, backend: RecoverableBackend, reopen: Callable[[], RecoverableBackend] | None
    ) -> None:
        if reopen is None:
            return
        late = backend.create(KEY)
        late.write(DATA)
        backend = reopen()
        list(backend.recover())
        assert not backend.resolve(KEY)
        with suppress(Exception):  # it may have been closed with its backend
            late.publish(SIDECAR)
        late.abort()
        self.assert_nothing(backend)

    def test_an_upload_settled_under_its_writer_stays_undone(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        """One that was paused until others took it for dead, and comes back."""
        if neighbour is None:
            return
        writer = neighbour().create(KEY)
        writer.write(DATA)
        list(backend.recover())
        assert not backend.resolve(KEY)
        with pytest.raises(ArtstoreError):
            writer.publish(SIDECAR)
        writer.abort()
        assert not backend.resolve(KEY)
        self.assert_nothing(backend)

    def test_what_is_under_way_in_this_process_is_not_reaped(self, backend: RecoverableBackend) -> None:
        writer = backend.create(KEY)
        writer.write(DATA)
        assert list(backend.recover()) == []
        writer.publish(SIDECAR)
        assert get(backend) == DATA

    def test_what_is_under_way_in_a_neighbour_is_not_reaped(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        if neighbour is None:
            return
        other = neighbour()
        writer = other.create(KEY)
        writer.write(DATA)
        assert list(backend.recover()) == []
        assert not backend.capabilities.lists_uploads or KEY in backend.in_progress(KEY)
        writer.publish(SIDECAR)
        assert get(backend) == DATA

    def test_lonely_until_a_neighbour_comes(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        if neighbour is None or not backend.is_sole_writer():  # some cannot tell
            return
        other = neighbour()
        assert not backend.is_sole_writer()
        assert not other.is_sole_writer()
        other.close()
        assert backend.is_sole_writer()

    def test_neighbours_see_each_other_at_once(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        if neighbour is None:
            return
        other = neighbour()
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
        self.list_tombstones(backend, [KEY])
        backend.write_document("element.json", b"2")
        assert other.read_document("element.json") == b"2"

    def test_no_replacement_is_lost_among_neighbours(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        if neighbour is None:
            return
        both = [backend, neighbour()]
        put(backend, sidecar=b"0")

        def add(i: int) -> None:
            done = 0
            while done < 10:
                old = both[i % 2].read_sidecar(KEY)
                try:
                    both[i % 2].replace_sidecar(KEY, b"%d" % (int(old) + 1), if_match=old)
                except PreconditionFailed:
                    continue
                done += 1

        assert together(4, add) == [None] * 4
        assert backend.read_sidecar(KEY) == b"40"

    # --- health ---

    def test_space_is_told_or_unlimited(self, backend: RecoverableBackend) -> None:
        free = backend.free_bytes()
        assert free is None or free >= 0

    def test_a_healthy_store_passes_its_check(self, backend: RecoverableBackend) -> None:
        backend.check(writing=False)
        backend.check(writing=True)
        self.directories(backend, [])

    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
    def test_a_call_that_fails_is_told_in_our_words_and_leaves_nothing(
        self,
        backend: RecoverableBackend,
        reopen: Callable[[], RecoverableBackend] | None,
        tmp_path: Path,
        error: int,
    ) -> None:
        """One system call after another fails, as far as the files are below `tmp_path`."""
        for number in range(1, 1000):
            refusal: ArtstoreError | None = None
            with failing(number, tmp_path, error) as trap:
                try:
                    put(backend, key(number))
                except ArtstoreError as e:
                    refusal = e
            if refusal is not None:
                assert not isinstance(refusal, Refused), "the caller did nothing wrong"
                if reopen is not None:  # a store may refuse to go on after a disk that failed
                    backend.close()
                    backend = reopen()
                    list(backend.recover())
                self.assert_nothing(backend, key(number))
            elif trap.sprung:
                assert get(backend, key(number)) == DATA
                assert backend.read_sidecar(key(number)) == SIDECAR
            else:
                return
        pytest.fail("an upload makes more than a thousand system calls")

    def test_a_store_that_does_not_answer_says_so(
        self, backend: RecoverableBackend, unplug: Callable[[], None] | None
    ) -> None:
        if unplug is None:
            return
        put(backend)
        put(backend, key(1))
        writer = backend.create(key(2))

        def finish() -> None:
            writer.write(DATA)
            writer.publish(SIDECAR)

        unplug()
        steps: list[Callable[[], Any]] = [
            lambda: put(backend, key(3)),
            finish,
            lambda: backend.read_sidecar(KEY),
            lambda: backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR),
            lambda: backend.delete(KEY, if_match=SIDECAR),
            lambda: get(backend, key(1)),
            lambda: list(backend.list(HOUR)),
            lambda: list(backend.list_directories()),
            lambda: list(backend.list_tombstones()),
            lambda: backend.write_document("element.json", b"{}"),
            lambda: backend.check(writing=True),
        ]
        for number, step in enumerate(steps):
            try:
                step()
            except (Unavailable, StorageFull):
                continue
            pytest.fail(f"step {number} did not say that the store is gone")
        writer.abort()

    # --- what it claims has to be shown ---

    def test_a_shared_store_has_neighbours(
        self, backend: RecoverableBackend, neighbour: Callable[[], RecoverableBackend] | None
    ) -> None:
        assert neighbour or not backend.capabilities.shared, "it claims `shared`: override `neighbour`"

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_power_cut_leaves_all_or_nothing_and_takes_back_nothing(
        self,
        backend: RecoverableBackend,
        reopen: Callable[[], RecoverableBackend] | None,
        tmp_path: Path,
        change: str,
    ) -> None:
        """At each sync the power goes; and once more after the change has returned."""
        if not backend.capabilities.durable:
            return
        assert reopen is not None, "it claims `durable`: override `reopen`, so that it can be shown"
        if change != "publish":
            put(backend)
        backend.write_document("element.json", b"old")
        before = state(backend)
        with Disk(tmp_path) as disk:
            first = disk.cut()[0]
            if change == "publish":
                put(backend)
            elif change == "replace_sidecar":
                backend.replace_sidecar(KEY, b"new", if_match=SIDECAR)
            elif change == "delete":
                backend.delete(KEY, if_match=SIDECAR)
            else:
                backend.write_document("element.json", b"new")
            after = state(backend)
            last = disk.cut()
            backend.close()
            seen = last[0] != first and not self.unseen_syncs
            cuts = [(image, [before, after]) for image in disk.images]
            cuts += [(image, [after]) for image in (last if seen else last[:1])]
            for number, (image, allowed) in enumerate(cuts):
                if seen:
                    disk.restore(image)
                backend = reopen()
                list(backend.recover())
                found = state(backend)
                assert found in allowed, (
                    f"cut {number} of {len(cuts)}, left by the power cut: {sorted(image)}"
                )
                assert list(backend.recover()) == []
                backend.close()

    def test_at_no_step_of_a_replacement_half_a_sidecar_is_seen(self, backend: RecoverableBackend) -> None:
        if not backend.capabilities.atomic_sidecar:
            return
        versions = [b'{"a": "%s"}' % (b"a" * 3000), b'{"b": 1}', b'{"c": 2}']
        put(backend, sidecar=versions[0])
        seen: list[bytes | BaseException] = []

        def look() -> None:
            try:
                seen.append(backend.read_sidecar(KEY))
            except Exception as e:
                seen.append(e)

        profile = sys.getprofile()
        with ThreadPoolExecutor(1) as pool:
            looks: list[Future[None]] = []

            def between(*_: object) -> None:
                if not looks or looks[-1].done():
                    looks.append(pool.submit(look))
                    wait(looks[-1:], timeout=0.3)  # it may be that it has to wait for the replacement

            for old, new in pairwise(versions):
                sys.setprofile(between)
                try:
                    backend.replace_sidecar(KEY, new, if_match=old)
                finally:
                    sys.setprofile(profile)
        assert len(seen) > 2
        assert [s for s in seen if s not in versions] == []
