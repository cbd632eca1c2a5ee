"""Web pages of other origins call the API (CORS)."""

from __future__ import annotations

from collections.abc import Callable

from support.servers import Element

OURS, OTHER = "https://app.example.org", "https://evil.example.org"
PREFLIGHT = [
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type"),
]


def test_no_page_of_another_origin_may_call_by_default(adapter: str, start: Callable[..., Element]) -> None:
    element = start(adapter)
    answer = element.ask("OPTIONS", "/api/v1/files", [("Origin", OURS), *PREFLIGHT], bearer=None)
    answer.problem(405)
    assert answer.header("access-control-allow-origin") is None
    assert element.get("/api/v1/files", ("Origin", OURS)).header("vary") is None


def test_a_page_of_a_configured_origin_may_call(adapter: str, start: Callable[..., Element]) -> None:
    element = start(adapter, settings={"SERVER__CORS_ORIGINS": f"{OURS}, http://localhost:3000"})
    for origin in (OURS, "http://localhost:3000"):
        answer = element.ask("OPTIONS", "/api/v1/files", [("Origin", origin), *PREFLIGHT], bearer=None)
        assert answer.status == 204
        assert answer.header("access-control-allow-origin") == origin
        assert "POST" in (answer.header("access-control-allow-methods") or "")
        assert "Authorization" in (answer.header("access-control-allow-headers") or "")
        made = element.post(b"abc", headers=[("Origin", origin)])
        refused = element.get("/api/v1/files", ("Origin", origin), bearer=None)
        assert (made.status, refused.status) == (201, 401)
        for read in (made, refused):
            assert read.header("access-control-allow-origin") == origin
            assert read.header("vary") == "Origin"
            assert "Location" in (read.header("access-control-expose-headers") or "")
    element.ask("OPTIONS", "/nothing", [("Origin", OURS), *PREFLIGHT], bearer=None).problem(404)
    element.ask("OPTIONS", "/api/v1/files", [("Origin", OURS)], bearer=None).problem(405)
    for origin in (OTHER, "null", OURS + ":443", OURS + ".evil.org", f"{OURS}, {OURS}"):
        answer = element.ask("OPTIONS", "/api/v1/files", [("Origin", origin), *PREFLIGHT], bearer=None)
        answer.problem(405)
        for read in (answer, element.get("/api/v1/files", ("Origin", origin))):
            assert read.header("access-control-allow-origin") is None
            assert read.header("vary") == "Origin"
