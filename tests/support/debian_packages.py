"""Installs the Debian packages that the tests need and this machine lacks.

    python tests/support/debian_packages.py COMMAND=PACKAGE ...        (`strace=strace`)

A package is missing when its command is not on the path. It is installed as root, or by sudo where that asks for no
password; else this fails with the line to type. Several of these may run at once: one installs, the others wait.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
LOCK = Path(tempfile.gettempdir()) / f"artstore-debian-packages-{os.getuid()}.lock"


def missing(wanted: dict[str, str]) -> list[str]:
    """Return the packages whose commands are not on the path."""
    return [package for command, package in wanted.items() if shutil.which(command) is None]


def install(packages: list[str]) -> None:
    """Install packages; raise SystemExit, with the line to type, where this user may not."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    line = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run(
                [*as_root, *APT, *command], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
    except (OSError, subprocess.CalledProcessError) as e:
        raise SystemExit(
            f"The tests need the Debian packages {', '.join(packages)}, and they could not be installed ({e}). "
            f"As root, type:\n\n    {line}\n"
        ) from e


def main(*arguments: str) -> None:
    wanted = dict(argument.split("=", 1) for argument in arguments)
    if not missing(wanted):
        return
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if packages := missing(wanted):  # another process may have installed them meanwhile
            install(packages)
    if left := missing(wanted):
        raise SystemExit(
            f"The packages {', '.join(left)} are installed, but their commands are not on the path."
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
