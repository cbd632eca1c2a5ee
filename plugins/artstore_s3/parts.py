"""An object on its way: in one request while it is small, in parts after that, a few of them at a time."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from artstore.errors import ArtstoreError, OutcomeUnknown, Unavailable
from artstore_s3.client import Client, Lost, Refusal, unavailable

if TYPE_CHECKING:
    from artstore_s3.objects import S3Objects

MIB = 1 << 20
FIRST_PART = 8 * MIB
EQUAL = 256
"""Parts of that size; what is longer than 2 GiB needs larger ones."""
GROWTH = 115_000
"""Bytes by which each later part is longer than the one before: 10,000 parts, the most there may be, hold 5 TiB."""
WINDOW = 16 * MIB
"""Bytes sent at the same moment; one part at least. More is no quicker on one machine, and memory is not free."""


def part_size(number: int) -> int:
    """Bytes of the part of that number; parts count from 1."""
    return FIRST_PART + max(0, number - EQUAL) * GROWTH


class S3Upload:
    """New data for one name. Holds the part that fills and those under way, no more."""

    def __init__(
        self, objects: S3Objects, client: Client, name: str, mark: str, metadata: dict[str, str]
    ) -> None:
        self._objects = objects
        self._client = client
        self._name = name
        self._mark = mark
        self._metadata = metadata
        self._filling = io.BytesIO()
        self._upload_id: str | None = None
        self._sent = 0
        self._tags: list[str] = []
        self._under_way: deque[tuple[int, Future[dict[str, Any]]]] = deque()
        self._over = False

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        rest = memoryview(piece)
        while rest:
            room = part_size(self._sent + 1) - self._filling.tell()
            self._filling.write(rest[:room])
            rest = rest[room:]
            if rest:  # a part goes when the next one begins: the last may have any size
                self._send()

    def _send(self) -> None:
        part, self._filling = self._filling.getvalue(), io.BytesIO()
        try:
            if self._upload_id is None:
                begun = self._client.call(
                    "create_multipart_upload", Key=self._objects.full(self._name), Metadata=self._metadata
                )
                self._upload_id = begun["UploadId"]
            while self._under_way and sum(size for size, _ in self._under_way) + len(part) > WINDOW:
                self._collect()
        except (Refusal, Lost) as e:
            raise unavailable(e, "this file") from None
        self._sent += 1
        sending = self._client.acall(
            "upload_part",
            size=len(part),
            Key=self._objects.full(self._name),
            UploadId=self._upload_id,
            PartNumber=self._sent,
            Body=part,
        )
        self._under_way.append((len(part), self._client.begin(sending)))

    def _collect(self) -> None:
        _, sending = self._under_way.popleft()
        self._tags.append(sending.result()["ETag"])

    def finish(self) -> bool:
        if self._upload_id is None:
            content, self._filling = self._filling.getvalue(), io.BytesIO()
            try:
                done = self._objects.put(self._name, content, mark=self._mark, absent=True)
            except OutcomeUnknown:
                self._over = True
                raise
            return done
        self._send()
        try:
            while self._under_way:
                self._collect()
        except (Refusal, Lost) as e:
            raise unavailable(e, "this file") from None
        done = self._complete()
        self._over = done
        return done

    def _complete(self) -> bool:
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(self._tags, 1)]
        try:
            self._client.call(
                "complete_multipart_upload",
                size=16 * MIB,  # a server may take its time to put it together
                Key=self._objects.full(self._name),
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
            return True
        except Lost as e:
            if not e.unsure:
                raise unavailable(e, "this file") from None
            self._over = True
            raise OutcomeUnknown(f"S3 does not answer at this file: {e.reason}.") from None
        except Refusal as e:
            if e.status in (404, 412):
                return self._was_ours(taken=e.status == 412)
            if e.unsure:
                self._over = True
                raise OutcomeUnknown(unavailable(e, "this file").detail) from None
            raise unavailable(e, "this file") from None

    def _was_ours(self, *, taken: bool) -> bool:
        """No such upload any more, or the name is taken: by this very upload, completed and not answered?"""
        try:
            there = self._objects.look(self._name)
        except Unavailable as e:
            self._over = True
            raise OutcomeUnknown(e.detail) from None
        if there is not None and there.mark == self._mark:
            return True
        if taken or there is not None:
            return False
        raise Unavailable("The parts of this upload were taken away meanwhile; try again.")

    def abort(self) -> None:
        if self._over:
            return
        self._over = True
        self._filling = io.BytesIO()
        for _, sending in self._under_way:
            sending.cancel()
        for _, sending in self._under_way:
            try:
                sending.result()
            except (Refusal, Lost, CancelledError):
                pass
        self._under_way.clear()
        if self._upload_id is not None:
            try:
                self._objects.drop(self._name, self._upload_id)
            except ArtstoreError:
                pass  # it goes when it is older than the grace
