"""What is known of a file is looked at, changed and deleted."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from support.servers import Element, file_path

MERGE = ("Content-Type", "application/merge-patch+json")
ABSENT = str(uuid.UUID(int=7))


@pytest.fixture
def made(element: Element) -> dict[str, Any]:
    return element.upload(
        b"abc", description="d", tags='["a", "b"]', metadata='{"x": {"y": 1, "z": 2}, "w": 3}'
    )


def test_look(element: Element, made: dict[str, Any]) -> None:
    answer = element.get(file_path(made["file_id"]))
    assert answer.status == 200
    assert answer.json() == made
    assert answer.header("etag") == '"r1"'
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "private, no-cache"
    assert element.get(file_path(made["file_id"].upper())).json() == made
    fresh = element.get(file_path(made["file_id"]), ("If-None-Match", '"r1"'))
    assert (fresh.status, fresh.body, fresh.header("etag")) == (304, b"", '"r1"')
    assert element.get(file_path(made["file_id"]), ("If-None-Match", '"r2"')).status == 200
    element.get(file_path(made["file_id"]), ("If-Match", '"r2"')).problem(412, "precondition-failed")


def test_merge_patch(element: Element, made: dict[str, Any]) -> None:
    patch = {
        "description": "new",
        "tags": ["c"],
        "metadata": {"x": {"y": None, "q": [None]}, "w": None, "v": "é"},
    }
    answer = element.patch(made["file_id"], patch)
    changed = answer.json()
    assert answer.status == 200
    assert answer.header("etag") == '"r2"'
    assert changed["updated_at"] >= made["updated_at"]
    assert changed == made | {
        "description": "new",
        "tags": ["c"],
        "metadata": {"x": {"z": 2, "q": [None]}, "v": "é"},
        "revision": 2,
        "updated_at": changed["updated_at"],
    }
    assert element.get(file_path(made["file_id"])).json() == changed
    emptied = element.patch(made["file_id"], {"description": None, "tags": None, "metadata": None}).json()
    assert (emptied["description"], emptied["tags"], emptied["metadata"]) == ("", [], {})
    assert emptied["revision"] == 3
    assert element.download(made["file_id"]).body == b"abc"


def test_a_patch_that_changes_nothing(element: Element, made: dict[str, Any]) -> None:
    assert element.patch(made["file_id"], {}).json() == made
    assert element.patch(made["file_id"], {"description": "d"}).json() == made


def test_a_plain_json_patch(element: Element, made: dict[str, Any]) -> None:
    headers = [("Content-Type", "application/json; charset=utf-8")]
    answer = element.ask("PATCH", file_path(made["file_id"]), headers, b'{"description": "x"}')
    assert answer.json()["description"] == "x"


def test_if_match(element: Element, made: dict[str, Any]) -> None:
    assert element.patch(made["file_id"], {"description": "1"}, [("If-Match", '"r1"')]).status == 200
    lost = element.patch(made["file_id"], {"description": "2"}, [("If-Match", '"r1"')])
    lost.problem(412, "precondition-failed")
    for wrong in ('W/"r2"', "r2", '"r2', '"r20"', ""):
        element.patch(made["file_id"], {"description": "2"}, [("If-Match", wrong)]).problem(412)
    assert element.patch(made["file_id"], {"description": "3"}, [("If-Match", '"r9", "r2"')]).status == 200
    assert element.patch(made["file_id"], {"description": "4"}, [("If-Match", "*")]).status == 200
    element.ask("DELETE", file_path(made["file_id"]), [("If-Match", '"r1"')]).problem(
        412, "precondition-failed"
    )
    assert element.get(file_path(made["file_id"])).json()["revision"] == 4
    assert element.ask("DELETE", file_path(made["file_id"]), [("If-Match", '"r4"')]).status == 204


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b" ", 400, None),
        (b"{", 400, None),
        (b"{}x", 400, None),
        (b"[]", 400, None),
        (b"null", 400, None),
        (b'"description"', 400, None),
        (b"\xff\xfe{}", 400, None),
        (b"\xef\xbb\xbf{}", 400, None),
        (b'{"description": "\xff"}', 400, None),
        (b'{"description": "\\ud800"}', 400, None),
        (b'{"\\udc00": 1}', 400, None),
        (b'{"description": "a", "description": "b"}', 400, None),
        (b'{"metadata": {"a": 1, "a": 2}}', 400, None),
        (b'{"metadata": {"a": NaN}}', 400, None),
        (b'{"metadata": {"a": Infinity}}', 400, None),
        (b'{"metadata": {"a": 1e999}}', 400, None),
        (b'{"metadata": {"a": 9223372036854775808}}', 400, None),
        (b'{"metadata": {"a": ' + b"9" * 5000 + b"}}", 400, None),
        (b'{"metadata": ' + b'{"a":' * 30 + b"1" + b"}" * 30 + b"}", 400, None),
        (b"[" * 60000, 400, None),
        (b'{"a":' * 12000, 400, None),
        (b"{'description': 'a'}", 400, None),
        (b'{"file_id": "x"}', 422, "file_id"),
        (b'{"size": 5}', 422, "size"),
        (b'{"revision": 7}', 422, "revision"),
        (b'{"original_filename": "x"}', 422, "original_filename"),
        (b'{"nothing": null}', 422, "nothing"),
        (b'{"Description": "x"}', 422, "Description"),
        (b'{"": "x"}', 422, ""),
        (b'{"description": 5}', 422, "description"),
        (b'{"description": ["a"]}', 422, "description"),
        (b'{"tags": "a"}', 422, "tags"),
        (b'{"tags": {"a": 1}}', 422, "tags"),
        (b'{"tags": [1]}', 422, "tags"),
        (b'{"tags": [""]}', 422, "tags"),
        (b'{"tags": ["a\\u0000"]}', 422, "tags"),
        (b'{"tags": ["a\\nb"]}', 422, "tags"),
        (b'{"tags": ["' + b"t" * 101 + b'"]}', 422, "tags"),
        (b'{"tags": [null]}', 422, "tags"),
        (b'{"metadata": 5}', 422, "metadata"),
        (b'{"metadata": "a"}', 422, "metadata"),
        (b'{"metadata": []}', 422, "metadata"),
        (b'{"metadata": {"a": "' + b"m" * 4096 + b'"}}', 422, "metadata"),
        (b'{"description": "' + "я".encode() * 2000 + b'"}', 422, "metadata"),
    ],
    ids=range(45),
)
def test_patches_that_are_refused(
    element: Element, shared: dict[str, Any], body: bytes, status: int, field: str | None
) -> None:
    before = element.get(file_path(shared["file_id"])).body
    with element.unchanged():
        problem = element.ask("PATCH", file_path(shared["file_id"]), [MERGE], body).problem(status)
    assert problem.get("field") == field
    assert not any(word in problem["detail"] for word in ("Input", "tuple", "dictionary"))
    assert element.get(file_path(shared["file_id"])).body == before


@pytest.fixture(scope="module")
def shared(element: Element) -> dict[str, Any]:
    return element.upload(b"abc", description="d", metadata='{"a": 0}')


def test_a_patch_of_another_kind_or_size(element: Element, shared: dict[str, Any]) -> None:
    path = file_path(shared["file_id"])
    for kind in ("text/plain", "application/json-patch+json", "", "multipart/form-data; boundary=x"):
        element.ask("PATCH", path, [("Content-Type", kind)], b"{}").problem(415, "unsupported-media-type")
    element.ask("PATCH", path, None, b"{}").problem(415, "unsupported-media-type")
    gzip = [MERGE, ("Content-Encoding", "gzip")]
    element.ask("PATCH", path, gzip, b"{}").problem(415, "unsupported-media-type")
    large = json.dumps({"description": "x" * 65536}).encode()
    element.ask("PATCH", path, [MERGE], large).problem(413, "file-too-large")
    head = element.head("PATCH", path, [MERGE, ("Content-Length", str(1 << 30))])
    element.raw(head, "PATCH").problem(413, "file-too-large")


def test_a_metadata_of_twenty_levels(element: Element, made: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(18):
        deep = {"a": deep}
    assert element.patch(made["file_id"], {"metadata": deep}).status == 200


def test_delete(element: Element, made: dict[str, Any]) -> None:
    path = file_path(made["file_id"])
    answer = element.ask("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("content-type") is None
    for method, target in (("GET", path), ("GET", path + "/download"), ("DELETE", path), ("HEAD", path)):
        gone = element.ask(method, target)
        assert gone.status == 404
    element.patch(made["file_id"], {"description": "x"}).problem(404, "not-found")
    assert not [name for name in element.tree() if made["storage_filename"] in name]
    element.wait_idle()


def test_a_file_that_never_was_and_one_that_went_away_are_the_same_bytes(
    element: Element, made: dict[str, Any]
) -> None:
    element.ask("DELETE", file_path(made["file_id"]))
    request_id = ("X-Request-ID", "same")
    never, gone = (
        element.get(file_path(ABSENT), request_id),
        element.get(file_path(made["file_id"]), request_id),
    )
    assert gone.body.replace(made["file_id"].encode(), ABSENT.encode()) == never.body
    assert gone.status == never.status == 404


@pytest.mark.parametrize(
    "bad",
    [
        "x", "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2e%2e%2finfo", "%00", "1" * 5000, "null", "%20",
        "{file_id}", "%7Bfile_id%7D", "0194567e8c3a7d21b5f01c9ea1b2c3d4", "%ff", "é",
        "{0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4}", "urn:uuid:0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4",
        "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4%00", "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4%0a",
        "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d%F0%9D%9F%92", "０194567e-8c3a-7d21-b5f0-1c9ea1b2c3d",
    ],
    ids=range(20),
)  # fmt: skip
def test_ids_that_are_none(element: Element, bad: str) -> None:
    path = file_path(bad)
    with element.unchanged():
        for answer in (
            element.get(path),
            element.get(path + "/download"),
            element.ask("DELETE", path),
            element.ask("PATCH", path, [MERGE], b"{}"),
            element.ask("PUT", path + "?filename=a", None, b"abc"),
        ):
            answer.problem()
            assert answer.status in (404, 405, 422)
