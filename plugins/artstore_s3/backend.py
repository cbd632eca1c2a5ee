"""The backend `s3`: a bucket, or a part of one. Any number of nodes may serve it."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from pydantic import BaseModel

from artstore.errors import ConfigError, StorageFull, Unavailable, missing_store
from artstore.ids import Key
from artstore.spi import Capabilities, Context
from artstore_objects.backend import ObjectBackend
from artstore_s3.bucket import Bucket
from artstore_s3.client import Client, Lost, Refusal, translate
from artstore_s3.objects import S3Store
from artstore_s3.settings import S3Settings

log = logging.getLogger("artstore.s3")


class S3Backend(ObjectBackend):
    """A store in S3. The protocol is in `artstore_objects.backend`; the server checks the conditions."""

    Settings: ClassVar[type[BaseModel]] = S3Settings
    capabilities = Capabilities(
        durable=True, atomic_sidecar=True, shared=True, lists_uploads=False, keys_reusable=False
    )

    def __init__(self, settings: S3Settings, context: Context) -> None:
        self._presign_seconds = settings.presign_seconds if settings.presign else 0
        self._client = Client(settings)
        try:
            found = _require_bucket(self._client, settings)
            if context.expects_store and not found:
                where = f"The prefix '{settings.prefix}' of bucket '{self._client.bucket}' at {self._client.where}"
                raise missing_store(where, place="backend.s3")
            if not context.read_only:
                _require_conditions(self._client, settings)
        except BaseException:
            self._client.close()
            raise
        self._bucket = Bucket(self._client, settings.prefix)
        super().__init__(S3Store(self._bucket), tombstone_retention=settings.tombstone_retention)

    def redirect(self, key: Key, *, content_type: str, disposition: str) -> str | None:
        if not self._presign_seconds:
            return None
        try:
            return self._client.run(
                lambda: self._client.presign(
                    self._presign_seconds,
                    Key=self._bucket.full(key),
                    ResponseContentType=content_type,
                    ResponseContentDisposition=disposition,
                )
            )
        except Lost as e:
            raise translate(e, key) from None


def _require_bucket(client: Client, settings: S3Settings) -> bool:
    """Raise an error with a cure when the bucket cannot be listed: missing, denied, or no server.

    Returns whether anything of a store is there.
    """
    try:
        found = client.call("list_objects_v2", Prefix=f"{settings.prefix}.artstore/", MaxKeys=1)
    except Lost as e:
        raise Unavailable(
            f"S3 at {client.where} does not answer: {e.reason}. Is backend.s3.endpoint_url right, and does it run?"
        ) from None
    except Refusal as e:
        raise _wrong_setting(client, e) from None
    return bool(found.get("Contents"))


def _require_conditions(client: Client, settings: S3Settings) -> None:
    """Raise `ConfigError` when the server ignores conditions of a put: every guarantee of the store depends on them."""
    name = f"{settings.prefix}.artstore/conditions"
    body = b"A server that replaces this object in spite of the condition cannot hold a store.\n"
    conditions: tuple[dict[str, Any], ...] = (
        {"IfNoneMatch": "*"},
        {"IfNoneMatch": "*"},
        {"IfMatch": '"00000000000000000000000000000000"'},
    )
    refused = []
    for condition in conditions:
        try:
            client.call("put_object", Key=name, Body=body, **condition)
            refused.append(False)
        except Lost as e:
            raise Unavailable(f"S3 at {client.where} does not answer: {e.reason}.") from None
        except Refusal as e:
            if isinstance(full := translate(e, "the check of conditions"), StorageFull):
                _require_earlier_check(client, name, full)
                return
            if e.status != 412 and not e.is_absence:
                raise _wrong_setting(client, e) from None
            refused.append(True)
    if refused[1:] != [True, True]:
        raise ConfigError(
            f"The S3 server at {client.where} ignores If-None-Match or If-Match on PUT.",
            place="backend.s3.endpoint_url",
            cure="Use a server that checks conditional writes: a current AWS, MinIO, SeaweedFS or Ceph.",
        )


def _require_earlier_check(client: Client, name: str, full: StorageFull) -> None:
    """Raise `full` unless the object of an earlier check is there: a store without room serves reading and deleting."""
    try:
        client.call("head_object", Key=name)
    except (Refusal, Lost):
        raise full from None
    log.warning("%s It is not checked again whether the server checks conditions.", full.detail)


def _wrong_setting(client: Client, error: Refusal) -> ConfigError:
    """Return the error, with a cure, for a refusal that a setting explains."""
    if error.code == "NoSuchBucket":
        return ConfigError(
            f"There is no bucket '{client.bucket}' at {client.where}.",
            place="backend.s3.bucket",
            cure="Create it, or correct the name.",
        )
    if error.code in (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    ):
        return ConfigError(
            f"The bucket '{client.bucket}' is in another region.",
            place="backend.s3.region",
            cure="Set the region in which it is.",
        )
    if error.status in (401, 403):
        return ConfigError(
            f"{client.where} denies access to the bucket '{client.bucket}': {error.code}.",
            place="backend.s3.access_key_id, backend.s3.secret_access_key",
            cure="Check the credentials and their rights; docs/operations.md lists the rights that are needed.",
        )
    return ConfigError(
        f"{client.where} does not speak S3: it answered {error.code} ({error.status}).",
        place="backend.s3.endpoint_url",
        cure="Set the address of an S3 server.",
    )
