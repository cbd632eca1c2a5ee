"""Names in a bucket and puts with a condition; after a lost reply the object is read to find out what happened.

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
from artstore.spi import INTERNAL
from artstore_objects.store import ObjectInfo
from artstore_s3.client import Client, Lost, Refusal, translate

WRITER_ID = "artstore-upload"
"""The metadata field that holds the `writer_id` of an object."""
_PUT_ID = "artstore-put"
"""The metadata field that identifies the single put that wrote an object."""
UPLOADS = f"{INTERNAL}/uploads/"
"""Where an upload in parts is announced, as `<name>~<writer_id>`, before it begins. What is not announced was not made
by us: other applications may use the same bucket."""


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Raise the failure of a call as an error that names `what`. For calls that may simply be repeated."""
    try:
        yield
    except (Refusal, Lost) as e:
        raise translate(e, what) from None


class Bucket:
    """The objects of one bucket whose names begin with `prefix`."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    def full(self, name: str) -> str:
        """Return the name in the bucket, with the prefix."""
        return self.prefix + name

    def head(self, name: str) -> ObjectInfo | None:
        """Return what is known about the object `name`, or None. Raises `Unavailable`."""
        found = self._head(name)
        return found and found[0]

    def _head(self, name: str) -> tuple[ObjectInfo, str] | None:
        """The same, and the id of the put that wrote the object.

        The answer to a HEAD has no body, so 404 does not tell a missing object from a missing bucket: a list tells.
        """
        with translate_errors(name):
            try:
                found = self.client.call("head_object", Key=self.full(name))
            except Refusal as e:
                if e.status != 404:
                    raise
                self.client.call("list_objects_v2", Prefix=self.full(name), MaxKeys=1)
                return None
        metadata = found["Metadata"]
        age = age_at(found["LastModified"], server_time(found))
        info = ObjectInfo(name, found["ContentLength"], found["ETag"], age, metadata.get(WRITER_ID, ""))
        return info, metadata.get(_PUT_ID, "")

    def put(
        self,
        name: str,
        content: bytes,
        *,
        writer_id: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        """See `ObjectStore.put`."""
        put_id = secrets.token_hex(8)
        condition: dict[str, Any] = (
            {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        )
        # When a request is cut off after its head, SeaweedFS makes an empty object, unless it knows the digest.
        digest = b64encode(md5(content, usedforsecurity=False).digest()).decode()
        try:
            self.client.call(
                "put_object",
                size=len(content),
                Key=self.full(name),
                Body=content,
                ContentMD5=digest,
                Metadata={WRITER_ID: writer_id, _PUT_ID: put_id},
                **condition,
            )
        except Lost as e:
            kind = OutcomeUnknown if e.in_doubt else Unavailable
            raise kind(f"S3 does not answer at {name}: {e.reason}.") from None
        except Refusal as e:
            if e.status == 412 or (if_match is not None and e.is_absence):
                return self._was_put(name, put_id, in_doubt=e.in_doubt and if_match is not None)
            if e.in_doubt:
                raise OutcomeUnknown(translate(e, name).detail) from None
            raise translate(e, name) from None
        return True

    def _was_put(self, name: str, put_id: str, *, in_doubt: bool) -> bool:
        """Return whether the object was written by this very put: an earlier try of it, whose reply was lost, may be
        the reason why the condition failed."""
        try:
            found = self._head(name)
        except Unavailable as e:
            raise OutcomeUnknown(e.detail) from None
        if found is not None and found[1] == put_id:
            return True
        if in_doubt:
            raise OutcomeUnknown(
                f"S3 did not answer whether {name} was replaced, and it was replaced again since."
            )
        return False

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `ObjectStore.delete`."""
        with translate_errors(name):
            try:
                condition: dict[str, Any] = {"IfMatch": if_match} if if_match else {}
                self.client.call("delete_object", Key=self.full(name), **condition)
            except Refusal as e:
                if e.status != 412 and not e.is_absence:
                    raise

    def abort_upload(self, name: str, upload_id: str) -> None:
        """Abort one multipart upload. No such upload is no error. Raises `Unavailable`."""
        with translate_errors(name):
            try:
                self.client.call("abort_multipart_upload", Key=self.full(name), UploadId=upload_id)
            except Refusal as e:
                if not e.is_absence:
                    raise


def server_time(answer: dict[str, Any]) -> datetime | None:
    """Return the time of the server at its answer, so that ages do not depend on our clock."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else None


def age_at(written: datetime, now: datetime | None) -> float:
    """Return the seconds since `written`, at least 0. Without `now`, by our clock."""
    return max(0.0, ((now or datetime.now(written.tzinfo)) - written).total_seconds())
