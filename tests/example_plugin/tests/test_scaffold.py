"""The first steps of an author, for each role: `artstore plugin new`, `pip install`, `pytest`, in a new environment."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROLES = ("backend", "object-store", "cache", "auth", "naming")


def run(command: list[str], where: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of a new environment that sees the packages of this one, and installs into itself."""
    place = tmp_path_factory.mktemp("fresh")
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], place)
    fresh = place / "venv" / "bin" / "python"
    site = run([str(fresh), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place).strip()
    (Path(site) / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(fresh)


@pytest.mark.parametrize("role", ROLES)
def test_a_new_plugin_passes_its_suite(python: str, tmp_path: Path, role: str) -> None:
    run([python, "-m", "artstore_cli", "plugin", "new", f"tape-{role}", "--role", role], tmp_path)
    made = tmp_path / f"artstore-tape-{role}"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "."], made)
    assert " passed" in run([python, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"], made)
    provided = "backend" if role == "object-store" else role
    (row,) = json.loads(run([python, "-m", "artstore_cli", "plugins", f"tape-{role}", "--json"], tmp_path))
    assert (row["role"], row["status"], row["distribution"]) == (provided, "ok", f"artstore-tape-{role}")
