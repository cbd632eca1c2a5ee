"""A plugin that breaks its contract, in a running element: it is named in the log, and nothing else fails."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.ports import free_port
from support.servers import Element, file_path, until

# The providers of the box, each of which does what a file in its home requests: {"method": "raise" | "none" | "hang"}.
MODULE = """
from artstore.hookspecs import Provider, hookimpl

@hookimpl
def artstore_backends():
    return [Provider(name="odd", target="acme_odd:Backend", summary="odd")]

@hookimpl
def artstore_caches():
    return [Provider(name="odd", target="acme_odd:Cache", summary="odd")]

@hookimpl
def artstore_auths():
    return [Provider(name="odd", target="acme_odd:Auth", summary="odd")]
"""
PROVIDERS = """
import json, pathlib, time
from artstore.errors import Unavailable
from artstore.spi import TOKEN_ROLES, Principal
from artstore_local.backend import LocalBackend
from artstore_sql.sqlite.cache import SqlCache
from artstore_jwt.auth import JwtAuth

def odd(kind, methods):
    def spoil(name):
        def method(self, *args, **named):
            fault = json.loads(pathlib.Path(__file__).with_name("faults.json").read_text()).get(name)
            if fault == "raise":
                raise RuntimeError("secret-boom")
            if fault == "none":
                return None
            if fault == "hang":
                time.sleep(3600)
            if fault == "forge":
                return Principal(id="u-1", name="a\\n2026-01-01 INFO FORGED", scopes=TOKEN_ROLES["admin"])
            if fault == "unavailable":
                raise Unavailable("away\\n2026-01-01 INFO FORGED \\x1b[2J")
            if fault == "inside":
                raise Unavailable("secret.example, http://10.9.8.7:9000, secret-db:5432, /srv/secret/x is away.")
            return getattr(kind, name)(self, *args, **named)
        return method
    return type(kind.__name__, (kind,), {name: spoil(name) for name in methods})

