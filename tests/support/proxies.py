"""What stands between an element and a server in tests: an HTTP proxy that holds, loses and doubles requests, and a
TCP proxy that refuses, hangs, cuts and crawls."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

LOST = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER of a socket whose close is an RST."""

Request = tuple[str, str, list[tuple[str, str]], bytes]


def reset(connection: socket.socket) -> None:
    """Go away rudely, also while somebody waits for bytes."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LOST)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@dataclass
class Caught:
    """The one request that is meddled with."""

    line: str
    carried_out: threading.Event = field(default_factory=threading.Event)
    """The server has done with it, now, whatever was to be done before the release."""
    release: threading.Event = field(default_factory=threading.Event)
    status: int = 0
    """What the server said to it last."""
    over: threading.Event = field(default_factory=threading.Event)


class HttpProxy:
    """In front of an HTTP server. `catch(n, state)` meddles with the n-th request (of a method) from now on:

    `not applied`: it is dropped; `applied`: carried out, answered at the release; `reply lost`: carried out, never
    answered; `twice`: carried out twice, answered with the second answer; `late`: carried out at the release.
    At once `slow down`: 503 and not carried out; `failed`: 500, though carried out; `cut short`: the server gets no
    more than the head of it, and the client no answer.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._left = -1
        self._state = self._method = ""
        self._open: set[socket.socket] = set()
        self.seen: list[str] = []
        self.caught: Caught | None = None
        self.answer: Callable[[str], bytes | None] = lambda line: None
        """An answer of the proxy's own to a request, in place of that of the server."""
        self._arrived = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def catch(self, number: int, state: str, method: str = "") -> None:
        with self._lock:
            self._method = method
            self.seen.clear()
            self._left, self._state, self.caught = number, state, None
            self._arrived.clear()

    def arrived(self, seconds: float) -> bool:
        """Wait until that request has come and was carried out as far as it is to be now."""
        if not self._arrived.wait(seconds):
            return False
        assert self.caught is not None
        assert self.caught.carried_out.wait(30)
        return True

    def close(self) -> None:
        self._listener.close()
        for connection in list(self._open):
            reset(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as file:
                while self._one(connection, file):
                    pass
        except (OSError, ValueError, http.client.HTTPException):
            pass
        finally:
            self._open.discard(connection)
            reset(connection)

    def _one(self, connection: socket.socket, file: object) -> bool:
        request = _read(connection, file)
        if request is None:
            return False
        with self._lock:
            self.seen.append(f"{request[0]} {request[1]}")
            counts = request[0].startswith(self._method)
            mine = self._left == 1 and counts
            self._left -= counts
            state = self._state
            if mine:
                self.caught = caught = Caught(self.seen[-1])
                self._arrived.set()
        if (own := self.answer(self.seen[-1])) is not None:
            connection.sendall(own)
            return True
        if not mine:
            connection.sendall(self._forward(request))
            return True
        answer = b""
        if state == "cut short":
            self._forward_head(request)
            return False
        for _ in range({"not applied": 0, "late": 0, "slow down": 0, "twice": 2}.get(state, 1)):
            answer = self._forward(request)
        caught.carried_out.set()
        if state in ("slow down", "failed"):
            told = "503 Slow Down" if state == "slow down" else "500 Internal Server Error"
            connection.sendall(f"HTTP/1.1 {told}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        caught.release.wait(60)
        if state == "late":
            answer = self._forward(request)
        caught.status = int(answer.split()[1]) if answer else 0
        caught.over.set()
        if state in ("not applied", "reply lost"):
            return False
        connection.sendall(answer)
        return True

    def _forward_head(self, request: Request) -> None:
        method, target, headers, _ = request
        head = [
            f"{method} {target} HTTP/1.1",
            *(f"{n}: {v}" for n, v in headers if n.lower() != "expect"),
            "",
            "",
        ]
        with socket.create_connection(("127.0.0.1", self._upstream), timeout=30) as upstream:
            upstream.sendall("\r\n".join(head).encode("latin-1"))
            upstream.shutdown(socket.SHUT_WR)
            while upstream.recv(65536):  # until it has made of it what it makes of it
                pass

    def _forward(self, request: Request) -> bytes:
        method, target, headers, body = request
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=30)
        try:
            upstream.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
            kept = [
                (n, v) for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "connection")
            ]
            if not any(n.lower() == "content-length" for n, _ in kept):
                kept.append(("Content-Length", str(len(content))))
            head = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{n}: {v}" for n, v in kept)]
            return "\r\n".join([*head, "", ""]).encode("latin-1") + content
        finally:
            upstream.close()


def _read(connection: socket.socket, file: object) -> Request | None:
    line = file.readline()  # type: ignore[attr-defined]
    if not line:
        return None
    method, target, _ = line.decode("latin-1").split()
    message = http.client.parse_headers(file)  # type: ignore[arg-type]
    headers = [(n, v) for n, v in message.items() if n.lower() != "expect"]
    if message.get("expect"):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = file.read(int(message.get("content-length") or 0))  # type: ignore[attr-defined]
    if len(body) < int(message.get("content-length") or 0):
        return None
    return method, target, headers, body


Weather = Literal["fine", "refuse", "hang", "cut", "crawl"]


class TcpProxy:
    """In front of any server. `weather` says what it does to connections, those that are open included:

    `refuse`: RST at once; `hang`: nothing passes any more; `cut`: RST after some bytes of the answer; `crawl`: some
    bytes a second.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self.weather: Weather = "fine"
        self.cut_after = 300
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, weather: Weather) -> None:
        self.weather = weather
        if weather == "refuse":
            for connection in list(self._open):
                reset(connection)

    @property
    def open(self) -> int:
        """Connections of clients."""
        return len(self._open)

    def close(self) -> None:
        self.closed = True
        self._listener.close()
        for connection in list(self._open):
            reset(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.weather == "refuse":
                reset(connection)
                continue
            upstream = socket.create_connection(("127.0.0.1", self._upstream))
            self._open.add(connection)
            for source, target, answers in ((connection, upstream, False), (upstream, connection, True)):
                threading.Thread(
                    target=self._pump, args=(source, target, connection, answers), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, client: socket.socket, answers: bool
    ) -> None:
        try:
            while piece := source.recv(65536):
                while self.weather == "hang" and not self.closed:
                    time.sleep(0.02)
                if self.weather == "cut" and answers:
                    target.sendall(piece[: self.cut_after])
                    break
                if self.weather == "crawl":
                    for at in range(0, len(piece), 2000):
                        target.sendall(piece[at : at + 2000])
                        time.sleep(0.05)
                        if self.closed:
                            break
                else:
                    target.sendall(piece)
        except OSError:
            pass
        finally:
            self._open.discard(client)
            reset(source)
            reset(target)
