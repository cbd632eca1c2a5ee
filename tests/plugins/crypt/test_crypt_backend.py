"""The backend `crypt`: the suite, held against it over others, and what is particular to it."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ConfigError, Damaged, InvalidField, NotFound, PreconditionFailed
from artstore.spi import PIECE, Backend, Span, SupportsRekey
from artstore.testing import BackendSuite, MemoryBackend, make_attr, make_context
from artstore.testing.backend import DATA, KEY, get, key, put
from artstore.testing.memory_backend import Kept, MemoryStore
from artstore_crypt import envelope
from artstore_crypt.backend import KEY_IDS_DOCUMENT, CryptBackend
from artstore_crypt.frames import FRAME, SEALED, TAG, sealed_size
from artstore_crypt.keys import Keyring, key_id
from artstore_local.backend import LocalBackend
from artstore_s3.backend import S3Backend
from artstore_s3.settings import S3Settings
from support import s3
from support.stores import InFiles, InS3

MASTER, NEXT = bytes(range(32)), bytes(range(1, 33))


def text(master: bytes) -> str:
    return base64.b64encode(master).decode()


def around(inner: Backend, home: Path, master: bytes = MASTER, **settings: Any) -> CryptBackend:
    told = CryptBackend.Settings(key=text(master), **settings)
    return CryptBackend(told, replace(make_context(home), inner=inner))


class TestCryptOverLocal(InFiles, BackendSuite):
    """Files of strangers are plain, so the suite's are let through."""

    closes = True

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Backend]:
        def make() -> Backend:
            local = LocalBackend(LocalBackend.Settings(), make_context(tmp_path))
            return around(local, tmp_path, allow_plain=True)

        return make


class OverS3(InS3):
    @pytest.fixture
    def make(self, tmp_path: Path, settings: S3Settings) -> Callable[[], Backend]:
        return lambda: around(S3Backend(settings, make_context(tmp_path)), tmp_path, allow_plain=True)


class TestCryptOverS3(OverS3):
    """What is particular: data in requests of its own, and sidecars replaced by their marks."""

    def test_data_sidecars_and_keys(
        self, backend: CryptBackend, open_second: Callable[[], Backend], s3_server: s3.Seaweed, bucket: str
    ) -> None:
        data = plain(3 * PIECE + 77)
        put(backend, data=data, sidecar=sidecar(size=len(data)))
        client = s3_server.client
        lies = client.get_object(Bucket=bucket, Key=f"se-01/{KEY}")["Body"].read()
        assert len(lies) == sealed_size(len(data))
        assert data[:64] not in lies
        other = open_second()
        assert get(other) == data
        assert get(other, span=Span(FRAME - 1, PIECE)) == data[FRAME - 1 : FRAME - 1 + PIECE]
        other.replace_sidecar(KEY, sidecar(size=len(data), revision=2), if_match=sidecar(size=len(data)))
        with pytest.raises(PreconditionFailed):
            backend.replace_sidecar(KEY, sidecar(), if_match=sidecar(size=len(data)))
        backend._keys = Keyring(NEXT, [MASTER])
        assert list(backend.rekey()) == ["renewed"]
        assert get(backend) == data
        with pytest.raises(Damaged, match=key_id(NEXT)):
            get(other)
        client.put_object(Bucket=bucket, Key=f"se-01/{KEY}", Body=lies[:-1] + bytes([lies[-1] ^ 1]))
        assert get(backend, span=Span(0, PIECE)) == data[:PIECE]
        with pytest.raises(Damaged):
            get(backend)


@pytest.mark.long
class TestCryptOverS3Whole(OverS3, BackendSuite):
    """The whole suite: four minutes."""


# --- over a store in memory, whose bytes can be looked at and changed ---


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def opened(store: MemoryStore, tmp_path: Path) -> Callable[..., CryptBackend]:
    def opened(master: bytes = MASTER, **settings: Any) -> CryptBackend:
        return around(MemoryBackend(store=store), tmp_path, master, **settings)

    return opened


@pytest.fixture
def backend(opened: Callable[..., CryptBackend]) -> CryptBackend:
    return opened()


def sidecar(key: str = KEY, size: int = len(DATA), **changes: Any) -> bytes:
    directory, _, name = key.rpartition("/")
    fields = {"file_id": f"0194567e-8c3a-7000-8000-0000{name[-12:-4]}", "size": size} | changes
    return make_attr(storage_path=directory, storage_filename=name, **fields).encode(3800)


def spoil(store: MemoryStore, data: bytes, key: str = KEY) -> None:
    store.data[key] = Kept(data)


def plain(size: int) -> bytes:
    return random.Random(size).randbytes(size)


SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, PIECE, PIECE + 1, 3 * PIECE + 12345]


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_there_is_not_what_was_given(backend: Backend, store: MemoryStore, size: int) -> None:
    data = plain(size)
    writer = backend.create(KEY)
    rest, steps = data, random.Random(size)
    while rest:
        step = steps.choice([1, 1000, FRAME - 1, FRAME, FRAME + 1, PIECE])
        writer.write(rest[:step])
        rest = rest[step:]
    told = sidecar(size=size)
    writer.publish(told)
    lies = store.data[KEY].content
    assert len(lies) == sealed_size(size) == size + TAG * max(1, -(-size // FRAME))
    assert data[:16] not in lies or size < 16
    assert get(backend) == data
    assert backend.read_sidecar(KEY) == told


def test_frames_and_spans_agree(backend: Backend) -> None:
    data = plain(20 * FRAME + 17)
    put(backend, data=data, sidecar=sidecar(size=len(data)))
    reader = backend.read(KEY)
    assert reader.path is None
    dice = random.Random(1)
    edges = [n * FRAME + d for n in (0, 1, 2, 16, 19, 20) for d in (-1, 0, 1) if n or d >= 0]
    spans = [(a, b - a) for a in edges for b in edges if a < b]
    for offset, length in dice.sample(spans, 60):
        pieces = list(reader.pieces(Span(offset, length)))
        assert b"".join(pieces) == data[offset : offset + length]
        assert all(0 < len(p) <= PIECE for p in pieces)
    reader.close()


def test_the_sidecar_stays_json_that_people_can_read(backend: Backend, store: MemoryStore) -> None:
    told = sidecar()
    put(backend, sidecar=told)
    lies = json.loads(store.sidecars[KEY].content)
    mine = lies.pop("crypt")
    assert lies == json.loads(told)
    assert mine == {
        "version": 1, "key_id": key_id(MASTER), "size": len(DATA), "data_key": mine["data_key"],
    }  # fmt: skip
    assert text(MASTER) not in json.dumps(mine)


def test_a_sidecar_laid_out_anew_by_a_person_is_as_good(backend: Backend, store: MemoryStore) -> None:
    put(backend, sidecar=sidecar())
    told = json.loads(store.sidecars[KEY].content)
    told["crypt"] = told.pop("crypt")  # at the end
    store.sidecars[KEY] = Kept(json.dumps(told, indent="\t").encode())
    assert get(backend) == DATA
    seen = backend.read_sidecar(KEY)
    assert "crypt" not in json.loads(seen)
    backend.replace_sidecar(KEY, sidecar(revision=2), if_match=seen)
    assert backend.read_sidecar(KEY) == sidecar(revision=2)
    assert get(backend) == DATA


def test_equal_files_lie_there_unequal(backend: Backend, store: MemoryStore) -> None:
    for n in range(2):
        put(backend, key(n), sidecar=sidecar(key(n)))
    assert store.data[key(0)].content != store.data[key(1)].content


# --- what somebody with access to the store may do ---

BIG = plain(4 * FRAME + 100)
CUTS: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the first frame": lambda b: bytes([b[0] ^ 1]) + b[1:],
    "a bit of a tag": lambda b: b[: SEALED - 1] + bytes([b[SEALED - 1] ^ 128]) + b[SEALED:],
    "a bit of the last frame": lambda b: b[:-20] + bytes([b[-20] ^ 4]) + b[-19:],
    "frames swapped": lambda b: b[SEALED : 2 * SEALED] + b[:SEALED] + b[2 * SEALED :],
    "a frame repeated": lambda b: b[:SEALED] + b[:SEALED] + b[2 * SEALED :],
    "the last frame cut off": lambda b: b[: 4 * SEALED],
    "the first frame cut off": lambda b: b[SEALED:],
    "a frame taken out": lambda b: b[:SEALED] + b[2 * SEALED :],
    "a frame put in": lambda b: b[: 2 * SEALED] + b[SEALED:],
    "a byte cut off": lambda b: b[:-1],
    "a byte more": lambda b: b + b"\0",
    "nothing left": lambda b: b"",
}


@pytest.mark.parametrize("what", CUTS)
def test_changed_data_is_damaged(backend: Backend, store: MemoryStore, what: str) -> None:
    put(backend, data=BIG, sidecar=sidecar(size=len(BIG)))
    spoil(store, CUTS[what](store.data[KEY].content))
    with pytest.raises(Damaged):
        get(backend)


def test_nothing_of_a_changed_frame_goes_out_and_the_others_are_read(
    backend: Backend, store: MemoryStore
) -> None:
    put(backend, data=BIG, sidecar=sidecar(size=len(BIG)))
    lies = bytearray(store.data[KEY].content)
    lies[2 * SEALED + 5] ^= 1
    spoil(store, bytes(lies))
    reader = backend.read(KEY)
    assert b"".join(reader.pieces(Span(0, 2 * FRAME))) == BIG[: 2 * FRAME]
    assert b"".join(reader.pieces(Span(3 * FRAME, FRAME + 100))) == BIG[3 * FRAME :]
    for span in (Span(2 * FRAME, 1), Span(3 * FRAME - 1, 2), Span(2 * FRAME + 100, 7)):
        with pytest.raises(Damaged):
            next(reader.pieces(span))
    reader.close()


def test_data_of_another_file_is_damaged(backend: Backend, store: MemoryStore) -> None:
    for n in range(2):
        put(backend, key(n), plain(1000), sidecar(key(n), 1000))
    store.data[key(0)] = store.data[key(1)]
    with pytest.raises(Damaged):
        get(backend, key(0))


def test_a_whole_pair_of_another_file_is_damaged(backend: Backend, store: MemoryStore) -> None:
    for n in range(2):
        put(backend, key(n), plain(1000), sidecar(key(n), 1000))
    store.data[key(0)], store.sidecars[key(0)] = store.data[key(1)], store.sidecars[key(1)]
    with pytest.raises(Damaged):
        get(backend, key(0))


def rewritten(store: MemoryStore, change: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(store.sidecars[KEY].content)
    change(told)
    store.sidecars[KEY] = Kept(json.dumps(told).encode())


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another id": lambda t: t.update(file_id="0194567e-8c3a-7000-8000-0000000000ff"),
    "another size of the data": lambda t: t["crypt"].update(size=11),
    "another master key": lambda t: t["crypt"].update(key_id="0" * 16),
    "another key": lambda t: t["crypt"].update(data_key=base64.b64encode(bytes(60)).decode()),
    "no base64": lambda t: t["crypt"].update(data_key="?"),
    "an empty key": lambda t: t["crypt"].update(data_key=""),
    "a size below nothing": lambda t: t["crypt"].update(size=-1),
    "a size that is no number": lambda t: t["crypt"].update(size="x"),
    "a version to come": lambda t: t["crypt"].update(version=2),
    "a key that is a list": lambda t: t.update(crypt=[]),
    "a key that is not there": lambda t: t["crypt"].pop("data_key"),
    "a key with a key within": lambda t: t["crypt"].update(data_key={}),
    "no key at all": lambda t: t.pop("crypt"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_changed_sidecar_is_damaged_and_still_read_and_deleted(
    backend: Backend, store: MemoryStore, what: str
) -> None:
    put(backend, sidecar=sidecar())
    rewritten(store, LIES[what])
    with pytest.raises(Damaged) as caught:
        get(backend)
    assert KEY in caught.value.detail
    assert "crypt" not in json.loads(backend.read_sidecar(KEY))
    backend.delete(KEY, if_match=backend.read_sidecar(KEY))
    with pytest.raises(NotFound):
        backend.read(KEY)


def test_plain_files_are_served_only_where_that_is_allowed(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    put(MemoryBackend(store=store), sidecar=sidecar())
    with pytest.raises(ConfigError, match="not encrypted"):  # a repair would take every file for damaged
        opened()
    lax = opened(allow_plain=True)
    put(lax, key(2), sidecar=sidecar(key(2)))
    strict = opened()
    with pytest.raises(Damaged, match="allow_plain"):
        get(strict)
    assert get(lax) == DATA
    # It may be changed all the same, and stays what it is.
    strict.replace_sidecar(KEY, sidecar(revision=2), if_match=sidecar())
    assert store.sidecars[KEY].content == sidecar(revision=2)
    # Of what was encrypted, taking the key out makes nothing plain.
    put(lax, key(1), sidecar=sidecar(key(1)))
    store.sidecars[key(1)] = Kept(lax.read_sidecar(key(1)))
    assert get(lax, key(1)) != DATA


# --- the room it takes ---


def test_a_sidecar_too_long_is_refused_and_nothing_is_left(backend: Backend, store: MemoryStore) -> None:
    limit = backend.capabilities.sidecar_limit
    assert limit == 4096 - envelope.ROOM > 3800
    with pytest.raises(InvalidField):
        put(backend, sidecar=b"{" + b" " * 4000 + b"}")
    assert not store.data
    assert not store.sidecars
    put(backend, sidecar=sidecar())
    with pytest.raises(InvalidField):
        backend.replace_sidecar(KEY, b"{" + b" " * 4000 + b"}", if_match=sidecar())
    assert backend.read_sidecar(KEY) == sidecar()


# --- master keys ---


def needed(store: MemoryStore) -> list[str]:
    found: list[str] = json.loads(store.documents[KEY_IDS_DOCUMENT])["key_ids"]
    return found


def test_a_store_is_not_opened_without_its_key(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    put(opened(), sidecar=sidecar())
    before = dict(store.documents)
    with pytest.raises(ConfigError, match=key_id(MASTER)) as caught:
        opened(NEXT)
    assert caught.value.place == "backend.crypt.key"
    assert text(NEXT) not in str(caught.value)
    assert store.documents == before


def test_rotation_wraps_sidecars_anew_and_leaves_the_data(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    old = opened()
    for n in range(20):
        put(old, key(n), sidecar=sidecar(key(n)))
    data, before = dict(store.data), dict(store.sidecars)
    new = opened(NEXT, old_keys=[text(MASTER)])
    assert isinstance(new, SupportsRekey)
    assert needed(store) == [key_id(MASTER)]
    assert get(new, key(3)) == DATA
    put(new, key(20), sidecar=sidecar(key(20)))
    half = new.rekey()
    assert [next(half) for _ in range(7)].count("renewed") >= 6  # the new one is among them, perhaps
    half.close()  # it is stopped, and begun again
    assert needed(store) == sorted([key_id(MASTER), key_id(NEXT)])
    rest = list(new.rekey())
    assert len(rest) == 21
    assert set(rest) == {"renewed", "present"}
    assert needed(store) == sorted([key_id(MASTER), key_id(NEXT)])  # another may still wrap with the old one
    assert set(new.rekey()) == {"present"}
    assert needed(store) == [key_id(NEXT)]
    assert {k: v for k, v in store.data.items() if k != key(20)} == data
    assert not any(store.sidecars[k].content == v.content for k, v in before.items())
    alone = opened(NEXT)
    for n in range(21):
        assert get(alone, key(n)) == DATA
        assert alone.read_sidecar(key(n)) == sidecar(key(n))
    with pytest.raises(ConfigError):
        opened(MASTER)


def test_who_was_not_restarted_keeps_the_old_key_in_use(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    old = opened()
    put(old, sidecar=sidecar())
    new = opened(NEXT, old_keys=[text(MASTER)])
    put(new, key(1), sidecar=sidecar(key(1)))
    for _ in range(2):
        list(new.rekey())
    assert needed(store) == [key_id(NEXT)]
    put(old, key(2), sidecar=sidecar(key(2)))
    assert needed(store) == sorted([key_id(MASTER), key_id(NEXT)])
    with pytest.raises(ConfigError, match=key_id(MASTER)):
        opened(NEXT)
    assert sorted(new.rekey()) == ["present", "present", "renewed"]
    assert get(new, key(2)) == DATA


def test_a_store_that_is_only_opened_needs_no_key(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    opened()
    opened(NEXT)
    assert not store.documents


def test_rotation_tells_what_it_cannot_open_and_keeps_the_old_key_in_use(
    store: MemoryStore, opened: Callable[..., CryptBackend]
) -> None:
    old = opened()
    put(old, key(1), sidecar=sidecar(key(1)))
    put(old, sidecar=sidecar())
    put(MemoryBackend(store=store), key(2), sidecar=sidecar(key(2)))
    rewritten(store, LIES["another id"])
    new = opened(NEXT, old_keys=f"{text(MASTER)}\n{text(bytes(32))}\n")
    assert sorted(new.rekey()) == ["damaged", "plain", "renewed"]
    assert key_id(MASTER) in needed(store)


def test_rotation_beside_changes_loses_none(store: MemoryStore, opened: Callable[..., CryptBackend]) -> None:
    old = opened()
    put(old, sidecar=sidecar())
    over = threading.Event()
    faults: list[BaseException] = []

    def change() -> None:
        try:
            seen = sidecar()
            for revision in range(2, 300):
                anew = sidecar(revision=revision)
                old.replace_sidecar(KEY, anew, if_match=seen)  # nobody else changes it: it is never refused
                seen = anew
        except BaseException as e:
            faults.append(e)
        finally:
            over.set()

    thread = threading.Thread(target=change)
    thread.start()
    rounds = 0
    while not over.is_set() or rounds < 2:
        masters = [MASTER, NEXT]
        present = masters[rounds % 2]
        older = [text(m) for m in masters if m != present]
        assert set(opened(present, old_keys=older).rekey()) <= {"renewed", "present"}
        rounds += 1
    thread.join()
    assert not faults
    lax = opened(MASTER, old_keys=[text(NEXT)])
    assert lax.read_sidecar(KEY) == sidecar(revision=299)
    assert get(lax) == DATA
    with pytest.raises(PreconditionFailed):
        lax.replace_sidecar(KEY, sidecar(), if_match=sidecar(revision=298))


@pytest.mark.parametrize("wrong", ["", "abc", text(b"short"), text(bytes(33)), "ключ"])
def test_what_is_no_key_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        CryptBackend.Settings(key=wrong)
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        CryptBackend.Settings(key=text(MASTER), old_keys=[wrong])
