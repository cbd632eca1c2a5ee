"""One POST to one URL: bounded in time, to an address that was checked first, without redirects."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import NamedTuple
from urllib.parse import urlsplit

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


class Answer(NamedTuple):
    """The answer of the receiver. `retry_after` is the seconds that it asks to wait, or 0."""

    status: int
    retry_after: float


class PrivateAddress(OSError):
    """The name of the receiver resolves to this machine or to a private network only."""


class Endpoint:
    """A receiver. One thread posts; another one may interrupt it."""

    def __init__(self, url: str, *, timeout: float, allow_private: bool) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._netloc = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._timeout = timeout
        self._allow_private = allow_private
        self._open: socket.socket | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send `body` and return the answer. Raises `OSError`, `HTTPException`: there was no valid answer in time."""
        deadline = time.monotonic() + self._timeout
        watchdog = threading.Timer(self._timeout, self.interrupt)
        watchdog.daemon = True
        watchdog.start()
        connection = HTTPConnection(self._host, self._port)
        try:
            # A name that is looked up twice may resolve to another address the second time: connect to the address that
            # was checked.
            connection.sock = self._connect(self.resolve(), deadline)
            connection.request(
                "POST", self._target, body, {**headers, "Host": self._netloc, "Connection": "close"}
            )
            response = connection.getresponse()
            if time.monotonic() >= deadline:  # the watchdog ended it, which looks like the end of the headers
                raise TimeoutError("it took too long")
            seconds = response.getheader("Retry-After") or ""
            return Answer(response.status, float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0)
        finally:
            watchdog.cancel()
            self._open = None
            connection.close()

    def interrupt(self) -> None:
        """End the POST that is running, if there is one."""
        running = self._open
        if running is not None:
            try:
                socket.socket.shutdown(running, socket.SHUT_RDWR)
            except OSError:
                pass

    def resolve(self) -> list[str]:
        """Return the present addresses of the name, without private ones unless they are allowed. Raises `OSError`."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        every = list(dict.fromkeys(str(address[0]) for *_, address in found))
        allowed = [a for a in every if self._allow_private or is_public(a)]
        if not allowed:
            raise PrivateAddress(f"{self._host} is at {', '.join(every)}, which is no public address")
        return allowed

    def _connect(self, addresses: list[str], deadline: float) -> socket.socket:
        *others, last = addresses
        for address in others:
            try:
                return self._secure(self._dial(address, deadline))
            except OSError:
                continue
        return self._secure(self._dial(last, deadline))

    def _dial(self, address: str, deadline: float) -> socket.socket:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        return socket.create_connection((address, self._port), timeout=left)

    def _secure(self, plain: socket.socket) -> socket.socket:
        self._open = plain
        if self._tls is None:
            return plain
        secure = self._tls.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)
        self._open = secure
        try:
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure


def is_public(address: str) -> bool:
    """Return whether an address is a public one, and so is the IPv4 address that an IPv6 address may embed."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    # Tunnels end at an unknown place, and versions of Python differ on whether they are global.
    if ip.sixtofour or ip.teredo:
        return False
    embedded = [ip.ipv4_mapped]
    if ip in _NAT64 or ip in _COMPATIBLE:
        embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    if ip.is_multicast or ip.is_site_local or not (ip.is_global or ip.ipv4_mapped):
        return False
    return all(v4.is_global and not v4.is_multicast for v4 in embedded if v4 is not None)
