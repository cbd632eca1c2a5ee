"""The two providers behind a real server, chosen by configuration alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

ARTSTORE = str(Path(sys.executable).with_name("artstore"))


def artstore(home: Path, *words: str) -> str:
    run = subprocess.run([ARTSTORE, *words, "--home", str(home)], capture_output=True, text=True, check=True)
    return run.stdout


def ask(url: str, token: str | None, method: str = "GET", body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urlopen(Request(url, body, {"Content-Type": "text/plain", **headers}, method=method)) as answer:
        content: bytes = answer.read()
    return content


@contextmanager
def serving(home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve the element in `home`: yield the URL of its files, and its process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [ARTSTORE, "serve", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                ask(f"http://127.0.0.1:{port}/health/ready", None)
                break
            except (URLError, ConnectionError):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/api/v1/files", process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "artstore.toml").write_text('backend = "boxes"\nauth = "keys"\n')
    return tmp_path


def test_the_plugin_is_listed_and_chosen(home: Path) -> None:
    rows = json.loads(artstore(home, "plugins", "--json"))
    chosen = {row["role"]: row for row in rows if row["chosen"]}
    for role, name in (("backend", "boxes"), ("auth", "keys")):
        assert chosen[role]["name"] == name
        assert chosen[role]["distribution"] == "artstore-boxes"
        assert chosen[role]["status"] == "ok"


def test_an_uploaded_file_is_downloaded_after_the_server_was_killed(home: Path) -> None:
    content = os.urandom(3 << 20)
    with serving(home) as (files, process):
        token = artstore(home, "token", "--user", "ivanov", "--role", "operator").strip()
        made = json.loads(ask(f"{files}?filename=report.txt", token, "POST", content))
        assert made["uploaded_by"] == "ivanov"
        with pytest.raises(HTTPError, match="401"):
            ask(f"{files}/{made['file_id']}/download", f"{token}x")
        reader = artstore(home, "token", "--user", "petrov", "--role", "reader").strip()
        assert ask(f"{files}/{made['file_id']}/download", reader) == content
        with pytest.raises(HTTPError, match="403"):
            ask(f"{files}?filename=report.txt", reader, "POST", b"small: the server does not wait for more")
        os.killpg(process.pid, signal.SIGKILL)
    (box,) = (home / "files" / "boxes").iterdir()
    assert (box / "data").read_bytes() == content
    assert token not in (home / "state" / "keys.jsonl").read_text()
    with serving(home) as (files, _):
        assert ask(f"{files}/{made['file_id']}/download", token) == content
        assert json.loads(ask(files, token))["items"] == [made]
        ask(f"{files}/{made['file_id']}", token, "DELETE")
        with pytest.raises(HTTPError, match="404"):
            ask(f"{files}/{made['file_id']}", token)
    assert list((home / "files" / "boxes").glob("*/data")) == []
