"""What is known of the file systems behind the protocols of URLs, and how one is connected."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

import fsspec

PATIENCE = 15.0
"""Seconds without a word from a server over SFTP."""


class Facts(NamedTuple):
    """What is known of one kind of file system."""

    whole: bool
    """A file appears, and is replaced, whole."""
    durable: bool
    """What was closed survives power loss."""
    staged: bool
    """It gets whole by a move in one step; otherwise by the write itself, which shows nothing before its end."""
    threads: bool
    """One connection serves many threads, and mends itself."""


_OBJECTS = Facts(whole=True, durable=True, staged=False, threads=True)
_FILES = Facts(whole=True, durable=False, staged=True, threads=True)  # no fsync in the whole of fsspec
_SFTP = Facts(whole=True, durable=False, staged=True, threads=False)
_UNKNOWN = Facts(whole=False, durable=False, staged=True, threads=False)

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
    """The part before `://`."""
    return url.partition("://")[0] if "://" in url else "file"


def facts_of(protocol: str) -> Facts:
    """What is known of it; of one that nobody looked at, nothing."""
    return FACTS.get(protocol, _UNKNOWN)


def connected(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """A new file system, and the path of the store in it. Raises what fsspec and the library behind it raise."""
    if facts_of(protocol_of(url)) is _SFTP:
        return _over_sftp(url, options)
    fs, root = fsspec.url_to_fs(url, **{"skip_instance_cache": True, "use_listings_cache": False} | options)
    return fs, root


def _over_sftp(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """By fsspec's own, whatever else is installed: it was looked at. It hands every option on to paramiko."""
    from fsspec.implementations.sftp import SFTPFileSystem

    patience = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout", "channel_timeout"), PATIENCE)
    place = SFTPFileSystem._get_kwargs_from_urls(url)
    fs = SFTPFileSystem(**{"skip_instance_cache": True} | patience | place | options)
    channel = fs.ftp.get_channel()
    channel.settimeout(PATIENCE)  # else a server that fell silent is waited for without end
    channel.get_transport().sock.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # 1 MiB/s without, 80 with
    return fs, SFTPFileSystem._strip_protocol(url)
