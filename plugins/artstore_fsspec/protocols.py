"""What is known about the file systems behind the protocols of URLs, and how to connect to one."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

import fsspec

SFTP_TIMEOUT = 15.0
"""Seconds without an answer from a server over SFTP."""


class Facts(NamedTuple):
    """What is known about one kind of file system."""

    atomic: bool
    """A file appears whole, and is replaced whole."""
    durable: bool
    """A file that was closed survives a power loss."""
    staged: bool
    """A file becomes visible by an atomic move. If not, by the write itself, which shows nothing before its end."""
    threads: bool
    """One connection serves many threads, and reconnects by itself."""


_OBJECTS = Facts(atomic=True, durable=True, staged=False, threads=True)
_FILES = Facts(atomic=True, durable=False, staged=True, threads=True)  # fsspec never calls fsync
_SFTP = Facts(atomic=True, durable=False, staged=True, threads=False)
_UNKNOWN = Facts(atomic=False, durable=False, staged=True, threads=False)

FACTS = {
    "memory": _FILES,
    "file": _FILES,
    "local": _FILES,
    "sftp": _SFTP,
    "ssh": _SFTP,
    "s3": _OBJECTS,
    "s3a": _OBJECTS,
    "gs": _OBJECTS,
    "gcs": _OBJECTS,
    "abfs": _OBJECTS,
    "abfss": _OBJECTS,
    "az": _OBJECTS,
}


def protocol_of(url: str) -> str:
    """Return the part of `url` before `://`, or `file`."""
    return url.partition("://")[0] if "://" in url else "file"


def facts_of(protocol: str) -> Facts:
    """Return what is known about a protocol. About one that is not listed, nothing is assumed."""
    return FACTS.get(protocol, _UNKNOWN)


def connect(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Open a new file system: return it and the path of the store in it.

    Raises what fsspec and the library behind it raise.
    """
    if facts_of(protocol_of(url)) is _SFTP:
        return _connect_sftp(url, options)
    fs, root = fsspec.url_to_fs(url, **{"skip_instance_cache": True, "use_listings_cache": False} | options)
    return fs, root


def _connect_sftp(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Connect by fsspec's own SFTP, even when another library is installed: only this one was tested.

    It passes every option on to paramiko.
    """
    from fsspec.implementations.sftp import SFTPFileSystem

    timeouts = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout", "channel_timeout"), SFTP_TIMEOUT)
    host = SFTPFileSystem._get_kwargs_from_urls(url)
    fs = SFTPFileSystem(**{"skip_instance_cache": True} | timeouts | host | options)
    channel = fs.ftp.get_channel()
    channel.settimeout(SFTP_TIMEOUT)  # else a call waits for ever for a server that stops answering
    # Without TCP_NODELAY 1 MiB/s, with it 80.
    channel.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return fs, SFTPFileSystem._strip_protocol(url)
