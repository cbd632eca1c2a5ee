import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore import errors
from artstore_http import problems
from artstore_http.problems import PROBLEMS, problem


def answer(error):
    status, headers, body = problem(error, "req-1")
    assert headers[0] == ("Content-Type", "application/problem+json")
    return status, dict(headers), json.loads(body)


@pytest.mark.parametrize(
    ("error", "status", "code", "header"),
    [
        (errors.MalformedRequest("x"), 400, "malformed-request", None),
        (errors.Refused("x"), 400, "refused", None),
        (problems.UnknownParameter("x"), 400, "unknown-parameter", None),
        (problems.InvalidCursor("x"), 400, "invalid-cursor", None),
        (problems.NoToken(), 401, "unauthorized", ("WWW-Authenticate", "Bearer")),
        (errors.Unauthorized("x"), 401, "unauthorized", ("WWW-Authenticate", 'Bearer error="invalid_token"')),
        (errors.Forbidden("x"), 403, "forbidden", ("WWW-Authenticate", 'Bearer error="insufficient_scope"')),
        (errors.NotFound("x"), 404, "not-found", None),
        (problems.NoRoute(), 404, "not-found", None),
        (problems.MethodNotAllowed({"PUT", "GET"}), 405, "method-not-allowed", ("Allow", "GET, PUT")),
        (problems.RequestTimeout("x"), 408, "timeout", ("Connection", "close")),
        (errors.Conflict("x"), 409, "conflict", None),
        (errors.ModeNotAllowed("x"), 409, "mode-not-allowed", None),
        (problems.LengthRequired("x"), 411, "length-required", None),
        (errors.PreconditionFailed("x"), 412, "precondition-failed", None),
        (errors.TooLarge("x"), 413, "file-too-large", None),
        (problems.UriTooLong("x"), 414, "uri-too-long", None),
        (problems.UnsupportedMediaType("x"), 415, "unsupported-media-type", None),
        (problems.InvalidRange(7), 416, "invalid-range", ("Content-Range", "bytes */7")),
        (errors.InvalidField("tags", "x"), 422, "invalid-field", None),
        (errors.DigestMismatch("x"), 422, "digest-mismatch", None),
        (problems.HeaderFieldsTooLarge("x"), 431, "header-fields-too-large", None),
        (errors.Damaged("x"), 500, "damaged", None),
        (errors.Unavailable("x"), 503, "unavailable", ("Retry-After", "5")),
        (errors.Unavailable("x", retry_after=None), 503, "unavailable", None),
        (errors.StorageFull("x"), 507, "storage-full", None),
        (errors.StorageFull("x", retry_after=7), 507, "storage-full", ("Retry-After", "7")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_table(error, status, code, header):
    got, headers, body = answer(error)
    assert got == body["status"] == status
    assert list(body)[:6] == ["type", "title", "status", "detail", "code", "request_id"]
    assert body["type"] == f"https://artstore.dev/problems/{code}"
    assert (body["code"], body["request_id"], body["detail"]) == (code, "req-1", error.detail)
    assert header is None or headers[header[0]] == header[1]
    assert set(headers) == {"Content-Type", "Cache-Control"} | ({header[0]} if header else set())


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("S3 at http://10.0.0.5:9000 is away: refused.", "S3 at (in the log) is away: refused."),
        ("S3 at s3.internal is away.", "S3 at (in the log) is away."),
        ('server at "10.0.0.1", port 5432 failed', "server at (in the log), (in the log) failed"),
        (
            'no entry for host "db", user "art", database "d"',
            "no entry for host (in the log), user (in the log), database (in the log)",
        ),
        ("The cache /srv/a/b.sqlite is suspect.", "The cache (in the log) is suspect."),
        ("db-1:5432, [::1]:80, 10.0.0.1", "(in the log), (in the log), (in the log)"),
        (
            "The data of 2026/11/21/23/r_i_2026.txt ends at 3/4.",
            "The data of 2026/11/21/23/r_i_2026.txt ends at 3/4.",
        ),
        ("The volume has no room for the file.", "The volume has no room for the file."),
    ],
)
def test_no_detail_names_a_host_port_or_path_of_the_inside(detail, shown):
    for error in (errors.Unavailable, errors.Damaged, errors.StorageFull, errors.Refused):
        assert answer(error(detail))[2]["detail"] == shown


def test_every_error_there_is_has_a_place():
    kinds = [k for m in (errors, problems) for _, k in inspect.getmembers(m, inspect.isclass)]
    codes = {k.code for k in kinds if issubclass(k, errors.ArtstoreError)}
    assert codes - {"configuration", "plugin"} == set(PROBLEMS)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("/secret"),
        KeyError("/secret"),
        errors.ArtstoreError("/secret"),
        errors.ConfigError("/secret"),
        errors.PluginError("/secret", cure="/secret"),
        KeyboardInterrupt("/secret"),
    ],
    ids=repr,
)
def test_what_is_unknown_leaks_nothing(error):
    status, _, body = answer(error)
    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in json.dumps(body)


def test_a_plugins_own_error_counts_as_its_kind():
    class Busy(errors.Unavailable):
        code = "busy"

    assert answer(Busy("x"))[2]["code"] == "unavailable"


def test_a_field_is_named():
    assert answer(errors.InvalidField("tags", "x"))[2]["field"] == "tags"


@given(detail=st.text(st.characters(codec=None, categories=None)))
def test_any_detail_can_be_sent(detail):
    assert answer(errors.InvalidField(detail, detail))[0] == 422