Backend = odd(LocalBackend, ["create", "read_sidecar", "read", "delete", "replace_sidecar", "free_bytes"])
Cache = odd(SqlCache, ["put", "remove", "key", "search", "totals", "close"])
Auth = odd(JwtAuth, ["authenticate", "check"])
"""


class Odd:
    """An element whose providers are odd, and the switch for their faults."""

    def __init__(self, element: Element, place: Path) -> None:
        self.element = element
        self._place = place

    @contextmanager
    def fault(self, method: str, kind: str) -> Iterator[None]:
        self._set({method: kind})
        try:
            yield
        finally:
            self._set({})

    def _set(self, faults: dict[str, str]) -> None:
        new = self._place / "faults.new"
        new.write_text(json.dumps(faults))
        new.replace(self._place / "faults.json")

    def log(self) -> str:
        return self.element.log.read_text()


def install(place: Path, name: str, module: str) -> None:
    """A distribution with one plugin, as pip would leave it."""
    (place / f"{name}.py").write_text(module)
    information = place / f"{name}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[artstore]\nx = {name}\n")


@pytest.fixture(scope="module", params=["starlette", "falcon"])
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    place = tmp_path_factory.mktemp("site")
    install(place, "acme", MODULE)
    install(place, "broken", "import no_such_library")
    (place / "acme_odd.py").write_text(PROVIDERS)
    (place / "faults.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(place))
        chosen = {"BACKEND": "odd", "CACHE": "odd", "AUTH": "odd"}
        element = servers.start(request.param, tmp_path_factory.mktemp("odd") / "home", settings=chosen)
    try:
        yield Odd(element, place)
    finally:
        element.process.terminate()
        assert element.process.wait(servers.DEADLINE) == 0


def problem(answer: servers.Answer, status: int, code: str) -> None:
    assert answer.status == status, answer
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json()["code"] == code
    assert not re.search(rb"secret-boom|Traceback|RuntimeError|NoneType|acme", answer.body)


# Without "none" for free_bytes: a store without a limit returns it.
@pytest.mark.parametrize(
    ("method", "kind"), [("create", "raise"), ("create", "none"), ("free_bytes", "raise")]
)
def test_an_upload_fails_whole(odd: Odd, method: str, kind: str) -> None:
    with odd.element.unchanged(), odd.fault(method, kind):
        problem(odd.element.post(b"x" * 10), 500, "internal")
        problem(odd.element.post(b"x" * (3 << 20)), 500, "internal")
    assert odd.element.post(b"x").status == 201
    assert f"The backend 'odd' of acme:x broke its contract in {method}()" in odd.log()


@pytest.mark.parametrize("kind", ["raise", "none"])
def test_a_failed_read_changes_nothing(odd: Odd, kind: str) -> None:
    made = odd.element.upload(b"content")
    path = file_path(made["file_id"])
    with odd.fault("read", kind):
        problem(odd.element.download(made["file_id"]), 500, "internal")
        assert odd.element.get(path).json() == made
    with odd.fault("read_sidecar", kind):
        problem(odd.element.get(path), 500, "internal")
        problem(odd.element.patch(made["file_id"], {"description": "new"}), 500, "internal")
        problem(odd.element.ask("DELETE", path), 500, "internal")
    assert odd.element.download(made["file_id"]).body == b"content"
    assert odd.element.get(path).json() == made


@pytest.mark.parametrize("method", ["delete", "replace_sidecar"])
def test_a_change_that_failed_was_not_acknowledged(odd: Odd, method: str) -> None:
    made = odd.element.upload(b"content")
    path = file_path(made["file_id"])
    with odd.fault(method, "raise"):
        answer = (
            odd.element.ask("DELETE", path)
            if method == "delete"
            else odd.element.patch(made["file_id"], {"description": "new"})
        )
        problem(answer, 500, "internal")
    assert odd.element.get(path).json() == made
    assert odd.element.ask("DELETE", path).status == 204


@pytest.mark.parametrize("kind", ["raise", "none"])
def test_files_are_served_by_id_while_the_cache_fails(odd: Odd, kind: str) -> None:
    made = odd.element.upload(b"first")
    with odd.fault("key", "raise"):  # None is an answer of this one
        assert odd.element.download(made["file_id"]).body == b"first"
    with odd.fault("search", kind):
        answer = odd.element.get("/api/v1/files")  # 503 as long as the cache is not believed anyway
        problem(answer, answer.status, "internal" if answer.status == 500 else "unavailable")
        assert answer.status in (500, 503)
        assert odd.element.download(made["file_id"]).body == b"first"
    with odd.fault("put", "raise"):
        second = odd.element.upload(b"second")
        assert odd.element.download(second["file_id"]).body == b"second"

    def found() -> bool:
        answer = odd.element.get("/api/v1/files")
        return answer.status == 200 and second["file_id"] in [i["file_id"] for i in answer.json()["items"]]

    until(found, "the entry from the backlog")
    assert "The cache 'odd' of acme:x" in odd.log()


@pytest.mark.parametrize("kind", ["raise", "none"])
def test_no_request_is_authorized_while_the_auth_fails(odd: Odd, kind: str) -> None:
    made = odd.element.upload(b"content")
    with odd.fault("authenticate", kind):
        problem(odd.element.download(made["file_id"]), 500, "internal")
        problem(odd.element.post(b"x"), 500, "internal")
        assert odd.element.get("/health/live").status == 200
    with odd.fault("check", "raise"):
        answer = odd.element.get("/health/ready")
        assert answer.status == 503
        assert answer.json()["checks"].keys() == {"auth"}
        assert b"secret-boom" not in answer.body
    assert odd.element.download(made["file_id"]).body == b"content"


def test_a_name_with_a_line_break_is_a_fault_of_the_auth_and_forges_no_line_of_the_log(odd: Odd) -> None:
    with odd.element.unchanged(), odd.fault("authenticate", "forge"):
        problem(odd.element.post(b"x"), 500, "internal")
        problem(odd.element.get("/api/v1/files"), 500, "internal")
    log = odd.log()
    assert "FORGED" not in log
    assert (
        "The auth 'odd' of acme:x broke its contract in authenticate(): it returned a principal whose name"
        in log
    )


def test_a_reason_shows_no_host_port_or_path_outside_the_log(odd: Odd) -> None:
    with odd.fault("authenticate", "inside"):
        refused = odd.element.get("/api/v1/files")
    with odd.fault("check", "inside"):
        ready = odd.element.get("/health/ready", bearer=None)
    assert (refused.status, ready.status) == (503, 503)
    for answer in (refused, ready):
        assert b"is away." in answer.body
        assert not re.search(rb"secret|10\.9\.8\.7|9000|5432", answer.body), answer.body
    lines = [line for line in odd.log().splitlines() if "http://10.9.8.7:9000" in line]
    assert len(lines) == 2


def test_a_reason_with_a_line_break_forges_no_line_of_the_log(odd: Odd) -> None:
    with odd.fault("authenticate", "unavailable"):
        assert odd.element.get("/api/v1/files").status == 503
    (line,) = [line for line in odd.log().splitlines() if "FORGED" in line]
    assert r"ERROR artstore.http request" in line
    assert line.endswith(r"away\n2026-01-01 INFO FORGED \x1b[2J")


def test_the_plugin_list_names_the_broken_plugin(odd: Odd) -> None:
    rows: list[dict[str, Any]] = odd.element.get("/api/v1/plugins").json()["items"]
    assert [(r["role"], r["status"]) for r in rows if r["chosen"] and r["name"] == "odd"] == [
        ("backend", "ok"), ("cache", "ok"), ("auth", "ok"),
    ]  # fmt: skip
    (broken,) = [r for r in rows if r["plugin"] == "broken:x"]
    assert broken["status"] == "broken"
    assert "no_such_library" in broken["problem"]


def test_a_plugin_that_hangs_at_shutdown_is_named_and_not_waited_for(tmp_path: Path) -> None:
    install(tmp_path, "acme", MODULE)
    (tmp_path / "acme_odd.py").write_text(PROVIDERS)
    (tmp_path / "faults.json").write_text('{"close": "hang"}')
    home = tmp_path / "home"
    servers.prepare(home)
    run = servers.artstore(home, "recover", settings={"CACHE": "odd"}, modules=tmp_path)
    assert run.returncode == 0, run
    assert "The cache 'odd' of acme:x did not close" in run.stderr
    assert run.stdout.startswith("Recovered")


@pytest.mark.parametrize(("code", "reel", "message"), [
    ("raise RuntimeError('no tape')", "1", "acme:x failed to build: RuntimeError: no tape"),
    ("raise SystemExit(3)", "1", "acme:x failed to build: SystemExit: 3"),
    ("return 5", "1", "acme:x failed to build: TypeError"),
    ("pass", "1", "The backend 'tape' of acme:x lacks create, "),
    ("pass", "7", "acme:x cannot check its settings: RuntimeError: unwound"),
    ("pass", "x", "REEL"),
])  # fmt: skip
def test_a_plugin_that_cannot_be_built_is_a_configuration_error(
    tmp_path: Path, code: str, reel: str, message: str
) -> None:
    settings = {"BACKEND": "tape", "BACKEND__TAPE__REEL": reel}
    module = f"""
        from artstore.hookspecs import Provider, hookimpl
        from pydantic import BaseModel, field_validator
        @hookimpl
        def artstore_backends():
            return [Provider(name="tape", target="acme:Tape", summary="s")]
        class Tape:
            API = 1
            class Settings(BaseModel, extra="forbid"):
                reel: int = 1
                @field_validator("reel")
                @classmethod
                def wound(cls, reel):
                    if reel == 7:
                        raise RuntimeError("unwound")
                    return reel
            def __init__(self, settings, context):
                {code}
    """
    install(tmp_path, "acme", textwrap.dedent(module))
    run = servers.artstore(
        tmp_path / "home", "serve", "--port", str(free_port()), settings=settings, modules=tmp_path
    )
    assert run.returncode == 78, run
    assert message in run.stderr
    assert "Traceback" not in run.stderr
