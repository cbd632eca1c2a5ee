"""`artstore serve` with an observer that writes a line for each change, killed again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import servers
from support.servers import Element, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

OBSERVER = """
import os
from artstore.hookspecs import Provider, hookimpl
from pydantic import BaseModel

class Lines:
    API = 1
    class Settings(BaseModel):
        path: str
    def __init__(self, settings, context):
        self.fd = os.open(settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def committed(self, change, file_id, key, attr):
        os.write(self.fd, f"{change} {file_id} {attr and attr.revision}\\n".encode())
    def flush(self):
        os.fsync(self.fd)
    def close(self):
        pass

@hookimpl
def artstore_observers():
    return [Provider(name="lines", target="lines_observer:Lines", summary="a line for each change")]
"""


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the observer writes. The plugin is installed in a directory of modules."""
    modules = tmp_path / "modules"
    record = modules / "lines_observer-1.dist-info"
    record.mkdir(parents=True)
    (modules / "lines_observer.py").write_text(OBSERVER)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: lines-observer\nVersion: 1\n")
    (record / "entry_points.txt").write_text("[artstore]\nlines = lines_observer\n")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    return tmp_path / "lines"


def change_files(element: Element) -> list[str]:
    """Upload and update some files; return the lines that this makes."""
    made = []
    for n in range(10):
        file_id = element.upload(b"content", f"{n}.txt")["file_id"]
        assert element.patch(file_id, {"description": "new"}).status == 200
        made += [f"upload {file_id} 1", f"update {file_id} 2"]
    return made


def is_checkpointed(element: Element) -> bool:
    """Whether the last record of the log says that all before it is durable in the index and with the observers."""
    segments = [p for p in (element.home / "state" / "wal").glob("*.jsonl") if ".settled" not in p.name]
    return all("flushed" in segment.read_text().splitlines()[-1] for segment in segments)


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_changes_are_delivered_again_after_every_kill(tmp_path: Path, lines: Path, adapter: str) -> None:
    """Only those of the last seconds are: the log is checkpointed while the element runs."""
    settings = {"OBSERVER__LINES__PATH": str(lines)}
    changes: list[str] = []
    for _ in range(2):
        with servers.serving(adapter, tmp_path / "home", settings=settings) as element:
            changes += change_files(element)
            until(lambda: is_checkpointed(element), "a checkpoint of the log", 45)
    # What the checkpoint does not cover is delivered once more, a line for each file.
    with servers.serving(adapter, tmp_path / "home", settings=settings) as element:
        last = change_files(element)
    with servers.serving(adapter, tmp_path / "home", settings=settings) as element:
        element.stop()
    written = lines.read_text().splitlines()
    assert [line for line in written if line in changes] == changes
    again = [line for line in written if line not in changes]
    assert set(again) == set(last)
    assert len(again) <= len(last) + len(last) // 2
