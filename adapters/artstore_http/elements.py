"""Operations on the element itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

from pydantic import BaseModel

import artstore
from artstore.errors import ArtstoreError, InvalidField, StorageFull
from artstore.modes import Operation
from artstore.spi import STATUSES, Status
from artstore_http.call import Call, json_response
from artstore_http.concealment import conceal_places_and_keys
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

log = logging.getLogger("artstore.http")

_WARNING, _CRITICAL = 0.80, 0.95


def root(call: Call) -> Response:
    """GET /"""
    return _model(
        Root(
            name="artstore",
            version=artstore.__version__,
            element_id=call.kernel.describe().element_id,
            api=call.link("/api/v1"),
            openapi=call.link("/openapi.json"),
            health=call.link("/health/ready"),
        )
    )


def info(call: Call) -> Response:
    """GET /api/v1/info"""
    what = call.kernel.describe()
    return _model(
        Info(
            element_id=what.element_id,
            display_name=call.node.settings.display_name or what.element_id,
            version=artstore.__version__,
            mode=what.mode,
            allowed_operations=[o.value for o in Operation if o in what.operations],
            adapter=call.adapter,
            missing_guarantees=list(what.missing_guarantees),
        )
    )


def capacity(call: Call) -> Response:
    """GET /api/v1/capacity"""
    usage = call.kernel.usage()
    limits = []
    if usage.capacity is not None:
        limits.append((usage.capacity, max(0, usage.capacity - usage.size)))
    if usage.free is not None:
        limits.append((usage.size + usage.free, usage.free))
    # The limit that will be reached first counts.
    total, free_bytes = min(limits, key=lambda limit: limit[1]) if limits else (None, None)
    used = usage.size / total if total else 0.0
    try:
        call.kernel.space.require_some()
        full = False
    except StorageFull:
        full = True
    status = "full" if full else "critical" if used >= _CRITICAL else "warning" if used >= _WARNING else "ok"
    return _model(
        Capacity(
            total=total,
            used=usage.size,
            reserved=usage.reserved,
            free=free_bytes,
            file_count=usage.files,
            status=status,
        )
    )


def plugins(call: Call) -> Response:
    """GET /api/v1/plugins"""
    return _model(PluginPage(items=[PluginJson(**row) for row in call.node.plugin_rows()]))


def transition(call: Call) -> Receiver:
    """POST /api/v1/mode/transition"""

    def then(body: bytes) -> Response:
        wish = parse_model(TransitionRequest, body)
        before = call.kernel.describe().mode
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
    limit, cursor = call.page_parameters()
    found = call.kernel.transactions(status=status, limit=limit + 1, before=cursor)
    more = len(found) > limit
    items = [TransactionJson.model_validate(t, from_attributes=True) for t in found[:limit]]
    return _model(TransactionPage(items=items, next_cursor=items[-1].id if more else None))


def live(call: Call) -> Response:
    """GET /health/live"""
    return _model(Alive())


def ready(call: Call) -> Response:
    """GET /health/ready"""
    checks: dict[str, str] = {}
    for name, error in run_checks({**call.kernel.health(), "auth": call.node.auth.check}).items():
        if error is not None:
            log.warning("not ready: %s: %s", name, error.detail)
            checks[name] = conceal_places_and_keys(error.detail)
    if not checks:
        return _model(Ready(status="ready"))
    return _model(Ready(status="not ready", checks=checks), status=503)


def run_checks(checks: Mapping[str, Callable[[], None]]) -> dict[str, ArtstoreError | None]:
    """Return the error of each check, or None. All run at once: several parts that hang cost one time-out."""

    def run(check: Callable[[], None]) -> ArtstoreError | None:
        try:
            check()
        except ArtstoreError as e:
            return e
        return None

    with ThreadPoolExecutor(len(checks)) as pool:
        return dict(zip(checks, pool.map(run, checks.values()), strict=True))


def openapi(call: Call) -> Response:
    """GET /openapi.json"""
    return Response(
        200,
        [("Content-Type", "application/json"), ("Cache-Control", "no-cache")],
        call.openapi(call.request.root_path),
    )


def _model(model: BaseModel, status: int = 200) -> Response:
    exclude_none = isinstance(model, Ready)
    return json_response(model.model_dump_json(exclude_none=exclude_none).encode(), status)
