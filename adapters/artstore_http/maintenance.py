"""Operations that start jobs on the whole store, and show their progress."""

from __future__ import annotations

from artstore.maintenance.jobs import Job, Record
from artstore.maintenance.repair import rebuild as rebuild_index
from artstore.maintenance.repair import reconcile as reconcile_store
from artstore_http.call import Call, json_response
from artstore_http.files import json_body
from artstore_http.jsonbody import parse_model
from artstore_http.message import Receiver, Response
from artstore_http.models import JobJson, JobPage, ReconcileRequest

_JOBS = "/api/v1/maintenance/jobs"


def reconcile(call: Call) -> Receiver:
    """POST /api/v1/maintenance/reconcile"""

    def then(body: bytes) -> Response:
        wanted = parse_model(ReconcileRequest, body)
        repair = wanted.mode == "repair"

        def work(job: Job) -> None:
            reconcile_store(call.kernel.parts, call.kernel.index, job, repair=repair, digests=wanted.digests)

        return _accepted(
            call, call.node.jobs.start(wanted.mode, by=call.by.name, digests=wanted.digests, work=work)
        )

    return json_body(call, ("application/json",), then)


def rebuild(call: Call) -> Response:
    """POST /api/v1/maintenance/rebuild"""
    jobs = call.node.jobs

    def work(job: Job) -> None:
        rebuild_index(call.kernel.parts, call.kernel.index, job, jobs)

    return _accepted(call, jobs.start("rebuild", by=call.by.name, digests=False, work=work))


def job(call: Call) -> Response:
    """GET /api/v1/maintenance/jobs/{job_id}"""
    return json_response(_json(call.node.jobs.get(call.path["job_id"])).model_dump_json().encode())


def jobs(call: Call) -> Response:
    """GET /api/v1/maintenance/jobs"""
    limit, cursor = call.page_parameters()
    found = call.node.jobs.newest(limit=limit + 1, before=cursor)
    items = [_json(record) for record in found[:limit]]
    page = JobPage(items=items, next_cursor=items[-1].id if len(found) > limit else None)
    return json_response(page.model_dump_json().encode())


def _accepted(call: Call, record: Record) -> Response:
    body = _json(record).model_dump_json().encode()
    return json_response(body, 202, [("Location", call.link(f"{_JOBS}/{record.id}"))])


def _json(record: Record) -> JobJson:
    return JobJson.model_validate(record.model_dump())
