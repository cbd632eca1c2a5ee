"""Calls to S3, through s3fs' own client and on its loop: tried again, never past their deadline, never blindly.

s3fs' own retries hide what was answered, and its files publish what an exception cut short; so only its session
is used.
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

from artstore.errors import ConfigError, StorageFull, Unavailable
from artstore_s3.settings import S3Settings

T = TypeVar("T")

SLOWEST = 1 << 20
"""Bytes a second that a call may be slow."""
CONNECTIONS = 64
TRIES = 5
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge"})
_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)
_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError)
LOST = (HTTPClientError, BotoCoreError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, OSError)

log = logging.getLogger("artstore.s3")
logging.getLogger("botocore.credentials").setLevel(logging.WARNING)


class Refusal(Exception):
    """S3 said no. `unsure`: an earlier try of the same call may have been carried out all the same."""

    def __init__(self, code: str, status: int, unsure: bool) -> None:
        super().__init__(f"{code} ({status})")
        self.code = code
        self.status = status
        self.unsure = unsure


class Lost(Exception):
    """No answer in time. `unsure`: it may have been carried out, or may yet."""

    def __init__(self, reason: str, unsure: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsure = unsure


class Client:
    """One bucket, for all threads of a process."""

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
                    "signature_version": "s3v4",  # else addresses that hold for a moment get an older one
                    "connect_timeout": settings.connect_timeout,
                    "read_timeout": settings.read_timeout,
                    "max_pool_connections": CONNECTIONS,
                    "retries": {"total_max_attempts": 1, "mode": "standard"},
                    # Servers other than AWS know nothing else; the signature covers the body, or TLS does.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
                skip_instance_cache=True,
                use_listings_cache=False,
            )
            self.fs.loop.set_exception_handler(_unasked)
            self._s3 = self.wait(self.fs.set_session())
        except (ValueError, *LOST) as e:
            raise ConfigError(
                f"S3 cannot be used as it is set: {type(e).__name__}.",
                place="backend.s3",
                cure="Check endpoint_url, region and credentials; see docs/operations.md.",
            ) from None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop of s3fs, from any other thread."""
        return self.begin(work).result()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The same, waited for later."""
        return asyncio.run_coroutine_threadsafe(work, self.fs.loop)

    def call(self, operation: str, *, size: int = 0, **parameters: Any) -> dict[str, Any]:
        """One call, `size` bytes heavy. Raises `Refusal`, `Lost`."""
        return self.wait(self.acall(operation, size=size, **parameters))

    async def acall(self, operation: str, *, size: int = 0, **parameters: Any) -> dict[str, Any]:
        """The same, on the loop. `Body` are bytes."""
        ends = time.monotonic() + self._deadline + size / SLOWEST
        function = getattr(self._s3, operation)
        content = parameters.get("Body", b"")
        unsure = False
        for n in range(TRIES):
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    if content:
                        # aiohttp closes what it has sent, and sends bytes in one go that holds up the loop
                        parameters["Body"] = io.BytesIO(content)
                    answer: dict[str, Any] = await function(Bucket=self.bucket, **parameters)
                    return answer
            except ClientError as e:
                status = int(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                code = str(e.response.get("Error", {}).get("Code", ""))
                if status not in _AGAIN and status != 0:
                    raise Refusal(code, status, unsure) from None
                unsure, reason = True, f"it answered {code or status}"
            except _CREDENTIALS:
                raise Refusal("NoCredentials", 403, unsure) from None
            except _NEVER_SENT as e:
                reason = _reason(e)
            except LOST as e:
                unsure, reason = True, _reason(e)
            pause = random.uniform(0.5, 1) * 0.1 * 3**n  # noqa: S311
            if time.monotonic() + pause >= ends:
                break
            await asyncio.sleep(pause)
        raise Lost(f"{operation}: {reason}", unsure)

    async def presigned(self, seconds: int, **parameters: Any) -> str:
        """An address from which anybody may read one object for a while."""
        url: str = await self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, **parameters}, ExpiresIn=seconds
        )
        return url

    def within(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Other work on the loop, with the deadline of one call. Raises `Lost`."""

        async def run() -> T:
            try:
                async with asyncio.timeout(self._deadline):
                    return await work()
            except LOST as e:
                raise Lost(_reason(e), True) from None

        return self.wait(run())

    def close(self) -> None:
        """Close all connections."""
        try:
            self.within(lambda: self._s3.__aexit__(None, None, None))
        except Lost:
            pass


def _unasked(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """aiohttp writes in tasks of its own, and nobody asks them how they ended: the call itself says that it is lost."""
    error = context.get("exception")
    if isinstance(error, LOST):
        log.debug("a connection to S3 was lost while something was sent: %s", type(error).__name__)
    else:
        loop.default_exception_handler(context)


def _reason(error: BaseException) -> str:
    """Which kind of fault; texts of libraries may hold what is nobody's business."""
    if isinstance(error, _NEVER_SENT):
        return "it cannot be reached"
    if isinstance(error, asyncio.TimeoutError) or "Timeout" in type(error).__name__:
        return "it did not answer in time"
    return f"the connection failed ({type(error).__name__})"


def unavailable(error: Refusal | Lost, what: str) -> Unavailable | StorageFull:
    """The error of ours for a call that failed."""
    if isinstance(error, Lost):
        return Unavailable(f"S3 does not answer at {what}: {error.reason}.")
    if error.code in _FULL or error.status == 507:
        return StorageFull(f"S3 has no room for {what}: {error.code}.")
    if error.code == "NoSuchBucket":
        return Unavailable(f"S3 has lost the bucket, at {what}.")
    if error.status in (401, 403):
        return Unavailable(f"S3 denies access to {what}: {error.code}.")
    return Unavailable(f"S3 refused {what}: {error.code} ({error.status}).")
