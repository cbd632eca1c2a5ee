"""Files are found: every filter, order and page, and cursors that are misused."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from support.servers import Element, file, file_path, text, token

# Every file here carries this tag, so that others' files do not count.
TAG = "search-suite"
FILES = [
    ("alpha report.txt", 10, "text/plain", "first % of all", ["red"]),
    ("Beta_report.txt", 20, "text/plain", "second", ["red", "blue"]),
    ("gamma.bin", 30, "application/x-thing", "Третий файл", ["blue"]),
    ("δέλτα.png", 40, "image/png", "", []),
    ("alpha report.txt", 50, "text/plain", "again_", ["green tag"]),
]


@pytest.fixture(scope="module")
def made(element: Element) -> list[dict[str, Any]]:
    found = []
    for index, (name, size, kind, description, tags) in enumerate(FILES):
        bearer = token(sub=f"s-{index % 2}", name=f"searcher-{index % 2}")
        fields = [text("tags", t) for t in [TAG, *tags]]
        parts = [*fields, text("description", description), file(bytes([index]) * size, name, kind)]
        answer = element.post_form(parts, bearer=bearer)
        assert answer.status == 201, answer
        found.append(answer.json())
    return found


def find(element: Element, **parameters: Any) -> list[dict[str, Any]]:
    tags = [TAG, *parameters.pop("tags", [])]
    query = urlencode([("tag", t) for t in tags] + list(parameters.items()), quote_via=quote)
    answer = element.get(f"/api/v1/files?{query}")
    assert answer.status == 200, answer
    page = answer.json()
    assert list(page) == ["items", "next_cursor"]
    assert page["next_cursor"] is None
    items: list[dict[str, Any]] = page["items"]
    return items


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"q": "report"}, {0, 1, 4}),
        ({"q": "REPORT alpha"}, {0, 4}),
        ({"q": "третий"}, {2}),
        ({"q": "лт"}, set()),
        ({"q": "ΈΛΤ"}, {3}),
        ({"q": "%"}, {0}),
        ({"q": "_"}, {1, 4}),
        ({"q": "blu"}, {1, 2}),
        ({"q": '"'}, set()),
        ({"q": "a* OR"}, set()),
        ({"q": ""}, {0, 1, 2, 3, 4}),
        ({"filename": "alpha report.txt"}, {0, 4}),
        ({"filename": "ALPHA REPORT.TXT"}, set()),
        ({"filename": "%"}, set()),
        ({"uploaded_by": "searcher-1"}, {1, 3}),
        ({"content_type": "image/png"}, {3}),
        ({"tags": ["red"]}, {0, 1}),
        ({"tags": ["red", "blue"]}, {1}),
        ({"tags": ["green tag"]}, {4}),
        ({"tags": ["gree"]}, set()),
        ({"min_size": 20}, {1, 2, 3, 4}),
        ({"max_size": 20}, {0, 1}),
        ({"min_size": 20, "max_size": 30}, {1, 2}),
        ({"min_size": 9223372036854775807}, set()),
        ({"uploaded_after": "2020-01-01"}, {0, 1, 2, 3, 4}),
        ({"uploaded_before": "2020-01-01T00:00:00Z"}, set()),
        ({"q": "report", "tags": ["red"], "max_size": 10}, {0}),
    ],
)
def test_filters(
    element: Element, made: list[dict[str, Any]], parameters: dict[str, Any], expected: set[int]
) -> None:
    assert {f["file_id"] for f in find(element, **parameters)} == {made[i]["file_id"] for i in expected}


def test_by_digest_and_by_time(element: Element, made: list[dict[str, Any]]) -> None:
    assert find(element, sha256=made[2]["sha256"]) == [made[2]]
    assert find(element, sha256=made[2]["sha256"].upper()) == [made[2]]
    at = made[2]["uploaded_at"]
    later = [f for f in made if f["uploaded_at"] > at]
    assert {f["file_id"] for f in find(element, uploaded_after=at)} == {f["file_id"] for f in later}
    earlier = [f for f in made if f["uploaded_at"] < at]
    assert {f["file_id"] for f in find(element, uploaded_before=at)} == {f["file_id"] for f in earlier}
    same = at.replace("Z", "+00:00")
    assert len(find(element, uploaded_after=same)) == len(later)


def test_a_client_that_polls_by_time_sees_every_change(element: Element) -> None:
    old, new = (element.upload(b"x", f"polled-{n}.txt", description="polled") for n in range(2))
    while (changed := element.patch(old["file_id"], {"tags": ["p"]}).json())["updated_at"] <= new[
        "updated_at"
    ]:
        pass  # within one millisecond

    def found(**query: str) -> list[Any]:
        items: list[Any] = element.get(f"/api/v1/files?{urlencode({'q': 'polled'} | query)}").json()["items"]
        return items

    assert found(updated_after=new["updated_at"]) == [changed]
    assert found(updated_before=changed["updated_at"]) == [new]
    assert found(sort="-updated_at") == [changed, new]
    assert found(sort="updated_at") == [new, changed]


@pytest.mark.parametrize("column", ["uploaded_at", "updated_at", "original_filename", "size"])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_order_and_pages(
    element: Element, made: list[dict[str, Any]], column: str, sign: str, limit: int
) -> None:
    expected = sorted(made, key=lambda f: (f[column], f["file_id"]), reverse=bool(sign))
    assert find(element, sort=sign + column) == expected
    assert list(walk(element, f"/api/v1/files?tag={TAG}&sort={sign}{column}&limit={limit}")) == expected


def walk(element: Element, target: str | None) -> Iterator[dict[str, Any]]:
    """Every item, page after page by `Link`."""
    while target is not None:
        answer = element.get(target)
        assert answer.status == 200, answer
        link = answer.header("link")
        match = re.fullmatch(r'<(/api/v1/files\?[!-~]*)>; rel="next"', link) if link else None
        assert (match is None) == (answer.json()["next_cursor"] is None)
        yield from answer.json()["items"]
        target = match[1] if match else None


def test_the_default_is_the_youngest_first(element: Element, made: list[dict[str, Any]]) -> None:
    assert find(element) == find(element, sort="-uploaded_at")


def test_a_page_may_change_its_size_and_a_link_keeps_every_letter(
    element: Element, made: list[dict[str, Any]]
) -> None:
    q = quote("% & é +", safe="")
    for i in range(3):
        element.upload(b"x", f"link{i}", description="% & é +")
    first = element.get(f"/api/v1/files?q={q}&limit=1&sort=original_filename")
    rest = list(
        walk(element, (first.header("link") or "").partition(">")[0][1:].replace("limit=1&", "limit=2&"))
    )
    assert [f["original_filename"] for f in first.json()["items"] + rest] == ["link0", "link1", "link2"]


def test_a_deleted_file_is_found_no_more(element: Element) -> None:
    made = element.upload(b"x", "going away")
    assert find_by_name(element, "going away") == [made["file_id"]]
    assert element.ask("DELETE", f"/api/v1/files/{made['file_id']}").status == 204
    assert find_by_name(element, "going away") == []


def find_by_name(element: Element, name: str) -> list[str]:
    return [f["file_id"] for f in element.get(f"/api/v1/files?filename={quote(name)}").json()["items"]]


def cursor(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "bad",
    [
        "", "x", "%20", "a" * 5000, "é", "AAAA====", "bnVsbA", "e30", "W10", "WzFd",
        cursor("2025", "id", "wrong"), cursor(1, "id", "wrong"), cursor(None, "id", "wrong"),
        cursor([], {}, "wrong"), cursor(2**70, "id", "x"), cursor("\ud800", "\ud800", "x"), cursor(*range(100)),
        base64.urlsafe_b64encode(b"[" * 3000).decode(), base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
    ids=range(19),
)  # fmt: skip
def test_cursors_that_are_none(element: Element, bad: str) -> None:
    element.get(f"/api/v1/files?cursor={quote(bad)}").problem(400, "invalid-cursor")


def test_a_cursor_belongs_to_its_search(element: Element, made: list[dict[str, Any]]) -> None:
    page = element.get(f"/api/v1/files?tag={TAG}&limit=1&sort=size").json()
    mine = page["next_cursor"]
    for other in (
        f"tag={TAG}&limit=1&sort=-size&cursor={mine}",
        f"tag={TAG}&sort=original_filename&cursor={mine}",
        f"limit=1&sort=size&cursor={mine}",
        f"tag={TAG}&limit=1&sort=size&q=x&cursor={mine}",
        f"tag={TAG}&sort=size&cursor={mine[:-1]}",
        f"tag={TAG}&sort=size&cursor={mine}x",
    ):
        element.get(f"/api/v1/files?{other}").problem(400, "invalid-cursor")
    forged = json.loads(base64.urlsafe_b64decode(mine + "=" * (-len(mine) % 4)))
    for value in (2**63, -(2**64), 1.5, True, None, "x", [1]):
        again = cursor(value, *forged[1:])
        element.get(f"/api/v1/files?tag={TAG}&sort=size&cursor={again}").problem(400, "invalid-cursor")
    for file_id in ("\x00", "\ud800", "'; drop table files; --", "x" * 1000, None, 7, {}):
        again = cursor(forged[0], file_id, forged[2])
        element.get(f"/api/v1/files?tag={TAG}&sort=size&cursor={again}").problem(400, "invalid-cursor")
    name = f"/api/v1/files?tag={TAG}&sort=original_filename"
    mine = element.get(f"{name}&limit=1").json()["next_cursor"]
    forged = json.loads(base64.urlsafe_b64decode(mine + "=" * (-len(mine) % 4)))
    for value in ("\x00", "a\x00b", "\ud800", "", 7, None):
        element.get(f"{name}&cursor={cursor(value, *forged[1:])}").problem(400, "invalid-cursor")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 422, "invalid-field"),
        ("limit=1001", 422, "invalid-field"),
        ("limit=-1", 422, "invalid-field"),
        ("limit=abc", 422, "invalid-field"),
        ("limit=1e3", 422, "invalid-field"),
        ("limit=", 422, "invalid-field"),
        ("limit=%D9%A1", 422, "invalid-field"),
        ("limit=" + "9" * 5000, 422, "invalid-field"),
        ("limit=1&limit=2", 422, "invalid-field"),
        ("sort=", 422, "invalid-field"),
        ("sort=name", 422, "invalid-field"),
        ("sort=--size", 422, "invalid-field"),
        ("sort=size,uploaded_at", 422, "invalid-field"),
        ("min_size=x", 422, "invalid-field"),
        ("max_size=9223372036854775808", 422, "invalid-field"),
        ("sha256=abc", 422, "invalid-field"),
        ("uploaded_after=yesterday", 422, "invalid-field"),
        ("uploaded_after=2025-13-01", 422, "invalid-field"),
        ("uploaded_after=2025-01-01T00:00:00", 422, "invalid-field"),
        ("uploaded_before=2025-02-30T00:00:00Z", 422, "invalid-field"),
        ("uploaded_before=0001-01-01T00:00:00%2B14:00", 422, "invalid-field"),
        ("uploaded_before=9999-12-31T23:59:59-14:00", 422, "invalid-field"),
        ("uploaded_before=", 422, "invalid-field"),
        ("tag=" + "&tag=".join("t" * 21), 422, "invalid-field"),
        ("q=" + "+".join("abcdefghijklmnopqrstuvwxyz"), 422, "invalid-field"),
        ("offset=1", 400, "unknown-parameter"),
        ("Limit=1", 400, "unknown-parameter"),
        ("q=x&x", 400, None),
        ("=", 400, None),
        ("&&&", 400, None),
        ("q=%ff", 400, "malformed-request"),
        ("q=%ed%a0%80", 400, "malformed-request"),
        ("q=%zz", 400, "malformed-request"),
        ("q=%", 400, "malformed-request"),
        ("&".join(f"tag={i}" for i in range(200)), 400, "malformed-request"),
    ],
)
def test_queries_that_are_refused(element: Element, query: str, status: int, code: str | None) -> None:
    element.get(f"/api/v1/files?{query}").problem(status, code)


@pytest.mark.parametrize(
    "q",
    [
        "%00",
        "a%00b",
        "%EF%BF%BF",
        "'%20OR%201=1--",
        "%22%22%22",
        "NEAR(a%20b)",
        "-a%3Ab%5E*",
        "%F0%90%8D%88%F0%90%8D%88",
    ],
)
def test_words_that_mean_something_to_somebody(element: Element, q: str) -> None:
    answer = element.get(f"/api/v1/files?q={q}")
    assert (answer.status == 200 and answer.json()["items"] == []) or answer.problem(422, "invalid-field")


def test_the_heads_of_answers_fit_into_the_default_buffers_of_proxies(element: Element) -> None:
    """nginx takes a head of 4 KiB: with the longest names, and with a search as long as may be."""
    tag = f"heads-{uuid.uuid4()}"
    made = [element.upload(b"x", "😀" * 254 + letter, tags=tag) for letter in "ab"]
    word = quote("😀" * 254)
    targets = [f"{file_path(made[0]['file_id'])}/download"]
    targets += [
        f"/api/v1/files?tag={tag}&limit=1&sort={sort}" for sort in ("original_filename", "-uploaded_at")
    ]
    targets += [f"/api/v1/files?tag={tag}&limit=1&q={word}&sort=original_filename"]
    for target in targets:
        answer = element.get(target)
        assert answer.status == 200
        assert sum(len(n) + len(v) + 4 for n, v in answer.headers) + len("HTTP/1.1 200 OK\r\n\r\n") <= 4096, (
            target
        )
        if "limit" in target:
            more = element.get(f"{target}&cursor={answer.json()['next_cursor']}").json()
            assert len(more["items"]) == 1
