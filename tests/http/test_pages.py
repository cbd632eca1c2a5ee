"""What people and Prometheus look at: /docs and /metrics."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.servers import Element

LINE = re.compile(r'[a-z_]+(?:\{[a-z]+="[^"\n]*"(?:,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+')


def test_the_page_loads_nothing_from_elsewhere(element: Element) -> None:
    page = element.get("/docs", bearer=None)
    assert page.status == 200
    assert page.header("content-type") == "text/html; charset=utf-8"
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert sorted(wanted) == ["data:,", "docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"]
    for asset in wanted[1:]:
        answer = element.get(f"/{asset}", bearer=None)
        assert answer.status == 200
        assert len(answer.body) == int(answer.header("content-length") or 0) > 50
        assert b"sourceMappingURL=swagger" not in answer.body
        for told in (page, answer):
            policy = told.header("content-security-policy") or ""
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert told.header("x-content-type-options") == "nosniff"
    assert "<script>" not in page.body.decode()
    assert b'url: "openapi.json"' in element.get("/docs/start.js", bearer=None).body


def test_nothing_but_the_assets_is_given_out(element: Element) -> None:
    for path in (
        "LICENSE",
        "page.html",
        "__init__.py",
        "..%2Fapp.py",
        "..",
        "%2e%2e%2fapp.py",
        "swagger-ui.css%00",
    ):
        element.get(f"/docs/{path}", bearer=None).problem(404, "not-found")
    element.ask("POST", "/docs").problem(405)


def test_metrics_are_prometheus_text(element: Element) -> None:
    element.upload(b"x" * 1000)
    answer = element.get("/metrics", bearer=None)
    assert answer.status == 200
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert [line for line in samples if not LINE.fullmatch(line)] == []
    assert len({line.rpartition(" ")[0] for line in samples}) == len(samples)
    for kind in ("counter", "gauge", "histogram"):
        assert any(line.startswith("# TYPE ") and line.endswith(kind) for line in lines)
    assert b"/tmp" not in answer.body
    assert re.search(r'^artstore_mode\{mode="edit"\} 1$', answer.body.decode(), flags=re.MULTILINE)


def _value(element: Element, name: str) -> float:
    for line in element.get("/metrics").body.decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_counters_are_of_all_workers_and_outlive_them(start: Callable[..., Element], adapter: str) -> None:
    element = start(adapter, workers=2)
    name = 'artstore_requests_total{method="GET",route="/api/v1/info",status="200"}'
    for _ in range(20):
        element.get("/api/v1/info")
    element.upload(b"x" * 1000)
    element.get("/no/such/path")
    assert _value(element, name) == 20
    assert _value(element, 'artstore_request_seconds_count{route="/api/v1/info"}') == 20
    assert _value(element, 'artstore_request_seconds_bucket{route="/api/v1/info",le="+Inf"}') == 20
    assert _value(element, 'artstore_requests_total{method="GET",route="-",status="404"}') == 1
    assert _value(element, "artstore_received_bytes_total") > 1000
    assert _value(element, "artstore_files") == 1
    assert _value(element, "artstore_stored_bytes") == 1000
    element.stop()
    again = start(adapter, home=element.home)
    assert _value(again, name) == 20
    again.get("/api/v1/info")
    assert _value(again, name) == 21
