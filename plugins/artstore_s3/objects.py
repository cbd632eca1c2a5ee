"""S3 as an object store: the names of a bucket, with listing, copying, uploads and downloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artstore.errors import Unavailable
from artstore.ids import Key
from artstore.spi import INTERNAL
from artstore_objects.store import Content, ObjectInfo, ObjectStore
from artstore_s3.bucket import UPLOADS, WRITER_ID, Bucket, age_at, server_time, translate_errors
from artstore_s3.client import LOST, Lost, Refusal
from artstore_s3.parts import S3Upload
from artstore_s3.reader import S3Reader

_COPY_LIMIT = 5 << 30
"""Bytes that S3 copies in one call; a larger object is copied in parts."""
_GET_TRIES = 3
"""How often a small object is asked for when the answer is cut short."""


class S3Store(ObjectStore):
    """The objects of one bucket below one prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._client = bucket.client

    def head(self, name: str) -> ObjectInfo | None:
        return self._bucket.head(name)

    def get(self, name: str, limit: int) -> Content | None:
        async def try_to_get() -> Content | None:
            for _ in range(_GET_TRIES):
                try:
                    found = await self._client.acall("get_object", Key=self._bucket.full(name))
                except Refusal as e:
                    if e.is_absence:
                        return None
                    raise
                content = await _read_first(found["Body"], limit)
                if len(content) == min(limit, found["ContentLength"]):
                    return Content(content, found["ETag"], found["Metadata"].get(WRITER_ID, ""))
            raise Lost("the answer was cut short", in_doubt=False)

        with translate_errors(name):
            return self._client.run(try_to_get)

    def put(
        self,
        name: str,
        content: bytes,
        *,
        writer_id: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        return self._bucket.put(name, content, writer_id=writer_id, if_absent=if_absent, if_match=if_match)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self._bucket.delete(name, if_match=if_match)

    def copy(self, source: ObjectInfo, target: str) -> None:
        bucket, full = self._client.bucket, self._bucket.full
        with translate_errors(source.name):
            if source.size < _COPY_LIMIT:
                self._client.call(
                    "copy_object",
                    size=source.size,
                    Key=full(target),
                    CopySource={"Bucket": bucket, "Key": full(source.name)},
                )
                return
        paths = (f"{bucket}/{full(source.name)}", f"{bucket}/{full(target)}")
        try:
            self._client.wait(self._client.fs._cp_file(*paths))
        except OSError as e:
            raise Unavailable(f"S3 could not copy {source.name}: {type(e).__name__}.") from None

    def list(self, prefix: str) -> Iterator[ObjectInfo | str]:
        for page in self._pages("list_objects_v2", prefix, Delimiter="/"):
            yield from self._contents(page)
            for deeper in page.get("CommonPrefixes", ()):
                yield deeper["Prefix"].removeprefix(self._bucket.prefix)

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        for page in self._pages("list_objects_v2", prefix):
            yield from self._contents(page)

    def _pages(self, operation: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
        parameters = {"Prefix": self._bucket.full(prefix)} | more
        while True:
            with translate_errors(f"the list of {prefix or 'the store'}"):
                page = self._client.call(operation, **parameters)
            yield page
            if not page.get("IsTruncated"):
                return
            for token, parameter in (
                ("NextContinuationToken", "ContinuationToken"),
                ("NextKeyMarker", "KeyMarker"),
                ("NextUploadIdMarker", "UploadIdMarker"),
            ):
                if page.get(token):
                    parameters[parameter] = page[token]

    def _contents(self, page: dict[str, Any]) -> Iterator[ObjectInfo]:
        now = server_time(page)
        for found in page.get("Contents", ()):
            name = found["Key"].removeprefix(self._bucket.prefix)
            if not name.endswith("/"):  # web consoles put empty objects where they show directories
                yield ObjectInfo(name, found["Size"], found["ETag"], age_at(found["LastModified"], now))

    def upload(self, name: str, writer_id: str) -> S3Upload:
        return S3Upload(self._bucket, name, writer_id)

    def open(self, name: str, key: Key) -> S3Reader | None:
        info = self.head(name)
        return info and S3Reader(self._client, self._bucket.full(name), info, key)

    def list_uploads(self) -> Iterator[str]:
        for announced in self.walk(UPLOADS):
            yield announced_name(announced)

    def abort_uploads(self, name: str | None = None, *, older_than: float = 0.0) -> None:
        """See `ObjectStore.abort_uploads`.

        Without `name`, of what lies elsewhere than below `.artstore/` only that is aborted which was announced. An
        announcement stays for as long as an upload of its name is younger.
        """
        if name is not None:
            self._abort(name, older_than, exact=True)
            return
        self._abort(f"{INTERNAL}/", older_than)
        for announced in self.walk(UPLOADS):
            if announced.age >= older_than and self._abort(announced_name(announced), older_than, exact=True):
                self.delete(announced.name)

    def _abort(self, prefix: str, older_than: float, *, exact: bool = False) -> bool:
        """Abort the unfinished uploads below `prefix`, or to that very name, that are older; return whether none is
        left."""
        none_left = True
        for page in self._pages("list_multipart_uploads", prefix):
            now = server_time(page)
            for found in page.get("Uploads", ()):
                name = found["Key"].removeprefix(self._bucket.prefix)
                if exact and name != prefix:
                    continue
                if age_at(found["Initiated"], now) >= older_than:
                    self._bucket.abort_upload(name, found["UploadId"])
                else:
                    none_left = False
        return none_left

    def check(self, *, writing: bool) -> None:
        with translate_errors("the store"):
            self._client.call("list_objects_v2", Prefix=self._bucket.full(".artstore/"), MaxKeys=1)
        if writing:
            self.put(".artstore/probe", b"")

    def close(self) -> None:
        self._client.close()


async def _read_first(body: Any, limit: int) -> bytes:
    """Return the first `limit` bytes of an answer, or as many as arrived before it was cut off."""
    content = b""
    try:
        while len(content) < limit and (piece := await body.read(limit - len(content))):
            content += piece
    except LOST:
        pass
    finally:
        body.close()
    return content


def announced_name(announced: ObjectInfo) -> str:
    """Return the name to which the upload goes that is announced by this object."""
    return announced.name.removeprefix(UPLOADS).rpartition("~")[0]
