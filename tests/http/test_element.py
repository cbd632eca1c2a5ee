"""What the element says of itself, what no route answers, and what every answer carries."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.ports import free_port
from support.s3 import S3Element
from support.servers import JSON, Element, file_path, token

READER, USER, OPERATOR = token("reader"), token("user"), token("operator")
FILE = f"/api/v1/files/{uuid.UUID(int=9)}"


def test_root_and_info(element: Element) -> None:
    root, info = element.get("/", bearer=None).json(), element.get("/api/v1/info", bearer=None).json()
    assert root["name"] == "artstore"
    assert root["openapi"] == "/openapi.json"
    assert info["element_id"] == root["element_id"]
    assert info["mode"] == "edit"
    assert info["allowed_operations"] == ["upload", "update", "delete", "download", "read"]
    assert info["adapter"] == element.adapter
    assert set(info) == {
        "element_id", "display_name", "version", "mode", "allowed_operations", "adapter", "missing_guarantees",
    }  # fmt: skip


def test_health(element: Element) -> None:
    live, ready = element.get("/health/live", bearer=None), element.get("/health/ready", bearer=None)
    assert (live.status, live.json()) == (200, {"status": "alive"})
    assert (ready.status, ready.json()) == (200, {"status": "ready"})


def test_capacity(element: Element) -> None:
    before = element.get("/api/v1/capacity").json()
    assert set(before) == {"total", "used", "reserved", "free", "file_count", "status"}
    assert before["status"] == "ok"
    element.upload(b"12345")
    after = element.get("/api/v1/capacity").json()
    assert after["used"] == before["used"] + 5
    assert after["file_count"] == before["file_count"] + 1


def test_plugins(element: Element) -> None:
    page = element.get("/api/v1/plugins").json()
    chosen = {p["role"]: p["name"] for p in page["items"] if p["chosen"]}
    backend = "s3" if isinstance(element, S3Element) else "local"
    assert chosen == {"backend": backend, "naming": "dated", "cache": "sql", "wal": "files", "auth": "jwt"}
    assert page["next_cursor"] is None


def test_openapi_lists_every_route(element: Element) -> None:
    answer = element.get("/openapi.json", bearer=None)
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    for path, methods in {
        "/api/v1/files": {"get", "post"},
        "/api/v1/files/upload": {"post"},
        "/api/v1/files/{file_id}": {"get", "put", "patch", "delete"},
        "/api/v1/files/{file_id}/download": {"get"},
        "/api/v1/info": {"get"},
        "/api/v1/capacity": {"get"},
        "/api/v1/plugins": {"get"},
        "/api/v1/mode/transition": {"post"},
        "/api/v1/transactions": {"get"},
        "/api/v1/maintenance/reconcile": {"post"},
        "/api/v1/maintenance/rebuild": {"post"},
        "/api/v1/maintenance/jobs": {"get"},
        "/api/v1/maintenance/jobs/{job_id}": {"get"},
        "/health/live": {"get"},
        "/health/ready": {"get"},
        "/": {"get"},
    }.items():
        assert methods <= set(document["paths"][path]), path
    for operation in (o for path in document["paths"].values() for o in path.values()):
        names = [(p["name"], p["in"]) for p in operation["parameters"]]
        assert len(names) == len(set(names)), operation["operationId"]
    for path in ("/api/v1/files/{file_id}", "/api/v1/files/{file_id}/download"):
        assert "304" in document["paths"][path]["get"]["responses"]


def test_transactions(element: Element) -> None:
    made = element.upload(b"x")
    element.patch(made["file_id"], {"description": "y"})
    element.ask("DELETE", f"/api/v1/files/{made['file_id']}")
    items = element.get("/api/v1/transactions?limit=3").json()["items"]
    assert [(t["operation"], t["file_id"], t["status"], t["by"]) for t in items] == [
        (operation, made["file_id"], "committed", "Ivanov") for operation in ("delete", "update", "upload")
    ]
    assert set(items[0]) == {"id", "operation", "file_id", "by", "status", "started", "finished", "error"}
    element.post(b"abc", headers=[("Repr-Digest", "sha-256=:" + "A" * 43 + "=:")]).problem(422)
    (failed,) = element.get("/api/v1/transactions?limit=1&status=rolled_back").json()["items"]
    assert "sha-256" in failed["error"]


def test_pages_of_transactions(element: Element) -> None:
    for _ in range(5):
        element.upload(b"x")
    whole = element.get("/api/v1/transactions?limit=5").json()["items"]
    found: list[Any] = []
    cursor = ""
    for _ in range(5):
        page = element.get(f"/api/v1/transactions?limit=1{cursor}").json()
        found += page["items"]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == whole


@pytest.mark.parametrize(
    ("query", "status"),
    [("status=open", 422), ("status=", 422), ("limit=0", 422), ("limit=1001", 422), ("cursor=x", 400), ("x=1", 400),
     ("cursor=", 400), ("status=pending&status=failed", 422), ("cursor=%00", 400)],
)  # fmt: skip
def test_transactions_that_are_refused(element: Element, query: str, status: int) -> None:
    element.get(f"/api/v1/transactions?{query}").problem(status)


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/v1", "/api/v1/", "/api/v1/files/", "/api/v1/info/", "//api/v1/info", "/API/v1/info",
     "/api/v1/files/upload/", f"{FILE}/", f"{FILE}/download/", f"{FILE}/downloads", "/health", "/%2e%2e/etc/passwd",
     "/../../etc/passwd", "/api/v1/files/../../../../etc/passwd", "/é", "/%ff", "/%00", "/%zz", "/a" * 500,
     "/api/v1/files/{file_id}/download/x", "/favicon.ico", "/index.html", "/;a", "/api/v1/info;x=1"],
    ids=range(26),
)  # fmt: skip
def test_unknown_paths_are_404(element: Element, path: str) -> None:
    for bearer in (None, element.bearer):
        for method in ("GET", "POST", "DELETE"):
            body = b"x" if method == "POST" else None
            element.ask(method, path, None, body, bearer=bearer).problem(404, "not-found")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/", "GET, HEAD"),
        ("/api/v1/info", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/api/v1/files", "GET, HEAD, POST"),
        ("/api/v1/mode/transition", "POST"),
        (FILE, "DELETE, GET, HEAD, PATCH, PUT"),
        (f"{FILE}/download", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get", "PROPFIND"]
)
def test_unknown_methods_are_405(element: Element, path: str, allow: str, method: str) -> None:
    if method in allow.split(", "):
        assert (
            element.ask(method, path, None, b"" if method in ("POST", "PUT", "PATCH") else None).status != 405
        )
        return
    for bearer in (None, element.bearer):
        answer = element.ask(method, path, bearer=bearer)
        answer.problem(405, "method-not-allowed")
        assert answer.header("allow") == allow


def test_targets_of_other_forms(element: Element) -> None:
    assert element.get("http://elsewhere.example/api/v1/info").status == 200
    element.ask("OPTIONS", "*").problem(404, "not-found")
    element.raw(element.head("CONNECT", "example.com:80")).problem(405)


@pytest.mark.parametrize("given", ["abc", "A-1.2_3:4/5+6=7@8", "x" * 128, str(uuid.UUID(int=1))])
def test_a_valid_request_id_is_kept(element: Element, given: str) -> None:
    for target in ("/api/v1/info", "/nothing", "/health/live", "/api/v1/files"):
        assert element.get(target, ("X-Request-ID", given)).header("x-request-id") == given
    assert element.get("/nothing", ("X-Request-ID", given)).problem()["request_id"] == given
    assert f" {given} GET /nothing 404 " in element.log.read_text()


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b", "<script>", '"', "é", "a,b", "%0a", "a\\b"])
def test_any_other_request_id_is_replaced(element: Element, given: str) -> None:
    answer = element.get("/nothing", ("X-Request-ID", given))
    assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id") or "")
    answer.problem(404)


def test_two_request_ids_are_replaced(element: Element) -> None:
    answer = element.get("/", ("X-Request-ID", "a"), ("X-Request-ID", "b"))
    assert answer.header("x-request-id") not in ("a", "b")


def test_every_answer_has_an_id_of_its_own(element: Element) -> None:
    assert len({element.get("/health/live").header("x-request-id") for _ in range(10)}) == 10


def test_unknown_parameters_are_refused(element: Element) -> None:
    for target in (
        "/?x=1",
        "/api/v1/info?a",
        "/api/v1/capacity?a=1",
        f"{FILE}?filename=x",
        f"{FILE}/download?q=1",
    ):
        element.get(target).problem(400)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"5", b'"ro"', b'{"target_mode": "ro"', b'{"target_mode": "closed"}',
        b'{"target_mode": 5}', b'{"target_mode": null}', b'{"target_mode": ["ro"]}', b'{"target_mode": "RO"}',
        b'{"target_mode": "ro", "confirm": "yes"}', b'{"target_mode": "ro", "confirm": 1}',
        b'{"target_mode": "ro", "confirm": null}', b'{"target_mode": "ro", "reason": 5}',
        b'{"target_mode": "ro", "force": true}', b'{"target_mode": "ro", "reason": "' + b"r" * 501 + b'"}',
        b'{"target_mode": "ro", "target_mode": "ar"}', b'{"target_mode": "ro", "reason": "\\ud800"}',
        b"\xff", b"[" * 50000,
    ],
    ids=range(22),
)  # fmt: skip
def test_invalid_transitions_are_refused(element: Element, body: bytes) -> None:
    with element.unchanged():
        detail = element.ask("POST", "/api/v1/mode/transition", [JSON], body).problem()["detail"]
        assert not any(word in detail for word in ("Input", "dictionary"))
    assert element.get("/api/v1/info").json()["mode"] == "edit"


def test_mode_edit_has_no_transitions(element: Element) -> None:
    for target in ("edit", "rw", "ro", "ar"):
        element.mode(target, confirm=True).problem(409, "conflict")
    wish = b'{"target_mode": "ro"}'
    element.ask("POST", "/api/v1/mode/transition", None, wish).problem(415, "unsupported-media-type")


def test_two_workers_on_a_store_in_memory_are_refused(tmp_path: Path) -> None:
    settings = {
        "BACKEND": "fsspec",
        "BACKEND__FSSPEC__URL": "memory://many",
        "BACKEND__FSSPEC__ALLOW_MISSING_GUARANTEES": "true",
    }
    run = servers.artstore(tmp_path, "serve", "--workers", "2", "--port", str(free_port()), settings=settings)
    assert (run.returncode, "one worker" in run.stderr, "Traceback" in run.stderr) == (78, True, False), run


def test_a_store_with_missing_guarantees_serves_and_lists_them(start: Callable[..., Element]) -> None:
    missing_guarantees = {"URL": "memory://store", "ALLOW_MISSING_GUARANTEES": "true"}
    settings = {"BACKEND": "fsspec"} | {
        f"BACKEND__FSSPEC__{name}": value for name, value in missing_guarantees.items()
    }
    element = start("starlette", settings=settings)
    made = element.upload(b"for a while")
    assert element.download(made["file_id"]).body == b"for a while"
    assert element.get("/api/v1/files").json()["items"] == [made]
    assert element.get("/api/v1/info").json()["missing_guarantees"] == [
        "what was written survives power loss"
    ]
    (backend,) = (
        p for p in element.get("/api/v1/plugins").json()["items"] if p["role"] == "backend" and p["chosen"]
    )
    assert (backend["name"], backend["allows_missing_guarantees"]) == ("fsspec", True)
    assert element.ask("DELETE", file_path(made["file_id"])).status == 204
    assert element.get(file_path(made["file_id"])).status == 404
