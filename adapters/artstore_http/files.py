"""Operations on the attributes of a file: show, change, delete."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from artstore.attr import Attr
from artstore.errors import InvalidField, MalformedRequest, PreconditionFailed, TooLarge
from artstore.modes import Operation
from artstore_http.call import Call, json_response
from artstore_http.conditions import Outcome, evaluate
from artstore_http.jsonbody import parse_json
from artstore_http.message import Collected, Headers, Receiver, Request, Response
from artstore_http.models import EDITABLE, file_json
from artstore_http.problems import UnsupportedMediaType

_PATCH_TYPES = ("application/merge-patch+json", "application/json")


def show(call: Call) -> Response:
    """GET /api/v1/files/{file_id}"""
    attr = call.kernel.attr(call.file_id)
    if check_preconditions(call.request, attr) is Outcome.NOT_MODIFIED:
        return Response(304, [("Cache-Control", "private, no-cache"), *_validators(attr)])
    return Response(
        200,
        [("Content-Type", "application/json"), ("Cache-Control", "private, no-cache"), *_validators(attr)],
        file_json(attr),
    )


def change(call: Call) -> Receiver:
    """PATCH /api/v1/files/{file_id}"""
    file_id = call.file_id
    call.kernel.parts.element.require(Operation.UPDATE)

    def then(body: bytes) -> Response:
        patch = parse_json(body, what="The merge-patch")
        if not isinstance(patch, dict):
            raise MalformedRequest("A merge-patch for a file is a JSON object.")
        for name in patch:
            if name not in EDITABLE:
                known = ", ".join(EDITABLE)
                raise InvalidField(name, f"'{name}' cannot be changed; what can: {known}.")

        def changes(attr: Attr) -> Mapping[str, Any]:
            check_preconditions(call.request, attr)
            return merge(attr, patch)

        attr = call.kernel.update(call.by, file_id, changes)
        return json_response(file_json(attr), headers=_validators(attr))

    return json_body(call, _PATCH_TYPES, then)


def delete(call: Call) -> Response:
    """DELETE /api/v1/files/{file_id}"""

    def condition(attr: Attr) -> None:
        check_preconditions(call.request, attr)

    call.kernel.delete(call.by, call.file_id, condition)
    return Response(204)


def merge(attr: Attr, patch: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the fields of `attr` that a merge-patch (RFC 7396) changes. Null empties a field."""
    changes: dict[str, Any] = {}
    for name, value in patch.items():
        if value is None:
            changes[name] = EDITABLE[name].empty
        else:
            changes[name] = _merge(getattr(attr, name), value) if isinstance(value, dict) else value
    return changes


def _merge(target: JsonValue, patch: JsonValue) -> JsonValue:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


def json_body(call: Call, types: tuple[str, ...], then: Any) -> Receiver:
    """Return a receiver of a JSON body that has one of the `types`. Raises `UnsupportedMediaType`, `TooLarge`."""
    request = call.request
    if request.media_type not in types:
        raise UnsupportedMediaType(f"Content-Type must be {' or '.join(types)}.")
    if request.encoded:
        raise UnsupportedMediaType("Content-Encoding is not accepted.")
    limit = int(call.node.settings.limits.max_json_body)
    too_large = TooLarge(f"A JSON body has at most {limit} bytes here.")
    if request.length is not None and request.length > limit:
        raise too_large
    return Collected(limit, too_large, then)


def _validators(attr: Attr) -> Headers:
    return [("ETag", f'"r{attr.revision}"')]


def check_preconditions(request: Request, attr: Attr | None) -> Outcome:
    """Evaluate the conditions of a request for the attributes of a file; None: it does not exist.

    Raises `PreconditionFailed`.
    """
    found = evaluate(
        request.method,
        etag=None if attr is None else f'"r{attr.revision}"',
        last_modified=None if attr is None else datetime.fromisoformat(attr.updated_at),
        if_match=request.header("if-match"),
        if_unmodified_since=request.header("if-unmodified-since"),
        if_none_match=request.header("if-none-match"),
        if_modified_since=None,  # a second is too coarse for revisions
    )
    if found is Outcome.FAILED:
        raise PreconditionFailed(
            "There is no such file." if attr is None else f"The file is at revision {attr.revision} now."
        )
    return found
