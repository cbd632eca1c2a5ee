"""An S3 server for tests: SeaweedFS, on free ports, gone with the process that began it."""

from __future__ import annotations

import ctypes
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from artstore_objects.layout import MARKER_SIZE
from support.ports import free_port
from support.servers import Element, until

KEY, SECRET = "test-key", "test-secret-of-the-store"
READER = "reader-key"
"""Credentials that may only look."""


@dataclass(frozen=True)
class Seaweed:
    """A server, and how to reach it."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def client(self) -> Any:
        """botocore's own client: as any other program would use it. One for all threads: making one takes 0.4 s."""
        import botocore.session
        from botocore.config import Config

        config = Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": 5, "mode": "standard"},
        )
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=config,
        )

    def bucket(self) -> str:
        """A new one."""
        name = f"b-{secrets.token_hex(6)}"
        self.client.create_bucket(Bucket=name)
        return name


def settings(server: Seaweed, bucket: str, **more: Any) -> dict[str, Any]:
    """`[backend.s3]` for a bucket of the server."""
    return {
        "bucket": bucket,
        "endpoint_url": server.url,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "region": "us-east-1",
    } | more


@dataclass
class S3Element(Element):
    """An element whose store is a bucket."""

    server: Seaweed | None = None
    bucket: str = ""

    def _ask(self, work: Callable[[Any], Any]) -> Any:
        assert self.server is not None
        return work(self.server.client)

    def tree(self) -> set[str]:
        """Every file but the element's own records, and markers, which are no files."""

        def look(client: Any) -> set[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
            return {
                found["Key"]
                for page in pages
                for found in page.get("Contents", ())
                if not found["Key"].startswith(".artstore/")
                and not (found["Size"] == MARKER_SIZE and found["Key"].endswith(".attr.json"))
            }

        found: set[str] = self._ask(look)
        return found

    def stored(self, name: str) -> bytes:
        content: bytes = self._ask(lambda c: c.get_object(Bucket=self.bucket, Key=name)["Body"].read())
        return content

    def is_receiving(self) -> bool:
        return bool(self.pending())  # the first bytes wait in memory until there are enough for a part

    def staged(self) -> list[str]:
        uploads = self._ask(lambda c: c.list_multipart_uploads(Bucket=self.bucket)).get("Uploads", ())
        return [upload["Key"] for upload in uploads]


def environment(values: dict[str, Any]) -> dict[str, str]:
    """`settings` as variables, without ARTSTORE_ before them."""
    return {"BACKEND": "s3"} | {f"BACKEND__S3__{name.upper()}": str(value) for name, value in values.items()}


def on_s3(made: Element, server: Seaweed, bucket: str) -> S3Element:
    """The same element, seen as what it is."""
    kept = {f.name: getattr(made, f.name) for f in fields(made)}
    return S3Element(**kept, server=server, bucket=bucket)


def read_descriptions_once() -> None:
    """Let all sessions of this process have one loader: each would read what S3 is from a megabyte of JSON, for a tenth
    of a second. Within one session clients share it anyway."""
    import botocore.session

    botocore.session.create_loader = cache(botocore.session.create_loader)


@contextmanager
def seaweed(place: Path) -> Iterator[Seaweed]:
    """Serve S3 from `place` while the block runs."""
    store = place / "store"
    store.mkdir(parents=True)
    identities = [
        {"name": "all", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
        {"name": "look", "credentials": [{"accessKey": READER, "secretKey": SECRET}], "actions": ["Read", "List"]},
    ]  # fmt: skip
    (place / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = [free_port() for _ in range(8)]
    port = ports[0]
    arguments = [f"-dir={store}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}", "-s3"]
    arguments += [f"-s3.config={place / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=0"]
    arguments += [f"-s3.port.grpc={ports[1]}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    for n, part in enumerate(("master", "volume", "filer"), 1):
        arguments += [f"-{part}.port={ports[2 * n]}", f"-{part}.port.grpc={ports[2 * n + 1]}"]
    weed = Path(sys.executable).with_name("weed")
    log = (place / "log").open("wb")
    process = subprocess.Popen(
        [str(weed), "server", *arguments], stdout=log, stderr=log, cwd=place, preexec_fn=_end_with_parent
    )
    log.close()
    server = Seaweed(port, process)
    try:
        until(lambda: _answers(server, place), "SeaweedFS answers", 60)
        yield server
    finally:
        server.client.close()
        process.kill()
        process.wait()
        for number in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink(missing_ok=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _answers(server: Seaweed, place: Path) -> bool:
    """Whether it can keep something: its parts come up one by one."""
    from botocore.exceptions import BotoCoreError, ClientError

    assert server.process.poll() is None, (place / "log").read_text()[-2000:]
    try:
        server.client.list_buckets()
        bucket = "first"
        server.client.create_bucket(Bucket=bucket)
        server.client.put_object(Bucket=bucket, Key="first", Body=b"x")
    except (BotoCoreError, ClientError):
        return False
    return True


def run() -> None:
    """Serve until Ctrl-C."""
    import tempfile
    import time

    with tempfile.TemporaryDirectory() as place, seaweed(Path(place) / "weed") as server:
        values = settings(server, server.bucket())
        print("\n".join(f"{name} = {value!r}" for name, value in values.items()), flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
