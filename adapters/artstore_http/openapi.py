"""The contract as OpenAPI 3.1, made from the table of routes and the models, so that it cannot disagree with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import artstore
from artstore.spi import Sort, Status
from artstore_http import models
from artstore_http.problems import PROBLEMS
from artstore_http.routes import Route
from artstore_http.searches import MAX_WORDS

_REF = "#/components/schemas/{model}"
_BYTES = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_OPERATION_IDS = {"show": "look"}
"""Operation ids are public: clients are generated from them."""
_TIME = {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
_BYTE_COUNT = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "cursor": {"type": "string", "minLength": 1},
    "disposition": {"type": "string", "enum": ["attachment", "inline"], "default": "attachment"},
    "filename": {"type": "string", "minLength": 1},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "max_size": _BYTE_COUNT,
    "min_size": _BYTE_COUNT,
    "sha256": {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"},
    "sort": {
        "type": "string",
        "enum": [direction + column for column in get_args(Sort) for direction in ("", "-")],
        "default": "-uploaded_at",
    },
    "status": {"type": "string", "enum": list(get_args(Status))},
    "tag": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_WORDS},
    "updated_after": _TIME,
    "updated_before": _TIME,
    "uploaded_after": _TIME,
    "uploaded_before": _TIME,
}
"""The schemas of query parameters that are more than a text."""

_OF_EVERY_REQUEST = ("malformed-request", "unknown-parameter", "uri-too-long", "header-fields-too-large")
_OF_A_TOKEN = ("unauthorized", "forbidden", "unavailable")
_OF_A_BODY = ("timeout", "file-too-large", "unsupported-media-type")
_OF_AN_ID = ("invalid-field",)

_ALSO = {
    200: "The same file was there already.",
    206: "The ranges asked for.",
    304: "Not modified.",
    307: "The store itself answers, at `Location`, for a short time.",
    503: "Not ready.",
}


def document(routes: Sequence[Route], *, root_path: str = "") -> dict[str, Any]:
    """Return the whole document, of an element below `root_path`."""
    taken = {models.FilePatch, models.ReconcileRequest, models.TransitionRequest, models.UploadForm}
    given = {r.gives for r in routes if isinstance(r.gives, type)} | {models.Problem}
    modes: list[tuple[Any, Any]] = [
        (c, "validation" if c in taken else "serialization")
        for c in sorted(taken | given, key=lambda c: c.__name__)
    ]
    names, definitions = models_json_schema(modes, ref_template=_REF)
    refs = {c: names[(c, mode)] for c, mode in modes}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "operationId": f"{_OPERATION_IDS.get(name := route.operation.__name__, name)}"
            + ("_alias" if route.path.endswith("/upload") else ""),
            "summary": route.summary,
            "tags": ["element" if not route.path.startswith("/api/v1/files") else "files"],
            "parameters": _parameters(route),
            "responses": _responses(route, refs),
            "security": [{"bearer": []}] if route.scope else [],
        }
        if route.scope:
            operation["description"] = f"Needs the scope `{route.scope}`."
        if route.takes:
            operation["requestBody"] = {"required": True, "content": _content(route.takes, refs)}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "artstore",
            "version": artstore.__version__,
            "summary": "A storage element: files over HTTP.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in re.findall(r"\{(\w+)\}", route.path):
        schema: dict[str, Any] = (
            {"type": "string"} if name == "asset" else {"type": "string", "format": "uuid"}
        )
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, text in route.parameters.items():
        found.append(
            {
                "name": name,
                "in": "query",
                "required": name == "filename" and route.takes == "bytes",
                "description": text,
                "schema": _SCHEMAS.get(name, {"type": "string"}),
            }
        )
    return found


def _content(takes: str, refs: dict[type[BaseModel], Any]) -> dict[str, Any]:
    if takes == "bytes":
        return {"*/*": _BYTES}
    if takes == "upload":
        return {"multipart/form-data": {"schema": refs[models.UploadForm]}, "*/*": _BYTES}
    if takes == "patch":
        return {"application/merge-patch+json": {"schema": refs[models.FilePatch]}}
    model = models.ReconcileRequest if takes == "reconcile" else models.TransitionRequest
    return {"application/json": {"schema": refs[model]}}


def _responses(route: Route, refs: dict[type[BaseModel], Any]) -> dict[str, Any]:
    if isinstance(route.gives, type):
        content: dict[str, Any] = {"application/json": {"schema": refs[route.gives]}}
    else:
        other: dict[str, dict[str, Any]] = {
            "bytes": {"*/*": _BYTES},
            "openapi": {"application/json": {}},
            "nothing": {},
            "page": {"text/html": {}},
            "text": {"text/*": {}},
        }
        content = other[route.gives]
    answer: dict[str, Any] = {"description": "Done."}
    if content:
        answer["content"] = content
    found = {str(route.success): answer}
    for status in route.also:
        body = {} if status in (304, 307) else answer
        found[str(status)] = {**body, "description": _ALSO[status]}
    for code in sorted(_codes(route), key=lambda c: (PROBLEMS[c][0], c)):
        status, title = PROBLEMS[code]
        problem = found.setdefault(
            str(status),
            {"description": "", "content": {"application/problem+json": {"schema": refs[models.Problem]}}},
        )
        problem["description"] = "; ".join(x for x in (problem["description"], f"{title} (`{code}`)") if x)
    return found


def _codes(route: Route) -> set[str]:
    """Return the codes of all problems with which an operation may answer."""
    codes = {*route.codes, *_OF_EVERY_REQUEST}
    if route.scope:
        codes.update(_OF_A_TOKEN)
    if route.takes:
        codes.update(_OF_A_BODY)
    if "{file_id}" in route.path:
        codes.update(_OF_AN_ID)
    return codes
