"""A program of the fork server: an element of one process, ready a tenth of a second after its start.

It is the app that every worker of `artstore serve --adapter starlette` has, behind uvicorn instead of granian, at
127.0.0.1:port. It waits until another process opens the FIFO `gate` for writing, when there is one, and opens the home
then.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import uvicorn

from artstore import background
from artstore.host import boot
from artstore.host.boot import open_default
from artstore_starlette.app import create_app

OPTIONS: dict[str, Any] = {"log_level": "warning", "http": "h11", "loop": "asyncio", "lifespan": "on"}


def prepare() -> None:
    """Serve a request, so that nothing is left to be imported or compiled."""
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


def run(home: str, port: int, gate: str | None, tick: float | None) -> None:
    """Serve until a signal. `tick`: seconds between two rounds of the background thread."""
    os.environ["ARTSTORE_HOME"] = home
    if tick is not None:
        background.INTERVAL = tick
    if gate is not None:
        with open(gate, "rb") as opened:
            opened.read()
    uvicorn.run(create_app(open_default()), port=port, **OPTIONS)
    os._exit(0)
