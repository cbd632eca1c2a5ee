"""Memory and processor time of one large upload and download, for each adapter.

    python bench/large_files.py [--gib 5] [--cpu-gib 1] [--directory DIR]

Prints how much the peak memory of the element grew, and its processor time, as a plain body and as a form, against
that of sha256 and a copy of the same bytes in Python, in pieces of 256 KiB (larger ones cost a virtual machine more:
their large pages may have to come from the host): from a file, and from a socket, as an element gets them. Each is the
least of `--rounds`, taken in turns.

Where the host takes free memory back from a virtual machine, all of it costs up to three times as much, the floor above
all. A limit of memory (a cgroup's, 2 GiB) for this program makes the figures steady.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import resource
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from element import Element, element

MIB = 1 << 20
PIECE = os.urandom(MIB)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--gib", type=float, default=5, help="for memory")
    arguments.add_argument("--cpu-gib", type=float, default=1, help="for processor time")
    arguments.add_argument("--rounds", type=int, default=3, help="for processor time")
    arguments.add_argument("--directory", type=Path, default=Path("bench/out"))
    args = arguments.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=args.directory)).absolute()
    try:
        for adapter in ("starlette", "falcon"):
            with element(work / adapter, adapter=adapter, port=8951) as served:
                _upload(served, 8)
                mib = int(args.cpu_gib * 1024)
                turns = [
                    (_copy(work, mib), _receive(work, mib), _cpu(served, mib), _cpu(served, mib, form=True))
                    for _ in range(args.rounds)
                ]
                copied, received, *costs = map(min, zip(*turns, strict=True))
                print(
                    f"sha256 + copy of {args.cpu_gib:g} GiB in Python: from a file {copied:.2f} s of CPU, "
                    f"from a socket {received:.2f}"
                )
                for body, cpu in zip(("plain", "form"), costs, strict=True):
                    print(
                        f"{adapter}: upload of {args.cpu_gib:g} GiB, {body}: {cpu:.2f} s of CPU "
                        f"= {cpu / copied:.2f} x (of a socket's {cpu / received:.2f} x)"
                    )
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


def _copy(work: Path, mib: int) -> float:
    """What the same bytes cost without HTTP: read from a file, hashed, written, synced."""
    source = work / "source"
    with source.open("wb") as out:
        for _ in range(mib):
            out.write(PIECE)
    with source.open("rb", buffering=0) as read:
        spent = _keep(work / "target", lambda: read.read(MIB // 4))
    source.unlink()
    return spent


def _receive(work: Path, mib: int) -> float:
    """What they cost from a socket; who sends them is not counted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = os.fork()
        if sender == 0:
            with socket.create_connection(listener.getsockname()) as out:
                for _ in range(mib):
                    out.sendall(PIECE)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            spent = _keep(work / "target", lambda: connection.recv(MIB // 4))
        os.waitpid(sender, 0)
    return spent


def _keep(target: Path, read: Callable[[], bytes]) -> float:
    before = _own_cpu()
    digest = hashlib.sha256()
    with target.open("wb", buffering=0) as write:
        while piece := read():
            digest.update(piece)
            write.write(piece)
        os.fsync(write.fileno())
    spent = _own_cpu() - before
    target.unlink()
    return spent


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu(served: Element, mib: int, *, form: bool = False) -> float:
    before = served.cpu()
    file_id = _upload(served, mib, form=form)
    spent = served.cpu() - before
    connection = served.connection()
    connection.request("DELETE", f"/api/v1/files/{file_id}", headers=served.headers)
    connection.getresponse().read()
    return spent


def _pieces(mib: int, head: bytes = b"", tail: bytes = b"") -> Iterator[bytes]:
    yield head
    for _ in range(mib):
        yield PIECE
    yield tail


def _upload(served: Element, mib: int, *, form: bool = False) -> str:
    connection = served.connection()
    head = tail = b""
    path, kind = "/api/v1/files?filename=large.bin", "application/octet-stream"
    if form:
        boundary = "-" * 24 + secrets.token_hex(11)  # as curl's
        path, kind = "/api/v1/files", f"multipart/form-data; boundary={boundary}"
        part = 'Content-Disposition: form-data; name="file"; filename="large.bin"'
        head, tail = f"--{boundary}\r\n{part}\r\n\r\n".encode(), f"\r\n--{boundary}--\r\n".encode()
    length = len(head) + mib * MIB + len(tail)
    headers = {**served.headers, "Content-Length": str(length), "Content-Type": kind}
    connection.request("POST", path, body=_pieces(mib, head, tail), headers=headers)
    answer = connection.getresponse()
    result = json.loads(answer.read())
    if answer.status != 201:
        raise SystemExit(f"upload: {result}")
    return str(result["file_id"])


def _download(served: Element, file_id: str) -> None:
    connection: http.client.HTTPConnection = served.connection()
    connection.request("GET", f"/api/v1/files/{file_id}/download", headers=served.headers)
    answer = connection.getresponse()
    buffer = bytearray(MIB)
    while answer.readinto(buffer):
        pass


if __name__ == "__main__":
    main()
