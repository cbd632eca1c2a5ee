"""Operations on the element itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

from pydantic import BaseModel

import artstore
from artstore.errors import ArtstoreError, InvalidField
from artstore.modes import ALLOWED, Operation
from artstore.spi import STATUSES, Status
from artstore_http.call import Call, json_response
from artstore_http.files import json_body
from artstore_http.jsonbody import parse_model
from artstore_http.message import Receiver, Response
from artstore_http.models import (
    Alive,
    Capacity,
    Info,
    PluginJson,
    PluginPage,
    Ready,
    Root,
    TransactionJson,
    TransactionPage,
    Transition,
    TransitionRequest,
)
from artstore_http.openapi import document

_WARNING, _CRITICAL = 0.80, 0.95


def root(call: Call) -> Response:
    """GET /"""
    return _model(
        Root(
            name="artstore",
            version=artstore.__version__,
            element_id=call.kernel.element.record().element_id,
            api="/api/v1",
            openapi="/openapi.json",
            health="/health/ready",
        )
    )


def info(call: Call) -> Response:
    """GET /api/v1/info"""
    record = call.kernel.element.record()
    return _model(
        Info(
            element_id=record.element_id,
            display_name=call.node.settings.display_name or record.element_id,
            version=artstore.__version__,
            mode=record.mode,
            allowed_operations=[o.value for o in Operation if o in ALLOWED[record.mode]],
            adapter=call.adapter,
            weaker=list(call.kernel.backend.capabilities.missing_guarantees()),
        )
    )


def capacity(call: Call) -> Response:
    """GET /api/v1/capacity"""
    limits, totals, space = call.kernel.limits, call.kernel.index.totals(), call.kernel.backend.free_bytes()
    rooms = []
    if limits.capacity is not None:
        rooms.append((int(limits.capacity), max(0, int(limits.capacity) - totals.size)))
    if space is not None:
        free = max(0, space - int(limits.min_free))
        rooms.append((totals.size + free, free))
    # What will run out first is what counts.
    total, free_bytes = min(rooms, key=lambda room: room[1]) if rooms else (None, None)
    used = totals.size / total if total else 0.0
    full = free_bytes == 0
    status = "full" if full else "critical" if used >= _CRITICAL else "warning" if used >= _WARNING else "ok"
    return _model(
        Capacity(total=total, used=totals.size, free=free_bytes, file_count=totals.files, status=status)
    )


def plugins(call: Call) -> Response:
    """GET /api/v1/plugins"""
    return _model(PluginPage(items=[PluginJson(**row) for row in call.node.plugin_rows()]))


def transition(call: Call) -> Receiver:
    """POST /api/v1/mode/transition"""

    def then(body: bytes) -> Response:
        wish = parse_model(TransitionRequest, body)
        before = call.kernel.element.record().mode
        record = call.kernel.transition(call.by, wish.target_mode, confirm=wish.confirm, reason=wish.reason)
        return _model(
            Transition(
                previous_mode=before,
                mode=record.mode,
                changed_at=record.changed_at,
                changed_by=record.changed_by,
                reason=record.reason,
            )
        )

    return json_body(call, ("application/json",), then)


def transactions(call: Call) -> Response:
    """GET /api/v1/transactions"""
    status = call.parameter("status")
    if status is not None and status not in STATUSES:
        raise InvalidField("status", f"status must be one of {', '.join(get_args(Status))}.")
    limit, cursor = call.page()
    found = call.kernel.transactions(status=status, limit=limit + 1, before=cursor)
    more = len(found) > limit
    items = [TransactionJson.model_validate(t, from_attributes=True) for t in found[:limit]]
    return _model(TransactionPage(items=items, next_cursor=items[-1].id if more else None))


def live(call: Call) -> Response:
    """GET /health/live"""
    return _model(Alive())


def ready(call: Call) -> Response:
    """GET /health/ready"""
    kernel = call.kernel

    def store() -> None:
        writing = Operation.UPLOAD in ALLOWED[kernel.element.record().mode]
        kernel.backend.check(writing=writing)

    def space() -> None:
        if Operation.UPLOAD in ALLOWED[kernel.element.record().mode]:
            kernel.index.check_space(None)

    parts: dict[str, Callable[[], None]] = {
        "store": store,
        "space": space,
        "cache": kernel.index.check,
        "log": kernel.parts.log.check,
        "auth": call.node.auth.check,
    }
    checks: dict[str, str] = {}
    with ThreadPoolExecutor(len(parts)) as pool:  # a store that hangs is waited for once, not by each in turn
        asked = {name: pool.submit(check) for name, check in parts.items()}
    for name, one in asked.items():
        try:
            one.result()
        except ArtstoreError as e:
            checks[name] = e.detail
    if not checks:
        return _model(Ready(status="ready"))
    return _model(Ready(status="not ready", checks=checks), status=503)


def openapi(call: Call) -> Response:
    """GET /openapi.json"""
    return Response(
        200,
        [("Content-Type", "application/json"), ("Cache-Control", "no-cache")],
        json.dumps(document(), ensure_ascii=False).encode(),
    )


def _model(model: BaseModel, status: int = 200) -> Response:
    exclude_none = isinstance(model, Ready)
    return json_response(model.model_dump_json(exclude_none=exclude_none).encode(), status)
