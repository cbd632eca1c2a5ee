"""Jobs over HTTP, and stores that were tampered with by hand, on real elements."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.servers import JSON, Element, file_path, until

RECONCILE, REBUILD = "/api/v1/maintenance/reconcile", "/api/v1/maintenance/rebuild"
JOBS = "/api/v1/maintenance/jobs"
Start = Callable[..., Element]


def job(element: Element, target: str, **wish: Any) -> dict[str, Any]:
    """Begin a job, wait for its end; what it says of itself."""
    body = json.dumps(wish).encode() if wish else None

    def begin() -> Any:
        answer = element.ask("POST", target, [JSON] if wish else None, body)
        if answer.status == 409:  # a job of another test
            answer.problem(409, "conflict")
            return None
        assert answer.status == 202, answer
        assert answer.header("location") == f"{JOBS}/{answer.json()['id']}"
        return answer

    place = until(begin, "no other job").header("location")
    ended: dict[str, Any] = until(
        lambda: (record := element.get(place).json())["status"] != "running" and record, "the job ends"
    )
    return ended


def verify(element: Element, *options: str) -> tuple[int, dict[str, Any]]:
    run = servers.artstore(element.home, "verify", "--json", *options)
    assert run.stderr == ""
    return run.returncode, json.loads(run.stdout)


def test_a_check_reports_its_findings(element: Element) -> None:
    made = element.upload(b"checked")
    record = job(element, RECONCILE, mode="check", digests=True)
    assert (record["status"], record["task"], record["digests"], record["by"]) == (
        "done",
        "check",
        True,
        "Ivanov",
    )
    assert record["found"]["ok"] >= 1
    assert record["error"] is None
    assert record["finished"] >= record["started"]
    assert record["progress"]["done"] >= record["found"]["ok"]
    assert record["progress"]["bytes"] >= made["size"]


def test_reconcile_checks_by_default(element: Element) -> None:
    answer = until(
        lambda: (a := element.ask("POST", RECONCILE, [JSON], b"{}")).status != 409 and a, "no other job"
    )
    assert (answer.status, answer.json()["task"], answer.json()["status"]) == (202, "check", "running")
    until(lambda: element.get(answer.header("location")).json()["status"] == "done", "the job ends")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed-request"),
        (b"[]", 422, "invalid-field"),
        (b'{"mode": "mend"}', 422, "invalid-field"),
        (b'{"digests": "yes"}', 422, "invalid-field"),
        (b'{"since": "2026"}', 422, "invalid-field"),
        (b'{"mode": ["check"]}', 422, "invalid-field"),
    ],
)
def test_invalid_requests_for_a_job_are_refused(
    element: Element, body: bytes, status: int, code: str
) -> None:
    element.ask("POST", RECONCILE, [JSON], body).problem(status, code)


def test_an_unknown_job_is_404(element: Element) -> None:
    element.get(f"{JOBS}/00000000-0000-7000-8000-000000000000").problem(404, "not-found")
    for odd in ("lock", "position", "..%2Flock", "%00", "x" * 300):
        assert element.get(f"{JOBS}/{odd}").problem()["code"] in (
            "invalid-field",
            "not-found",
            "malformed-request",
        )
    assert element.get(f"{JOBS}/x").problem(422, "invalid-field")["field"] == "job_id"
    element.get(f"{JOBS}?cursor=x").problem(400, "invalid-cursor")
    element.ask("POST", RECONCILE, None, b"{}").problem(415, "unsupported-media-type")


def test_jobs_are_listed_in_pages(element: Element) -> None:
    made = [job(element, REBUILD)["id"] for _ in range(3)]
    seen, cursor = [], ""
    while cursor is not None:
        page = element.get(f"{JOBS}?limit=2{cursor and '&cursor=' + cursor}").json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(seen, reverse=True)
    assert set(made) <= set(seen)


def half_of(home: Path, made: dict[str, Any], suffix: str = "") -> Path:
    return home / "files" / made["storage_path"] / (made["storage_filename"] + suffix)


def test_a_job_of_a_dead_process_is_failed_and_blocks_no_other_job(start: Start, adapter: str) -> None:
    """Of two workers the one that runs the job is killed, and the other shows it; SIGTERM interrupts another job."""
    element = start(adapter, workers=2)
    made = element.upload(b"x")
    # A sparse file takes minutes to read: long enough to be interrupted in.
    os.truncate(half_of(element.home, made), 1 << 42)
    sidecar = half_of(element.home, made, ".attr.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"size": 1 << 42}))

    def begin() -> str:
        answer = element.ask("POST", RECONCILE, [JSON], b'{"digests": true}')
        assert answer.status == 202, answer
        return str(answer.header("location"))

    place = begin()
    until(lambda: element.get(place).json()["progress"]["bytes"] > 0, "it reads")
    element.ask("POST", RECONCILE, [JSON], b"{}").problem(409, "conflict")
    element.ask("POST", REBUILD).problem(409, "conflict")
    refused = servers.artstore(element.home, "rebuild")
    assert (refused.returncode, "one at a time" in refused.stderr) == (1, True), refused.stderr
    lock = (element.home / "state" / "jobs" / "lock").stat().st_ino
    owner = next(
        int(line.split()[4]) for line in Path("/proc/locks").read_text().splitlines()
        if line.split()[5].endswith(f":{lock}") and "WRITE" in line
    )  # fmt: skip
    os.kill(owner, signal.SIGKILL)
    until(lambda: len(element.workers()) == 2 and owner not in element.workers(), "a new worker")

    def failed() -> Any:
        try:
            record = element.get(place).json()
        except (OSError, ValueError):  # the connection went to the one that died
            return None
        return record if record["status"] == "failed" else None

    assert until(failed, "it has failed")["error"] == "the process died"
    second = begin()
    until(lambda: element.get(second).json()["progress"]["bytes"] > 0, "it reads")
    element.process.send_signal(signal.SIGTERM)
    assert element.process.wait(30) == 0
    record = json.loads((element.home / "state" / "jobs" / f"{second.rpartition('/')[2]}.json").read_bytes())
    assert (record["status"], record["error"]) == ("failed", "interrupted: the process was asked to end")
    element.log.write_text("")  # it names the worker that was killed


def tampered(element: Element) -> dict[str, dict[str, Any]]:
    """Files of which each was spoilt in its own way: how -> what it had been."""
    home, outside = element.home, element.home.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"somebody else's")
    names = ("flipped data", "cut data", "empty data", "data fifo", "data link", "data directory", "empty sidecar",
             "no JSON", "huge sidecar", "deep sidecar", "wrong id", "sidecar fifo", "sidecar link", "leads outside",
             "of one", "of the other", "number too large")  # fmt: skip
    made = {how: element.upload(b"content of ours") for how in names}

    def data(how: str) -> Path:
        return half_of(home, made[how])

    def sidecar(how: str) -> Path:
        return half_of(home, made[how], ".attr.json")

    def edit(how: str, **changes: Any) -> None:
        sidecar(how).write_text(json.dumps(json.loads(sidecar(how).read_text()) | changes))

    data("flipped data").write_bytes(b"content of OURS")
    os.truncate(data("cut data"), 3)
    os.truncate(data("empty data"), 0)
    for how, place in (
        ("data fifo", data),
        ("sidecar fifo", sidecar),
        ("data link", data),
        ("sidecar link", sidecar),
    ):
        place(how).unlink()
        if how.endswith("fifo"):
            os.mkfifo(place(how))
        else:
            place(how).symlink_to(outside / "secret")
    data("data directory").unlink()
    data("data directory").mkdir()
    sidecar("empty sidecar").write_bytes(b"")
    sidecar("no JSON").write_bytes(os.urandom(500))
    sidecar("huge sidecar").write_bytes(sidecar("huge sidecar").read_bytes() + b" " * (8 << 20))
    sidecar("deep sidecar").write_bytes(b'{"metadata": ' + b'{"a":' * 700)
    edit("wrong id", file_id="01940000-0000-7000-8000-000000000000")
    edit("leads outside", storage_path="../../outside", storage_filename="secret", size=15)
    edit("number too large", size=2**62)
    kept = sidecar("of one").read_bytes()
    sidecar("of one").write_bytes(sidecar("of the other").read_bytes())
    sidecar("of the other").write_bytes(kept)
    return made


def test_damaged_files_are_never_served(start: Start) -> None:
    """Before and after a restart: a problem or the very bytes, no traceback, no delay, no bytes from outside."""
    element = start("falcon")
    whole = element.upload(b"whole")
    made = tampered(element)
    damaged = {f"{m['storage_path']}/{m['storage_filename']}" for m in made.values()}

    def look() -> None:
        for how, one in made.items():
            for target in (file_path(one["file_id"]), f"{file_path(one['file_id'])}/download"):
                answer = element.get(target)
                if answer.status == 200 and target.endswith("download"):
                    assert how == "flipped data"  # only the digest shows it, and the client has that
                    assert answer.body == b"content of OURS"
                    continue
                assert answer.status in (200, 404, 500), (how, answer)
                if answer.status == 500:
                    assert answer.json()["code"] == "damaged", (how, answer)
                if answer.status != 200:
                    assert answer.header("content-type") == "application/problem+json"
                assert b"somebody" not in answer.body
                assert b"Traceback" not in answer.body
            change = element.patch(one["file_id"], {"description": "x"})
            assert change.status in (200, 404, 500), (how, change)
        assert element.download(whole["file_id"]).body == b"whole"
        assert element.get("/api/v1/files?limit=1000").status == 200
        assert element.get("/health/ready").status == 200

    look()
    code, report = verify(element, "--digests")
    assert code == 6
    assert {f["key"] for f in report["findings"] if f["kind"] == "damaged"} == damaged
    element.process.send_signal(signal.SIGKILL)
    until(lambda: not element.workers(), "its workers end")
    element.process.wait()
    again = start("starlette", home=element.home)
    element.port, element.process, element.log = again.port, again.process, again.log
    look()
    record = job(element, RECONCILE, mode="repair", digests=True)
    assert record["found"]["damaged"] == record["repaired"]["quarantined"] == len(damaged)
    assert verify(element, "--digests")[0] == 0
    for one in made.values():
        element.download(one["file_id"]).problem(404, "not-found")
    assert (element.home.parent / "outside" / "secret").read_bytes() == b"somebody else's"
    again.log.write_text("")  # it names what is damaged, and that is no fault


def test_an_hour_behind_a_symbolic_link_is_not_read(start: Start, tmp_path: Path) -> None:
    element = start("starlette")
    made = element.upload(b"ours")
    hour = element.home / "files" / made["storage_path"]
    hour.rename(tmp_path / "elsewhere")
    hour.symlink_to(tmp_path / "elsewhere")
    answer = element.download(made["file_id"])
    assert (answer.status, answer.json()["code"]) == (500, "damaged")
    refused = element.post(b"new")
    assert refused.status in (500, 503), refused
    code, report = verify(element)
    assert code == 6
    assert {(f["kind"], f["key"]) for f in report["findings"]} == {
        ("foreign", made["storage_path"]),
        ("missing", f"{made['storage_path']}/{made['storage_filename']}"),
    }
    assert job(element, RECONCILE, mode="repair")["status"] == "done"
    assert job(element, REBUILD)["status"] == "done"
    assert element.download(made["file_id"]).status == 500  # out of reach is not gone
    hour.unlink()
    (tmp_path / "elsewhere").rename(hour)
    assert element.download(made["file_id"]).body == b"ours"
    assert element.post(b"new").status == 201
    element.log.write_text("")
