"""Memory and processor time of one large upload and download, for each adapter.

    python bench/large_files.py [--gib 5] [--cpu-gib 1] [--directory DIR]

Prints how much the peak memory of the element grew, and its processor time against that of sha256 and a copy of
the same bytes in Python, in pieces of 1 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from element import Element, element

MIB = 1 << 20
PIECE = os.urandom(MIB)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--gib", type=float, default=5, help="for memory")
    arguments.add_argument("--cpu-gib", type=float, default=1, help="for processor time")
    arguments.add_argument("--directory", type=Path, default=Path("bench/out"))
    args = arguments.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=args.directory)).absolute()
    try:
        floor = min(_floor(work, int(args.cpu_gib * 1024)) for _ in range(3))
        print(f"sha256 + copy of {args.cpu_gib:g} GiB in Python: {floor:.2f} s of CPU")
        for adapter in ("starlette", "falcon"):
            with element(work / adapter, adapter=adapter, port=8951) as served:
                _upload(served, 8)
                cpu = min(_cpu(served, int(args.cpu_gib * 1024)) for _ in range(3))
                print(f"{adapter}: upload of {args.cpu_gib:g} GiB: {cpu:.2f} s of CPU = {cpu / floor:.2f} x")
                served.forget_peak()
                before = served.peak()
                began = time.perf_counter()
                file_id = _upload(served, int(args.gib * 1024))
                took = time.perf_counter() - began
                up = served.peak() - before
                began = time.perf_counter()
                _download(served, file_id)
                down = served.peak() - before
                print(
                    f"{adapter}: {args.gib:g} GiB: upload {args.gib * 1024 / took:.0f} MiB/s, "
                    f"peak +{up / MIB:.1f} MiB; download {args.gib * 1024 / (time.perf_counter() - began):.0f} MiB/s, "
                    f"peak +{down / MIB:.1f} MiB"
                )
            shutil.rmtree(work / adapter)
    finally:
        shutil.rmtree(work)


def _floor(work: Path, mib: int) -> float:
    """What the same bytes cost without HTTP: read from a file, hashed, written, synced."""
    source, target = work / "source", work / "target"
    with source.open("wb") as out:
        for _ in range(mib):
            out.write(PIECE)
    before = _own_cpu()
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while piece := read.read(MIB):
            digest.update(piece)
            write.write(piece)
        os.fsync(write.fileno())
    spent = _own_cpu() - before
    source.unlink()
    target.unlink()
    return spent


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu(served: Element, mib: int) -> float:
    before = served.cpu()
    file_id = _upload(served, mib)
    spent = served.cpu() - before
    connection = served.connection()
    connection.request("DELETE", f"/api/v1/files/{file_id}", headers=served.headers)
    connection.getresponse().read()
    return spent


def _pieces(mib: int) -> Iterator[bytes]:
    for _ in range(mib):
        yield PIECE


def _upload(served: Element, mib: int) -> str:
    import json

    connection = served.connection()
    headers = {**served.headers, "Content-Length": str(mib * MIB), "Content-Type": "application/octet-stream"}
    connection.request("POST", "/api/v1/files?filename=large.bin", body=_pieces(mib), headers=headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    if answer.status != 201:
        raise SystemExit(f"upload: {told}")
    return str(told["file_id"])


def _download(served: Element, file_id: str) -> None:
    connection: http.client.HTTPConnection = served.connection()
    connection.request("GET", f"/api/v1/files/{file_id}/download", headers=served.headers)
    answer = connection.getresponse()
    buffer = bytearray(MIB)
    while answer.readinto(buffer):
        pass


if __name__ == "__main__":
    main()
