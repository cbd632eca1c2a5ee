"""An upload to S3: in one request while it is small, else in parts, a few of them sent at the same time."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import CancelledError, Future
from typing import Any

from artstore.errors import ArtstoreError, OutcomeUnknown, TooLarge, Unavailable
from artstore_objects.store import Upload
from artstore_s3.bucket import UPLOADS, WRITER_ID, Bucket
from artstore_s3.client import Lost, Refusal, translate

MIB = 1 << 20
FIRST_PART = 8 * MIB
"""Bytes of the first parts. A smaller object is sent in one request."""
EQUAL_PARTS = 256
"""Parts of that size, 2 GiB together. Each later part is larger."""
PART_GROWTH = 115_000
"""Bytes by which each later part is longer than the one before. So 10,000 parts, the limit of S3, hold 5 TiB."""
PART_LIMIT = 10_000
SENDING_LIMIT = 16 * MIB
"""Bytes that are sent at the same time; at least one part. More was no faster on one machine, and costs memory."""
COMPLETE_SIZE = 16 * MIB
"""Bytes that the deadline of completing counts for: a server may need time to put the parts together."""


def part_size(number: int) -> int:
    """Return the bytes of the part `number`; parts count from 1."""
    return FIRST_PART + max(0, number - EQUAL_PARTS) * PART_GROWTH


class S3Upload(Upload):
    """A new object. Memory holds the part that is being filled and those that are being sent, nothing else."""

    def __init__(self, bucket: Bucket, name: str, writer_id: str) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._name = name
        self._writer_id = writer_id
        self._announcement = f"{UPLOADS}{name}~{writer_id}"
        self._part = io.BytesIO()
        self._upload_id: str | None = None
        self._parts_sent = 0
        self._etags: list[str] = []
        self._sending: deque[tuple[int, Future[dict[str, Any]]]] = deque()
        self._ended = False

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        rest = memoryview(piece)
        while rest:
            room = part_size(self._parts_sent + 1) - self._part.tell()
            self._part.write(rest[:room])
            rest = rest[room:]
            if rest:  # a full part waits until more comes: the last part may have any size
                self._send()

    def _send(self) -> None:
        part, self._part = self._part.getvalue(), io.BytesIO()
        name = self._bucket.full(self._name)
        if self._parts_sent == PART_LIMIT:
            raise TooLarge(f"S3 takes at most {PART_LIMIT} parts: this file is larger.")
        try:
            if self._upload_id is None:
                self._announce()
                created = self._client.call(
                    "create_multipart_upload", Key=name, Metadata={WRITER_ID: self._writer_id}
                )
                self._upload_id = created["UploadId"]
            while self._sending and sum(size for size, _ in self._sending) + len(part) > SENDING_LIMIT:
                self._wait_for_part()
        except (Refusal, Lost) as e:
            raise translate(e, "this file") from None
        self._parts_sent += 1
        call = self._client.acall(
            "upload_part",
            size=len(part),
            Key=name,
            UploadId=self._upload_id,
            PartNumber=self._parts_sent,
            Body=part,
        )
        self._sending.append((len(part), self._client.start(call)))

    def _announce(self) -> None:
        try:
            self._bucket.put(self._announcement, b"")
        except OutcomeUnknown as e:
            raise Unavailable(e.detail) from None  # whether it is there or not, nothing else is

    def _withdraw(self) -> None:
        """Remove the announcement: nothing is left of the upload in parts."""
        try:
            self._bucket.delete(self._announcement)
        except ArtstoreError:
            pass  # `abort_uploads` removes it after the retention

    def _wait_for_part(self) -> None:
        _, call = self._sending.popleft()
        self._etags.append(call.result()["ETag"])

    def finish(self) -> bool:
        if self._upload_id is None:
            content, self._part = self._part.getvalue(), io.BytesIO()
            try:
                return self._bucket.put(self._name, content, writer_id=self._writer_id, if_absent=True)
            except OutcomeUnknown:
                self._ended = True
                raise
        self._send()
        try:
            while self._sending:
                self._wait_for_part()
        except (Refusal, Lost) as e:
            raise translate(e, "this file") from None
        self._ended = self._complete()
        if self._ended:
            self._withdraw()
        return self._ended

    def _complete(self) -> bool:
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self._etags, 1)]
        try:
            self._client.call(
                "complete_multipart_upload",
                size=COMPLETE_SIZE,
                Key=self._bucket.full(self._name),
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
            return True
        except Lost as e:
            if not e.in_doubt:
                raise translate(e, "this file") from None
            self._ended = True
            raise OutcomeUnknown(f"S3 does not answer at this file: {e.reason}.") from None
        except Refusal as e:
            if e.status in (404, 412):
                return self._was_completed(taken=e.status == 412)
            if e.in_doubt:
                self._ended = True
                raise OutcomeUnknown(translate(e, "this file").detail) from None
            raise translate(e, "this file") from None

    def _was_completed(self, *, taken: bool) -> bool:
        """Return whether the object is there by this very upload.

        S3 answered that there is no such upload, or that the name is taken (`taken`): an earlier try, whose reply was
        lost, may have completed it.
        """
        try:
            present = self._bucket.head(self._name)
        except Unavailable as e:
            self._ended = True
            raise OutcomeUnknown(e.detail) from None
        if present is not None and present.writer_id == self._writer_id:
            return True
        if taken or present is not None:
            return False
        raise Unavailable("The parts of this upload were removed meanwhile; try again.")

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._part = io.BytesIO()
        for _, call in self._sending:
            call.cancel()
        for _, call in self._sending:
            try:
                call.result()
            except (Refusal, Lost, CancelledError):
                pass
        self._sending.clear()
        if self._upload_id is not None:
            try:
                self._bucket.abort_upload(self._name, self._upload_id)
            except ArtstoreError:
                return  # `abort_uploads` removes it after the retention
            self._withdraw()
