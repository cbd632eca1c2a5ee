"""The fetch of a key set: bounded in time and size, whatever the server does."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from artstore.errors import Unavailable
from artstore.spi import Context
from artstore_jwt.auth import JwtAuth
from artstore_jwt.fetch import MAX_DOCUMENT, fetch

TIMEOUT = 0.5
PATIENCE = 3.0
"""Seconds after which a fetch is held: far more than the time-out, far less than the servers here go on."""
OK = b"HTTP/1.1 200 OK\r\n"


class Server:
    """Does `behave(connection)` for each connection, in a thread of its own, until the client leaves or it stops."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.stopped = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._behave = behave
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/jwks"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behave(connection)
            except OSError:
                return

    def drip(self, connection: socket.socket, text: bytes, then: bytes = b"x") -> None:
        """Send `text`, then one byte after the other for as long as the client stays."""
        connection.sendall(text)
        while not self.stopped.wait(0.05):
            connection.sendall(then)

    def stop(self) -> None:
        self.stopped.set()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Server, socket.socket], None]], Server]]:
    servers: list[Server] = []

    def start(behave: Callable[[Server, socket.socket], None]) -> Server:
        server = Server(lambda connection: behave(server, connection))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def fails(url: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=words):
        fetch(url, TIMEOUT)
    assert time.monotonic() - began < PATIENCE


DRIPS: dict[str, tuple[bytes, bytes]] = {
    "a status line": (b"", b"H"),
    "a status line after the protocol": (b"HTTP/1.1 200 ", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a field": (OK + b"X-A: ", b"a"),
    "many fields": (OK, b"X: a\r\n"),
    "a body": (OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body without length": (OK + b"\r\n", b" "),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "the size of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
}


@pytest.mark.parametrize("what", list(DRIPS))
def test_a_server_that_drips_holds_nobody(serve: Any, what: str) -> None:
    server = serve(lambda self, connection: self.drip(connection, *DRIPS[what]))
    # Python itself allows 100 fields: with them it ends before the deadline.
    fails(server.url, "timed out|no valid answer")


def test_a_server_that_is_silent_holds_nobody(serve: Any) -> None:
    fails(serve(lambda self, _: self.stopped.wait(30)).url, "timed out")


def test_redirects_share_one_deadline(serve: Any) -> None:
    def redirect(self: Server, connection: socket.socket) -> None:
        connection.recv(65536)
        self.stopped.wait(TIMEOUT * 0.6)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")

    fails(serve(redirect).url, "timed out")


def test_a_handshake_that_stalls_holds_nobody(serve: Any) -> None:
    server = serve(lambda self, connection: self.drip(connection, b"\x16\x03\x03\x40\x00", b"\x00"))
    fails(server.url.replace("http:", "https:"), r"timed out|cannot be fetched")


def test_a_look_up_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: hold.wait(30))
    try:
        fails("http://idp.example.org/jwks", "timed out")
    finally:
        hold.set()


def test_a_look_up_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    fails("http://idp.example.org/jwks", "Name or service not known")


def test_the_second_address_of_a_host_is_tried(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Server, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK + b"Content-Length: 2\r\n\r\n{}")

    port = int(serve(answer).url.split(":")[2].split("/")[0])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(*kind, ("127.0.0.1", free)), (*kind, ("127.0.0.1", port))]
    )
    assert fetch("http://idp.example.org/jwks", 5) == b"{}"


@pytest.mark.parametrize("form", ["length", "chunked", "until the end"])
def test_a_document_without_end_is_cut_off(serve: Any, form: str) -> None:
    sent: list[int] = []

    def flood(self: Server, connection: socket.socket) -> None:
        connection.recv(65536)
        piece = b" " * 65536
        head = {"length": b"Content-Length: 99999999999\r\n", "chunked": b"Transfer-Encoding: chunked\r\n"}
        connection.sendall(OK + head.get(form, b"") + b"\r\n")
        while not self.stopped.is_set():
            sent.append(len(piece))
            connection.sendall(b"10000\r\n" + piece + b"\r\n" if form == "chunked" else piece)

    with pytest.raises(ValueError, match="larger than 1 MiB"):
        fetch(serve(flood).url, 20)
    assert MAX_DOCUMENT == 1 << 20
    assert sum(sent) < 32 << 20  # what was read, and what the buffers of two sockets hold


def test_a_reason_of_the_server_forges_no_line_of_the_log(serve: Any) -> None:
    def refuse(_: Server, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(
            b"HTTP/1.1 500 a\rFORGED \x1b[2J\x85" + b"x" * 500 + b"\r\nContent-Length: 0\r\n\r\n"
        )

    with pytest.raises(OSError, match="answered 500") as e:
        fetch(serve(refuse).url, 5)
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 200


def test_a_server_with_tls_is_asked_and_its_name_is_checked(tmp_path: Path, serve: Any) -> None:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def answer(_: Server, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(OK + b"Content-Length: 2\r\n\r\n{}")

    url = serve(answer).url.replace("http:", "https:")
    with pytest.raises(OSError, match="certificate"):  # its issuer is not trusted
        fetch(url.replace("127.0.0.1", "localhost"), 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(pem))
        assert fetch(url.replace("127.0.0.1", "localhost"), 5) == b"{}"
        with pytest.raises(OSError, match="certificate"):
            fetch(url, 5)


def test_a_proxy_of_the_environment_is_asked(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def answer(_: Server, connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(OK + b"Content-Length: 2\r\n\r\n{}")

    monkeypatch.setenv("http_proxy", serve(answer).url.removesuffix("/jwks"))
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch("http://idp.example.org/jwks", 5) == b"{}"
    assert asked[0].startswith(b"GET http://idp.example.org/jwks HTTP/1.1\r\n")


def test_a_start_says_what_it_waits_for(serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(lambda self, connection: self.drip(connection, OK + b"X-A: "))
    context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
    with (
        caplog.at_level(logging.INFO, "artstore.jwt"),
        pytest.raises(Unavailable, match=r"timed out after 0\.5 s"),
    ):
        JwtAuth(JwtAuth.Settings(jwks_url=server.url, timeout=TIMEOUT), context)
    assert caplog.messages == [f"auth.jwt.jwks_url: waiting for the JWK set of {server.url}, at most 0.5 s"]
