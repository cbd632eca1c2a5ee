"""Calls to S3 through the client of s3fs, on its event loop: with retries, within a deadline.

Only the session of s3fs is used: its own retries hide what the server answered, and its files publish data that an
exception cut short.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import aiohttp
import s3fs
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from artstore.errors import ConfigError, StorageFull, TooLarge, Unavailable
from artstore_s3.settings import S3Settings

T = TypeVar("T")

SLOWEST = 1 << 20
"""Bytes per second: the slowest transfer for which the deadline of a call makes room."""
CONNECTION_LIMIT = 64
"""Connections to the server that one process opens."""
TRIES = 5
"""How often one call is tried, at most."""
_RETRY_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FULL_CODES = frozenset(
    {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
)
_TOO_LARGE_CODES = frozenset({"EntityTooLarge", "MaxMessageLengthExceeded"})
_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)
_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError)
LOST = (HTTPClientError, BotoCoreError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, OSError)

log = logging.getLogger("artstore.s3")
logging.getLogger("botocore.credentials").setLevel(logging.WARNING)


class Refusal(Exception):
    """S3 refused a call. `in_doubt`: an earlier try of the same call may have been carried out."""

    def __init__(self, code: str, status: int, in_doubt: bool) -> None:
        super().__init__(f"{code} ({status})")
        self.code = code
        self.status = status
        self.in_doubt = in_doubt

    @property
    def is_absence(self) -> bool:
        """Whether S3 says that the bucket is there and the object, or the upload, is not.

        The code tells it, not the status: 404 is also the answer of a bucket that is gone, and of a proxy. A HEAD has
        no code, see `Bucket.head`.
        """
        return self.code in ("NoSuchKey", "NoSuchUpload")


class Lost(Exception):
    """No answer in time. `in_doubt`: the call may have been carried out, or may still be."""

    def __init__(self, reason: str, in_doubt: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.in_doubt = in_doubt


class Client:
    """The connections to one bucket, for all threads of a process."""

    def __init__(self, settings: S3Settings) -> None:
        self.bucket = settings.bucket
        self.where = settings.endpoint_url or "AWS"
        self._deadline = settings.deadline
        secrets = (settings.access_key_id, settings.secret_access_key, settings.session_token)
        key, secret, token = (s.get_secret_value() if s else None for s in secrets)
        try:
            self.fs = s3fs.S3FileSystem(
                key=key,
                secret=secret,
                token=token,
                endpoint_url=settings.endpoint_url,
                client_kwargs={"region_name": settings.region} if settings.region else {},
                config_kwargs={
                    "signature_version": "s3v4",  # else signed addresses get an older signature
                    "connect_timeout": settings.connect_timeout,
                    "read_timeout": settings.read_timeout,
                    "max_pool_connections": CONNECTION_LIMIT,
                    "retries": {"total_max_attempts": 1, "mode": "standard"},
                    # Servers other than AWS know no other checksums. The signature protects the body, or TLS does.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
                skip_instance_cache=True,
                use_listings_cache=False,
            )
            self.fs.loop.set_exception_handler(_log_lost_connection)
            self._s3 = self.wait(self.fs.set_session())
        except (ValueError, *LOST) as e:
            raise ConfigError(
                f"S3 cannot be used with these settings: {type(e).__name__}.",
                place="backend.s3",
                cure="Check endpoint_url, region and credentials; see docs/operations.md.",
            ) from None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop of s3fs and return its result. Called from any other thread."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` on the loop of s3fs and return at once."""
        return asyncio.run_coroutine_threadsafe(work, self.fs.loop)

    def call(self, operation: str, *, size: int = 0, **parameters: Any) -> dict[str, Any]:
        """Call an operation of S3 and return its answer. `size`: the bytes to send. Raises `Refusal`, `Lost`."""
        return self.wait(self.acall(operation, size=size, **parameters))

    async def acall(self, operation: str, *, size: int = 0, **parameters: Any) -> dict[str, Any]:
        """The same, on the loop. A `Body` is given as bytes."""
        deadline = time.monotonic() + self._deadline + size / SLOWEST
        function = getattr(self._s3, operation)
        content = parameters.get("Body", b"")
        in_doubt = False
        for n in range(TRIES):
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    if content:
                        # A new file for each try: aiohttp closes it. Plain bytes would be sent at once, and
                        # block the loop.
                        parameters["Body"] = io.BytesIO(content)
                    answer: dict[str, Any] = await function(Bucket=self.bucket, **parameters)
                    return answer
            except ClientError as e:
                status = int(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                code = str(e.response.get("Error", {}).get("Code", ""))
                if status not in _RETRY_STATUSES and status != 0:
                    raise Refusal(code, status, in_doubt) from None
                in_doubt, reason = True, f"it answered {code or status}"
            except _CREDENTIALS:
                raise Refusal("NoCredentials", 403, in_doubt) from None
            except _NEVER_SENT as e:
                reason = _reason(e)
            except LOST as e:
                in_doubt, reason = True, _reason(e)
            pause = random.uniform(0.5, 1) * 0.1 * 3**n  # noqa: S311
            if time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        raise Lost(f"{operation}: {reason}", in_doubt)

    async def presign(self, seconds: int, **parameters: Any) -> str:
        """Return an address at which anyone may read one object for `seconds`."""
        url: str = await self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, **parameters}, ExpiresIn=seconds
        )
        return url

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run other work on the loop, within the deadline of one call. Raises `Lost`."""

        async def run_in_time() -> T:
            try:
                async with asyncio.timeout(self._deadline):
                    return await work()
            except LOST as e:
                raise Lost(_reason(e), True) from None

        return self.wait(run_in_time())

    def close(self) -> None:
        """Close all connections. Never raises `Lost`."""
        try:
            self.run(lambda: self._s3.__aexit__(None, None, None))
        except Lost:
            pass


def _log_lost_connection(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log quietly when a task of aiohttp that sends a body fails: the call itself fails too and reports it."""
    error = context.get("exception")
    if isinstance(error, LOST):
        log.debug("a connection to S3 was lost while a body was sent: %s", type(error).__name__)
    else:
        loop.default_exception_handler(context)


def _reason(error: BaseException) -> str:
    """Return the kind of failure in words. The texts of libraries may hold secrets, so they are not shown."""
    if isinstance(error, _NEVER_SENT):
        return "it cannot be reached"
    if isinstance(error, asyncio.TimeoutError) or "Timeout" in type(error).__name__:
        return "it did not answer in time"
    return f"the connection failed ({type(error).__name__})"


def translate(error: Refusal | Lost, what: str) -> Unavailable | StorageFull | TooLarge:
    """Return the error of `artstore.errors` for a failed call that concerned `what`."""
    if isinstance(error, Lost):
        return Unavailable(f"S3 does not answer at {what}: {error.reason}.")
    if error.code in _FULL_CODES or error.status == 507:
        return StorageFull(f"S3 has no room for {what}: {error.code}.")
    if error.code in _TOO_LARGE_CODES or error.status == 413:
        return TooLarge(f"S3 takes no object that is as large as {what}: {error.code}.")
    if error.code == "NoSuchBucket":
        return Unavailable(f"S3 has lost the bucket, at {what}.")
    if error.status in (401, 403):
        return Unavailable(f"S3 denies access to {what}: {error.code}.")
    return Unavailable(f"S3 refused {what}: {error.code} ({error.status}).")
