"""Encrypts data in frames. Each frame is sealed by itself, so a span is read without the frames before it.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance, CRYPTO 2015) with AES-256-GCM: the nonce of a frame is its number and whether it is
the last. If frames are dropped, repeated, swapped or cut off, or moved to another file, which has another key, they do
not open there. The key of a file seals its frames once, so no nonce is used twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artstore.errors import Damaged
from artstore.ids import Key
from artstore.spi import PIECE, Reader, Span, Writer
from artstore_crypt import envelope
from artstore_crypt.keys import KEY_SIZE, Keyring

FRAME = 65536
"""Plain bytes of a frame. The last frame may be shorter; only empty data has an empty frame."""
TAG = 16
"""Bytes that sealing adds to a frame."""
SEALED = FRAME + TAG
"""Bytes of a whole frame when it is sealed."""
_BATCH = PIECE // FRAME
"""Frames that are opened at a time: a piece of 1 MiB."""


def sealed_size(size: int) -> int:
    """Return the bytes of the sealed data for `size` plain bytes."""
    return size + TAG * (_last(size) + 1)


def _last(size: int) -> int:
    """Return the number of the last frame."""
    return max(0, size - 1) // FRAME


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class CryptWriter(Writer):
    """Seals the data and passes it to the inner writer."""

    def __init__(self, inner: Writer, key: Key, keys: Keyring) -> None:
        self._inner = inner
        self._key = key
        self._keys = keys
        self._data_key = AESGCM.generate_key(KEY_SIZE * 8)
        self._cipher = AESGCM(self._data_key)
        self._number = 0
        self._size = 0
        self._rest = bytearray()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        self._size += len(piece)
        # A whole frame waits too: it is the last one unless more data follows.
        if len(self._rest) + len(piece) <= FRAME:
            self._rest += piece
            return
        frames: list[bytes] = []
        with memoryview(piece) as data:
            at = 0
            if self._rest:
                at = FRAME - len(self._rest)
                self._rest += data[:at]
                frames.append(self._seal(self._rest))
            while len(data) - at > FRAME:
                frames.append(self._seal(data[at : at + FRAME]))
                at += FRAME
            self._rest[:] = data[at:]
        if frames:
            self._inner.write(b"".join(frames))

    def _seal(self, plain: bytearray | memoryview, *, last: bool = False) -> bytes:
        number = self._number
        self._number += 1
        return self._cipher.encrypt(_nonce(number, last=last), plain, None)

    def publish(self, sidecar: bytes) -> None:
        try:
            file_id = envelope.file_id(sidecar)
            wrapped = self._keys.wrap(self._data_key, key=self._key, file_id=file_id, size=self._size)
            joined = envelope.join(sidecar, wrapped.encode())
            self._inner.write(self._seal(self._rest, last=True))
        except BaseException:
            self.abort()
            raise
        self._inner.publish(joined)

    def abort(self) -> None:
        self._inner.abort()


class CryptReader(Reader):
    """Opens the frames of a span. It has no `path`: the bytes in the store are not those of the file."""

    path: str | None = None

    def __init__(self, inner: Reader, key: Key, data_key: bytes, size: int) -> None:
        self._inner = inner
        self._key = key
        self._cipher = AESGCM(data_key)
        self.size = size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        if not left:
            return
        if offset + left > self.size:
            raise Damaged(f"The data of {self._key} ends at {self.size}, before it should.")
        number, last = offset // FRAME, (offset + left - 1) // FRAME
        begin, end = number * SEALED, min((last + 1) * SEALED, self._inner.size)
        skip = offset - number * FRAME
        for batch in _batches(self._inner.pieces(Span(begin, end - begin))):
            plain = b"".join(self._open(n, frame) for n, frame in enumerate(batch, number))
            number += len(batch)
            piece = plain[skip : skip + left] if skip or len(plain) > left else plain
            skip = 0
            left -= len(piece)
            yield piece

    def _open(self, number: int, frame: memoryview) -> bytes:
        try:
            return self._cipher.decrypt(_nonce(number, last=number == _last(self.size)), frame, None)
        except (InvalidTag, ValueError):
            raise Damaged(f"The data of {self._key} was changed at {number * FRAME}.") from None

    def close(self) -> None:
        self._inner.close()


def _batches(pieces: Iterator[bytes]) -> Iterator[list[memoryview]]:
    """Yield the sealed frames in pieces of any size, `_BATCH` at a time."""
    rest = b""
    for piece in pieces:
        data = memoryview(rest + piece if rest else piece)
        whole = len(data) - len(data) % SEALED
        frames = [data[at : at + SEALED] for at in range(0, whole, SEALED)]
        yield from (frames[i : i + _BATCH] for i in range(0, len(frames), _BATCH))
        rest = bytes(data[whole:])
    if rest:
        yield [memoryview(rest)]
