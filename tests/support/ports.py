"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket

_PORTS = range(10_000, 32_768)
"""Below those that the kernel gives to connections that go out: one of these could take it before its server does."""


def free_port() -> int:
    """One at which nobody listens."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
