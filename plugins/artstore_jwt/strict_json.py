"""Parses JSON strictly: what two parsers could read differently is refused."""

from __future__ import annotations

import json
from typing import Any


def strict_json(raw: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises `ValueError`, also for what parsers read differently: duplicate names, NaN."""
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - the text is wrong, not the call
    return value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("names something twice")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no JSON")
