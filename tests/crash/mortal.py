"""Elements that cost a tenth of a second to start: forked from one process that has done everything once before.

    python mortal.py

A line of JSON a birth, in: {"home", "port", "log", "gate", "tick"}, out: the process id. The child waits until
somebody opens the FIFO `gate` for writing (when there is one), and serves the home at 127.0.0.1:port: the app that
every worker of `artstore serve --adapter starlette` has, on a socket of its own, behind uvicorn instead of granian.
"""

from __future__ import annotations

import ctypes
import gc
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import statements
import uvicorn

from artstore import background
from artstore.host import boot
from artstore.host.boot import open_default
from artstore_starlette.app import create_app

_PR_SET_PDEATHSIG = 1
OPTIONS: dict[str, Any] = {"log_level": "warning", "http": "h11", "loop": "asyncio", "lifespan": "on"}


def live(home: str, port: int, log: str, gate: str | None, tick: float | None) -> None:
    ctypes.CDLL(None).prctl(
        _PR_SET_PDEATHSIG, signal.SIGKILL
    )  # nobody is left behind by a test that was killed
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd in (1, 2):
        os.dup2(sink, fd)
    os.environ["ARTSTORE_HOME"] = home
    if tick is not None:
        background.INTERVAL = tick
    if gate is not None:
        with open(gate, "rb") as opened:
            opened.read()
    uvicorn.run(create_app(open_default()), port=port, **OPTIONS)


def rehearse() -> None:
    """Serve a request, so that nothing is left to be imported or compiled; no thread outlives this."""
    with tempfile.TemporaryDirectory() as home:
        node = open_default(Path(home))
        boot.open_registry = lambda _settings: node.registry
        bearer = node.auth.issue(user="u", roles=["operator"], seconds=60)  # type: ignore[attr-defined]
        server = uvicorn.Server(uvicorn.Config(create_app(node), port=0, **OPTIONS))
        serving = threading.Thread(target=server.run)
        serving.start()
        while not server.started:
            assert serving.is_alive()
        connection = http.client.HTTPConnection(*server.servers[0].sockets[0].getsockname())
        for method, target in (("POST", "/api/v1/files?filename=a"), ("GET", "/api/v1/files"), ("GET", "/")):
            connection.request(method, target, b"", {"Authorization": f"Bearer {bearer}"})
            connection.getresponse().read()
        connection.close()
        server.should_exit = True
        serving.join()
    assert threading.active_count() == 1, threading.enumerate()


def bury() -> None:
    """Reap the dead."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def main() -> None:
    statements.share()
    rehearse()
    gc.freeze()
    for line in sys.stdin:
        bury()
        wanted: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(0)
            try:
                live(**wanted)
            except BaseException as e:
                print(f"Traceback: {e!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
    bury()


if __name__ == "__main__":
    main()
