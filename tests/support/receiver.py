"""A receiver of events on a real socket, that answers as a test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()

Answering = Callable[["Receiver", BaseHTTPRequestHandler], None]


class Receiver(ThreadingHTTPServer):
    """Remembers each POST; `answers` says what it does with it: a status, or a function that writes."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers: Callable[[int], int | Answering] = lambda n: 204, port: int = 0) -> None:
        self.answers = answers
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.thread = threading.Thread(target=lambda: self.serve_forever(0.01), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?a=b"

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            number = len(self.posts)
            self.posts.append((headers, body))
        verify(headers, body)
        answer = self.answers(number)
        if not isinstance(answer, int):
            answer(self, handler)
            return
        if 200 <= answer < 300:
            with self._lock:
                self.taken.append(json.loads(body))
        handler.send_response(answer)
        if 300 <= answer < 400:
            handler.send_header("Location", self.url + "&again")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def steps(self, file_id: str) -> list[tuple[str, int | None]]:
        """What was told of one file: type and revision."""
        return [
            (event["type"].rpartition(".")[2], event["data"].get("revision"))
            for event in self.taken
            if event["subject"] == file_id
        ]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that goes away is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        server.take(self)

    def log_message(self, *args: object) -> None:
        """Be quiet."""


def verify(headers: dict[str, str], body: bytes) -> None:
    """As a receiver does it: Standard Webhooks, symmetric."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
    assert headers["webhook-id"] == json.loads(body)["id"]
