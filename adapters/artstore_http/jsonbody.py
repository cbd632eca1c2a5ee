"""Parses JSON of unknown origin (RFC 8259), so that every reader would read the same (RFC 7493, I-JSON)."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, JsonValue, ValidationError

from artstore.attr import MAX_DEPTH, plain_message
from artstore.errors import InvalidField, MalformedRequest

M = TypeVar("M", bound=BaseModel)

_MAX_INTEGER = 2**63 - 1
# An unterminated string extends to the end of the body: otherwise each escaped quote in it would start another scan of
# the rest.
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def parse_json(body: bytes, *, what: str) -> JsonValue:
    """Return the JSON value of `body`. `what` is the subject of the refusal ("The body", "The field tags").

    Refuses what is not UTF-8, a BOM, duplicate keys, NaN and infinities, integers past 64 bits, more than
    20 levels and escaped halves of surrogate pairs. Raises only `MalformedRequest`.
    """
    if not body.strip():
        raise MalformedRequest(f"{what} is empty; it must be JSON.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as e:
        raise MalformedRequest(f"{what} is not UTF-8 (byte {e.start}).") from None
    # The parser recurses once per level, so the depth is limited before it runs.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise MalformedRequest(f"{what} is nested deeper than {MAX_DEPTH} levels.")

    def refuse(detail: str) -> NoReturn:
        raise MalformedRequest(f"{what} {detail}.")

    def to_int(digits: str) -> int:
        number = int(digits) if len(digits) <= 20 else None
        if number is None or abs(number) > _MAX_INTEGER:
            refuse("holds an integer of more than 64 bits")
        return number

    def to_float(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            refuse("holds a number too large for a double")
        return number

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in members if keys.count(key) > 1)
            refuse(f"holds the key {json.dumps(twice[:50])} twice")
        return members

    try:
        value = json.loads(
            text,
            parse_int=to_int,
            parse_float=to_float,
            parse_constant=lambda name: refuse(f"holds {name}, which is not JSON"),
            object_pairs_hook=to_dict,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        raise MalformedRequest(f"{what} is not JSON: {e}.") from None
    except UnicodeEncodeError:
        refuse("holds half of a surrogate pair, which is no character")
    return cast(JsonValue, value)


def parse_model(model: type[M], body: bytes) -> M:
    """Return a JSON body as an instance of `model`. Raises `MalformedRequest`, `InvalidField`."""
    try:
        return model.model_validate(parse_json(body, what="The body"))
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "body"
        raise InvalidField(name, f"{name}: {plain_message(first)}.") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in "]}":
            depth -= 1
    return deepest
