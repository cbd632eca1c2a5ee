"""S3 as a store of objects: conditional puts, and a look wherever a reply was lost.

If-None-Match and If-Match on PutObject and CompleteMultipartUpload: AWS since November 2024, MinIO, SeaweedFS, Ceph.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import Any

from artstore.errors import OutcomeUnknown, Unavailable
from artstore.ids import Key
from artstore_objects.store import Content, Stored
from artstore_s3.client import LOST, Client, Lost, Refusal, unavailable
from artstore_s3.parts import S3Upload
from artstore_s3.reader import S3Reader

_MARK, _PUT = "artstore-upload", "artstore-put"
_COPY_AT_ONCE = 5 << 30
_TRIES = 3


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Calls that may simply be made again."""
    try:
        yield
    except (Refusal, Lost) as e:
        raise unavailable(e, what) from None


class S3Objects:
    """The objects of one bucket below one prefix."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def full(self, name: str) -> str:
        """The name in the bucket."""
        return self._prefix + name

    def look(self, name: str) -> Stored | None:
        found = self._head(name)
        return found and found[0]

    def _head(self, name: str) -> tuple[Stored, str] | None:
        with translated(name):
            try:
                found = self._client.call("head_object", Key=self.full(name))
            except Refusal as e:
                if e.status == 404:
                    return None
                raise
        marks = found["Metadata"]
        age = _age(found["LastModified"], _clock(found))
        stored = Stored(name, found["ContentLength"], found["ETag"], age, marks.get(_MARK, ""))
        return stored, marks.get(_PUT, "")

    def get(self, name: str, limit: int) -> Content | None:
        async def small() -> Content | None:
            for _ in range(_TRIES):
                try:
                    found = await self._client.acall("get_object", Key=self.full(name))
                except Refusal as e:
                    if e.status == 404 and e.code != "NoSuchBucket":
                        return None
                    raise
                content = await _first(found["Body"], limit)
                if len(content) == min(limit, found["ContentLength"]):
                    return Content(content, found["ETag"], found["Metadata"].get(_MARK, ""))
            raise Lost("the answer was cut short", unsure=False)

        with translated(name):
            return self._client.within(small)

    def put(
        self, name: str, content: bytes, *, mark: str = "", absent: bool = False, tag: str | None = None
    ) -> bool:
        this = secrets.token_hex(8)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if absent else {"IfMatch": tag} if tag else {}
        # Of a request that is cut off after its head SeaweedFS makes an empty object, unless it is told the digest.
        digest = b64encode(md5(content, usedforsecurity=False).digest()).decode()
        try:
            self._client.call(
                "put_object",
                size=len(content),
                Key=self.full(name),
                Body=content,
                ContentMD5=digest,
                Metadata={_MARK: mark, _PUT: this},
                **condition,
            )
        except Lost as e:
            kind = OutcomeUnknown if e.unsure else Unavailable
            raise kind(f"S3 does not answer at {name}: {e.reason}.") from None
        except Refusal as e:
            if e.status == 412 or (tag is not None and e.status == 404 and e.code != "NoSuchBucket"):
                return self._was_ours(name, this, unsure=e.unsure and tag is not None)
            if e.unsure:
                raise OutcomeUnknown(unavailable(e, name).detail) from None
            raise unavailable(e, name) from None
        return True

    def _was_ours(self, name: str, this: str, *, unsure: bool) -> bool:
        """The condition failed: because of this very put, carried out and not answered?"""
        try:
            found = self._head(name)
        except Unavailable as e:
            raise OutcomeUnknown(e.detail) from None
        if found is not None and found[1] == this:
            return True
        if unsure:
            raise OutcomeUnknown(f"S3 did not say whether {name} was replaced, and others replaced it since.")
        return False

    def delete(self, name: str, tag: str | None = None) -> None:
        with translated(name):
            try:
                condition: dict[str, Any] = {"IfMatch": tag} if tag else {}
                self._client.call("delete_object", Key=self.full(name), **condition)
            except Refusal as e:
                if e.status not in (404, 412) or e.code == "NoSuchBucket":
                    raise

    def copy(self, source: Stored, target: str) -> None:
        there = {"Bucket": self._client.bucket, "Key": self.full(source.name)}
        with translated(source.name):
            if source.size < _COPY_AT_ONCE:
                self._client.call("copy_object", size=source.size, Key=self.full(target), CopySource=there)
                return
        bucket = self._client.bucket
        paths = (f"{bucket}/{self.full(source.name)}", f"{bucket}/{self.full(target)}")
        try:
            self._client.wait(self._client.fs._cp_file(*paths))
        except OSError as e:
            raise Unavailable(f"S3 could not copy {source.name}: {type(e).__name__}.") from None

    def list(self, prefix: str) -> Iterator[Stored | str]:
        for page in self._pages("list_objects_v2", prefix, Delimiter="/"):
            yield from self._contents(page)
            for below in page.get("CommonPrefixes", ()):
                yield below["Prefix"].removeprefix(self._prefix)

    def walk(self, prefix: str) -> Iterator[Stored]:
        for page in self._pages("list_objects_v2", prefix):
            yield from self._contents(page)

    def _pages(self, operation: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
        place = {"Prefix": self.full(prefix)} | more
        while True:
            with translated(f"the list of {prefix or 'the store'}"):
                page = self._client.call(operation, **place)
            yield page
            if not page.get("IsTruncated"):
                return
            for token, parameter in (
                ("NextContinuationToken", "ContinuationToken"),
                ("NextKeyMarker", "KeyMarker"),
                ("NextUploadIdMarker", "UploadIdMarker"),
            ):
                if page.get(token):
                    place[parameter] = page[token]

    def _contents(self, page: dict[str, Any]) -> Iterator[Stored]:
        clock = _clock(page)
        for found in page.get("Contents", ()):
            name = found["Key"].removeprefix(self._prefix)
            if not name.endswith("/"):  # consoles put empty objects where they show directories
                yield Stored(name, found["Size"], found["ETag"], _age(found["LastModified"], clock))

    def upload(self, name: str, mark: str) -> S3Upload:
        return S3Upload(self, self._client, name, mark, {_MARK: mark})

    def open(self, name: str, key: Key) -> S3Reader | None:
        found = self.look(name)
        return found and S3Reader(self._client, self.full(name), found, key)

    def under_way(self) -> Iterator[str]:
        for page in self._pages("list_multipart_uploads", ""):
            yield from (u["Key"].removeprefix(self._prefix) for u in page.get("Uploads", ()))

    def drop_uploads(self, name: str | None = None, *, older: float = 0.0) -> None:
        for page in self._pages("list_multipart_uploads", name or ""):
            clock = _clock(page)
            for found in page.get("Uploads", ()):
                if name is not None and found["Key"] != self.full(name):
                    continue
                if _age(found["Initiated"], clock) >= older:
                    self.drop(found["Key"].removeprefix(self._prefix), found["UploadId"])

    def drop(self, name: str, upload_id: str) -> None:
        """End one multipart upload. Not there: no error."""
        with translated(name):
            try:
                self._client.call("abort_multipart_upload", Key=self.full(name), UploadId=upload_id)
            except Refusal as e:
                if e.status != 404 or e.code == "NoSuchBucket":
                    raise

    def check(self, *, writing: bool) -> None:
        with translated("the store"):
            self._client.call("list_objects_v2", Prefix=self.full(".artstore/"), MaxKeys=1)
        if writing:
            self.put(".artstore/probe", b"")

    def close(self) -> None:
        self._client.close()


async def _first(body: Any, limit: int) -> bytes:
    """The first `limit` bytes of an answer, or as many as came."""
    content = b""
    try:
        while len(content) < limit and (piece := await body.read(limit - len(content))):
            content += piece
    except LOST:
        pass
    finally:
        body.close()
    return content


def _clock(answer: dict[str, Any]) -> datetime | None:
    """The server's own time: ages do not depend on ours."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else None


def _age(came: datetime, clock: datetime | None) -> float:
    return max(0.0, ((clock or datetime.now(came.tzinfo)) - came).total_seconds())
