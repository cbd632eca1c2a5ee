"""One upload of 1 GiB to S3 through an element, against boto3's own upload_fileobj to the same server in the same run.

    python bench/s3_upload.py --boto3 PYTHON [--gib 1] [--runs 3] [--directory DIR]

PYTHON is an interpreter that has boto3: its pins and those of s3fs rarely agree, so it has an environment of its own.
Prints throughput of each, their ratio, and the peak memory of the element's processes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from element import element

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import s3

MIB = 1 << 20
PIECE = os.urandom(MIB)

THEIRS = """
import os, sys, time, boto3
class Source:
    def __init__(self, mib):
        self.piece, self.left = os.urandom(1 << 20), mib << 20
    def read(self, n=-1):
        n = self.left if n < 0 else min(n, self.left)
        self.left -= n
        return (self.piece * (n // len(self.piece) + 1))[:n]
url, bucket, key, secret, mib = sys.argv[1:]
client = boto3.client(
    "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
)
client.upload_fileobj(Source(8), bucket, "warm")
began = time.perf_counter()
client.upload_fileobj(Source(int(mib)), bucket, "theirs")
print(time.perf_counter() - began)
client.delete_object(Bucket=bucket, Key="theirs")
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--boto3", required=True, help="a Python that has boto3")
    arguments.add_argument("--gib", type=float, default=1)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--directory", type=Path, default=Path("bench/out"))
    args = arguments.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=args.directory)).absolute()
    mib = int(args.gib * 1024)
    try:
        with s3.seaweed(work / "weed") as server:
            bucket = server.bucket()
            variables = {f"ARTSTORE_{n}": v for n, v in s3.environment(s3.settings(server, bucket)).items()}
            os.environ.update(variables)
            ours, theirs, peak = [], [], 0
            with element(work / "home", adapter="starlette", port=8953) as served:
                _ours(served, 8)
                for _ in range(args.runs):  # in turn: whatever else the machine does meets both
                    theirs.append(mib / _theirs(args.boto3, server.url, bucket, mib))
                    ours.append(mib / _ours(served, mib))
                    peak = max(peak, served.peak())
        print(f"boto3: {max(theirs):.0f} MiB/s of {[round(x) for x in theirs]}")
        print(f"ours:  {max(ours):.0f} MiB/s of {[round(x) for x in ours]}; peak {peak / MIB:.0f} MiB")
        print(f"ratio of the best: {max(ours) / max(theirs):.2f}")
    finally:
        shutil.rmtree(work)


def _theirs(python: str, url: str, bucket: str, mib: int) -> float:
    run = subprocess.run(
        [python, "-c", THEIRS, url, bucket, s3.KEY, s3.SECRET, str(mib)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout)


def _ours(served: object, mib: int) -> float:
    def pieces() -> Iterator[bytes]:
        for _ in range(mib):
            yield PIECE

    connection: http.client.HTTPConnection = served.connection()  # type: ignore[attr-defined]
    headers = {**served.headers, "Content-Length": str(mib * MIB)}  # type: ignore[attr-defined]
    headers["Content-Type"] = "application/octet-stream"
    began = time.perf_counter()
    connection.request("POST", "/api/v1/files?filename=large.bin", body=pieces(), headers=headers)
    answer = connection.getresponse()
    made = json.loads(answer.read())
    took = time.perf_counter() - began
    if answer.status != 201:
        raise SystemExit(f"upload: {made}")
    connection.request("DELETE", f"/api/v1/files/{made['file_id']}", headers=served.headers)  # type: ignore[attr-defined]
    connection.getresponse().read()
    return took


if __name__ == "__main__":
    main()
