"""One POST to one URL: bounded in time, to an address that was looked at first, no redirect followed."""

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
    """What the receiver said. `retry_after`: seconds it asked for, or 0."""

    status: int
    retry_after: float


class PrivateAddress(OSError):
    """The name of the receiver leads to this machine or to a private network."""


class Endpoint:
    """A receiver. One thread posts; another may cut it off."""

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
        """Send it. Raises `OSError` or `HTTPException` when no sound answer came in time."""
        ends = time.monotonic() + self._timeout
        watchdog = threading.Timer(self._timeout, self.cut)
        watchdog.daemon = True
        watchdog.start()
        connection = HTTPConnection(self._host, self._port)
        try:
            # A name that is looked up twice may lead elsewhere the second time: connect to what was looked at.
            connection.sock = self._connect(self.addresses(), ends)
            connection.request(
                "POST", self._target, body, {**headers, "Host": self._netloc, "Connection": "close"}
            )
            response = connection.getresponse()
            if time.monotonic() >= ends:  # cut off by ourselves, which looks like the end of a head
                raise TimeoutError("it took too long")
            wish = response.getheader("Retry-After") or ""
            return Answer(response.status, float(wish) if wish.isascii() and wish.isdigit() else 0.0)
        finally:
            watchdog.cancel()
            self._open = None
            connection.close()

    def cut(self) -> None:
        """End the POST under way, if there is one."""
        under_way = self._open
        if under_way is not None:
            try:
                socket.socket.shutdown(under_way, socket.SHUT_RDWR)
            except OSError:
                pass

    def addresses(self) -> list[str]:
        """Where the name leads now, without what is private unless that is allowed. Raises `OSError`."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        every = list(dict.fromkeys(str(address[0]) for *_, address in found))
        allowed = [a for a in every if self._allow_private or is_public(a)]
        if not allowed:
            raise PrivateAddress(f"{self._host} is at {', '.join(every)}, which is no public address")
        return allowed

    def _connect(self, addresses: list[str], ends: float) -> socket.socket:
        *others, last = addresses
        for address in others:
            try:
                return self._secure(self._dial(address, ends))
            except OSError:
                continue
        return self._secure(self._dial(last, ends))

    def _dial(self, address: str, ends: float) -> socket.socket:
        left = ends - time.monotonic()
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
    """Whether an address lies in the Internet, also that which an IPv6 address carries within."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    if (
        ip.sixtofour or ip.teredo
    ):  # tunnels that end who knows where; Pythons differ on whether they are global
        return False
    carried = [ip.ipv4_mapped]
    if ip in _NAT64 or ip in _COMPATIBLE:
        carried.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    if ip.is_multicast or ip.is_site_local or not (ip.is_global or ip.ipv4_mapped):
        return False
    return all(v4.is_global and not v4.is_multicast for v4 in carried if v4 is not None)
