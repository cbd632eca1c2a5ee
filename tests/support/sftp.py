"""An SFTP server for tests, by asyncssh: on a free port, gone with the process that began it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

USER, PASSWORD = "ivanov", "test-password-of-the-store"


@dataclass
class Sftp:
    """A server of the files of this machine."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, path: Path, password: str = PASSWORD) -> str:
        return f"sftp://{USER}:{password}@127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def stop(self, by: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(by)
        if by == signal.SIGKILL:
            self.process.communicate()


@contextmanager
def sftp() -> Iterator[Sftp]:
    from support.ports import free_port

    server = Sftp(free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Door(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


async def _serve(port: int) -> None:
    await asyncssh.listen(
        "127.0.0.1", port, server_factory=_Door, sftp_factory=True, reuse_address=True,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
    )  # fmt: skip
    print("ready", flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
