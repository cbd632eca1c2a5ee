"""The four modes: what each allows, the ways between them, and that every worker knows at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.servers import Answer, Element, file_path, token, until

Start = Callable[..., Element]


def attempts(element: Element, file_id: str) -> dict[str, Callable[[], Answer]]:
    return {
        "upload": lambda: element.post(b"x"),
        "form": lambda: element.post_form(
            [b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx']
        ),
        "put": lambda: element.put("0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4", b"x"),
        "update": lambda: element.patch(file_id, {"description": "x"}),
        "delete": lambda: element.ask("DELETE", file_path("0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d5")),
        "download": lambda: element.download(file_id),
        "look": lambda: element.get(file_path(file_id)),
        "search": lambda: element.get("/api/v1/files"),
        "capacity": lambda: element.get("/api/v1/capacity"),
        "ready": lambda: element.get("/health/ready"),
    }


READING = {"look", "search", "capacity", "ready"}
WRITING = {"upload", "form", "put", "update"}
ALLOWED = {"rw": READING | WRITING | {"download"}, "ro": READING | {"download"}, "ar": READING}
TOLD = {"rw": ["upload", "update", "download", "read"], "ro": ["download", "read"], "ar": ["read"]}


def check_mode(element: Element, mode: str, file_id: str) -> None:
    """Every operation, again and again on new connections: both workers are asked."""
    for _ in range(4):
        info = element.get("/api/v1/info").json()
        assert (info["mode"], info["allowed_operations"]) == (mode, TOLD[mode])
        for name, attempt in attempts(element, file_id).items():
            answer = attempt()
            if name in ALLOWED[mode]:
                assert answer.status in (200, 201), (mode, name, answer)
            else:
                assert mode in answer.problem(409, "mode-not-allowed")["detail"]


@pytest.fixture(scope="module")
def served(adapter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Element]:
    element = servers.start(
        adapter, tmp_path_factory.mktemp("modes") / "home", workers=2, settings={"MODE": "rw"}
    )
    yield element
    element.stop()


@pytest.fixture
def element(served: Element) -> Element:
    """An element in mode `rw`, two workers, for these tests alone."""
    for back in ("ro", "rw"):
        served.mode(back, confirm=True)
    assert served.get("/api/v1/info").json()["mode"] == "rw"
    return served


def test_from_mode_to_mode(element: Element) -> None:
    file_id = element.upload(b"abc")["file_id"]
    check_mode(element, "rw", file_id)
    for wrong in ("rw", "ar", "edit"):
        element.mode(wrong, confirm=True).problem(409, "conflict")
    element.mode("ar").problem(409, "conflict")
    for role in ("reader", "user", "operator"):
        held, element.bearer = element.bearer, token(role)
        element.mode("ro").problem(403, "forbidden")
        element.bearer = held

    step = element.mode("ro")
    assert step.status == 200
    assert {n: v for n, v in step.json().items() if n != "changed_at"} == {
        "previous_mode": "rw",
        "mode": "ro",
        "changed_by": "Ivanov",
        "reason": "test",
    }
    with element.unchanged():
        check_mode(element, "ro", file_id)
    element.mode("rw").problem(409, "conflict")
    assert element.mode("rw", confirm=True).status == 200
    check_mode(element, "rw", file_id)
    assert element.mode("ro").status == 200
    assert element.mode("ar").status == 200
    with element.unchanged():
        check_mode(element, "ar", file_id)
    for wrong in ("rw", "edit", "ar"):
        element.mode(wrong, confirm=True).problem(409, "conflict")
    element.mode("ro").problem(409, "conflict")
    assert element.mode("ro", confirm=True).status == 200
    assert element.download(file_id).body == b"abc"
    modes = [t for t in element.get("/api/v1/transactions").json()["items"] if t["operation"] == "mode"]
    assert {t["status"] for t in modes} == {"committed", "rolled_back"}


def test_uploads_that_race_a_transition(element: Element) -> None:
    before, count = element.tree(), element.get("/api/v1/capacity").json()["file_count"]
    begun, answers = threading.Event(), []

    def upload() -> list[tuple[bool, int]]:
        seen: list[tuple[bool, int]] = []
        for _ in range(2000):
            over = done.is_set()
            answer = element.post(b"x" * 100)
            seen.append((over, answer.status))
            begun.set()
            if answer.status != 201:
                answer.problem(409, "mode-not-allowed")
                return seen
        raise AssertionError("the transition never came")

    done = threading.Event()
    body = b"x" * 3_000_000
    with element.connect() as slow, ThreadPoolExecutor(8) as pool:
        head = element.head("POST", "/api/v1/files?filename=slow", [("Content-Length", str(len(body)))])
        slow.send(head + body[:2_000_000])
        running = [pool.submit(upload) for _ in range(8)]
        begun.wait()
        assert element.mode("ro").status == 200
        done.set()
        slow.send(body[2_000_000:])
        slow.answer("POST").problem(409, "mode-not-allowed")
        answers = [x for r in running for x in r.result()]
    # Whoever asked after the transition had answered was refused; whoever was told 201 has a file.
    assert not [status for after, status in answers if after and status != 409]
    created = sum(status == 201 for _, status in answers)
    element.wait_idle()
    assert len(element.tree() - before) == 2 * created
    assert element.get("/api/v1/capacity").json()["file_count"] == count + created


def refuses(element: Element) -> bool:
    try:
        element.connect().close()
    except ConnectionRefusedError:
        return True
    return False


LATE = """
import os, sys, time
from pathlib import Path
if "serve" in sys.orig_argv:
    import granian.server.mp as mp
    real, here = mp._new_cbscheduler, Path(__file__).parent
    def late(*args, **kwargs):
        made = real(*args, **kwargs)
        try:
            os.close(os.open(here / "late", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return made
        while not (here / "go").exists():
            time.sleep(0.01)
        return made
    mp._new_cbscheduler = late
"""


def test_sigterm_reaches_a_worker_that_is_only_starting(
    adapter: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two is held when it has given its signal handlers and does not yet serve."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(LATE)
    monkeypatch.setenv("PYTHONPATH", str(code))
    element = start(adapter, workers=2)
    until((code / "late").exists, "the late one")
    element.process.terminate()
    until(lambda: refuses(element), "the end of the other")
    (code / "go").touch()
    assert element.process.wait(15) == 0  # long before the 30 s are over in which transfers may end
    element.stop()


def test_sigterm_lets_transfers_end_and_a_restart_remembers(adapter: str, start: Start) -> None:
    element = start(adapter, workers=2, settings={"MODE": "rw"})
    data = bytes(range(256)) * 40_000
    made: dict[str, Any] = element.upload(data)
    head = element.head("POST", "/api/v1/files?filename=late", [("Content-Length", str(len(data)))])
    with element.connect() as upload, element.connect() as download:
        upload.send(head + data[:3_000_000])
        download.send(element.head("GET", f"{file_path(made['file_id'])}/download"))
        assert download.line() == b"HTTP/1.1 200 OK\r\n"
        element.process.terminate()
        until(lambda: refuses(element), "the end of listening")
        upload.send(data[3_000_000:])
        late = upload.answer("POST")
        rest = download.rest()
    assert late.status == 201
    assert rest.partition(b"\r\n\r\n")[2] == data
    element.stop()
    again = start(adapter, home=element.home, settings={"MODE": "edit"})
    assert again.get("/api/v1/info").json()["mode"] == "rw"
    assert again.download(late.json()["file_id"]).body == data
