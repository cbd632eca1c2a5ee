"""The OpenAPI document lists each 4xx that occurs, and the values and bounds of each parameter."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from support.servers import FORM, JSON, Element, file, form, text, token

ABSENT = str(uuid.UUID(int=77))


@pytest.fixture
def document(element: Element) -> dict[str, Any]:
    found: dict[str, Any] = element.get("/openapi.json").json()
    return found


def parameters(document: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    return {p["name"]: p["schema"] for p in document["paths"][path]["get"]["parameters"]}


def test_each_4xx_that_occurs_is_listed(element: Element, document: dict[str, Any]) -> None:
    requests = []
    for template, methods in document["paths"].items():
        path = template.replace("{file_id}", ABSENT).replace("{job_id}", ABSENT).replace("{asset}", "no")
        odd = template.replace("{file_id}", "x").replace("{job_id}", "x").replace("{asset}", "%00")
        for method in methods:
            name = method.upper()
            body = b"{}" if name in ("POST", "PUT", "PATCH") else None
            for headers, options in (
                ([], {}),
                ([], {"bearer": None}),
                ([], {"bearer": token("nobody")}),
                ([JSON], {}),
                ([FORM], {}),
                ([("X-A", "a" * 17_000)], {}),
                ([("Host", "b")], {}),
                ([("If-Match", '"no"')], {}),
                ([("Range", "bytes=9-")], {}),
                ([("Content-Encoding", "gzip")], {}),
                ([("Upload-Complete", "?0")], {}),
                ([("Repr-Digest", "no")], {}),
            ):
                for target in (
                    path,
                    odd,
                    f"{path}?x=1",
                    f"{path}?%zz",
                    f"{path}?filename=..&limit=0",
                    path + "?" + "a" * 9000,
                ):
                    requests.append((template, method, name, target, headers, body, options))
            if body is not None:
                requests += [
                    (template, method, name, path, [JSON], b"x" * 70_000, {}),
                    (template, method, name, path, [FORM], form(file(b"x"), text("colour", "red")), {}),
                    (template, method, name, path, [FORM], form(file(b"x"), text("sha256", "0" * 64)), {}),
                    (template, method, name, f"{path}?filename=a", [], None, {}),
                ]
    for template, method, name, target, headers, body, options in requests:
        answer = element.ask(name, target, headers, body, **options)
        if 400 <= answer.status < 500:
            listed = document["paths"][template][method]["responses"]
            assert str(answer.status) in listed, (name, target[:80], headers, answer)
            if answer.body:
                code = answer.problem()["code"]
                assert f"(`{code}`)" in listed[str(answer.status)]["description"], (name, target[:80], code)


def test_parameters_have_values_and_bounds(document: dict[str, Any]) -> None:
    search = parameters(document, "/api/v1/files")
    assert (search["limit"]["minimum"], search["limit"]["maximum"], search["limit"]["default"]) == (
        1,
        1000,
        100,
    )
    assert {"uploaded_at", "-uploaded_at", "size", "-original_filename"} <= set(search["sort"]["enum"])
    assert search["min_size"]["minimum"] == 0
    assert search["sha256"]["pattern"]
    assert search["tag"]["maxItems"] == 20
    log = parameters(document, "/api/v1/transactions")
    assert log["status"]["enum"] == ["pending", "committed", "rolled_back", "failed"]
    download = parameters(document, "/api/v1/files/{file_id}/download")
    assert download["disposition"]["enum"] == ["attachment", "inline"]


def test_each_value_of_the_document_is_accepted(element: Element, document: dict[str, Any]) -> None:
    for path in ("/api/v1/files", "/api/v1/transactions"):
        for name, schema in parameters(document, path).items():
            bounds = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
            for value in [*schema.get("enum", ()), *bounds]:
                assert element.get(f"{path}?{name}={value}").status == 200, (name, value)
