"""Who may do what: 401 for whoever is not known, 403 for whoever lacks the scope."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from support import servers
from support.servers import AUDIENCE, FORM, ISSUER, JSON, KEY, Element, file, form, sign, token, until

NOW = int(time.time())
FILE = f"/api/v1/files/{uuid.UUID(int=11)}"
CLAIMS: dict[str, Any] = {"sub": "u", "role": "admin", "exp": NOW + 3600, "iss": ISSUER, "aud": AUDIENCE}
OTHER_KEY = RSAKey.generate_key(2048, auto_kid=False)

# Method, target, type, body, the scope it needs, and the status of who has it.
OPERATIONS: list[tuple[str, str, tuple[str, str] | None, bytes | None, str, int]] = [
    ("POST", "/api/v1/files", FORM, form(file(b"x")), "files:write", 201),
    ("POST", "/api/v1/files/upload", FORM, form(file(b"x")), "files:write", 201),
    ("POST", "/api/v1/files?filename=x", None, b"x", "files:write", 201),
    ("PUT", f"{FILE}?filename=x", FORM, b"x", "files:write", 415),
    ("PATCH", FILE, JSON, b"{}", "files:write", 404),
    ("GET", "/api/v1/files", None, None, "files:read", 200),
    ("GET", FILE, None, None, "files:read", 404),
    ("GET", f"{FILE}/download", None, None, "files:read", 404),
    ("HEAD", f"{FILE}/download", None, None, "files:read", 404),
    ("DELETE", FILE, None, None, "files:delete", 404),
    ("GET", "/api/v1/capacity", None, None, "storage:read", 200),
    ("GET", "/api/v1/plugins", None, None, "storage:read", 200),
    ("GET", "/api/v1/transactions", None, None, "storage:read", 200),
    ("POST", "/api/v1/mode/transition", JSON, b'{"target_mode": "edit"}', "storage:write", 409),
    ("POST", "/api/v1/maintenance/reconcile", JSON, b'{"mode": "all"}', "storage:write", 422),
    ("GET", "/api/v1/maintenance/jobs", None, None, "storage:read", 200),
    ("GET", "/api/v1/maintenance/jobs/00000000-0000-7000-8000-000000000000", None, None, "storage:read", 404),
]
ROLES = {
    "reader": {"files:read"},
    "user": {"files:read", "files:write"},
    "operator": {"files:read", "files:write", "files:delete", "storage:read"},
    "admin": {"files:read", "files:write", "files:delete", "storage:read", "storage:write"},
    "root": set(),
    "ADMIN": set(),
    "": set(),
}


@pytest.mark.parametrize("role", list(ROLES))
def test_what_each_role_may(element: Element, role: str) -> None:
    bearer = token(role)
    for method, target, kind, body, scope, status in OPERATIONS:
        answer = element.ask(method, target, [kind] if kind else [], body, bearer=bearer)
        if scope in ROLES[role]:
            assert answer.status == status, (method, target, answer)
        else:
            assert answer.status == 403, (method, target, answer)
            assert answer.header("www-authenticate") == 'Bearer error="insufficient_scope"'
            assert method == "HEAD" or answer.problem(403, "forbidden")


@pytest.mark.parametrize(
    "claims",
    [
        {"role": None, "roles": ["nobody", "reader"]},
        {"role": None, "scope": "files:read openid"},
        {"role": None, "scopes": ["files:read"], "aud": AUDIENCE},
        {"role": "nobody", "scope": "files:read"},
        {"role": ["reader", "nobody"]},
        {"role": None, "roles": "reader"},
        {"role": None, "roles": ["reader"], "scope": None, "azp": "app", "typ": "Bearer"},
        {"role": None, "scope": ["openid", "files:read"]},
        {"role": None, "scopes": "openid files:read"},
    ],
)
def test_scopes_come_in_many_claims(element: Element, claims: dict[str, Any]) -> None:
    assert element.get("/api/v1/files", bearer=token(**claims)).status == 200
    element.ask("DELETE", FILE, bearer=token(**claims)).problem(403, "forbidden")


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "N", "preferred_username": "P", "username": "U"}, "N"),
        ({"name": None, "preferred_username": "P", "username": "U"}, "P"),
        ({"name": None, "username": "Зоя Ё 😀"}, "Зоя Ё 😀"),
        ({"name": None}, "some-sub"),
        ({"name": "a/../../b"}, "a/../../b"),
        ({"name": "x" * 255}, "x" * 255),
        ({"name": "."}, "."),
        ({"name": "line\nbreak"}, "some-sub"),
    ],
)
def test_the_uploader(element: Element, claims: dict[str, Any], name: str) -> None:
    bearer = token(sub="some-sub", **claims)
    made = element.post_form([file(b"x")], bearer=bearer).json()
    assert (made["uploaded_by"], made["uploaded_by_id"]) == (name, "some-sub")
    assert f"{made['storage_path']}/{made['storage_filename']}" in element.tree()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], claims: dict[str, Any] = CLAIMS) -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}."


def hs256(secret: bytes) -> str:
    signing = unsigned({"alg": "HS256", "typ": "JWT"})[:-1]
    return f"{signing}.{b64(hmac.digest(secret, signing.encode(), hashlib.sha256))}"


def token_of(alg: str, key: Any = None, **claims: Any) -> str:
    """A token whose header names `alg`; signed with `key`, or else by the element's key with RS256."""
    signing = unsigned({"alg": alg}, CLAIMS | claims)[:-1]
    model = jws.JWSRegistry.algorithms[alg if key else "RS256"]
    return f"{signing}.{b64(model.sign(signing.encode(), key or KEY))}"


def tampered() -> str:
    header, _, signature = token("reader").split(".")
    return f"{header}.{b64(json.dumps(CLAIMS).encode())}.{signature}"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "expired": lambda: token(exp=NOW - 1),
    "not yet valid": lambda: token(nbf=NOW + 3600),
    "issued in the future": lambda: token(iat=NOW + 7200, exp=NOW + 9999),
    "no exp": lambda: token(exp=None),
    "exp is text": lambda: token(exp="soon"),
    "exp is huge": lambda: token(exp=10**300),
    "exp is true": lambda: token(exp=True),
    "no sub": lambda: token(sub=None),
    "another issuer": lambda: token(iss=ISSUER + "/"),
    "no issuer": lambda: token(iss=None),
    "issuers": lambda: token(iss=[ISSUER]),
    "another audience": lambda: token(aud="stores"),
    "other audiences": lambda: token(aud=["other", "stores"]),
    "no audience": lambda: token(aud=None),
    "sub is empty": lambda: token(sub=""),
    "sub is a number": lambda: token(sub=5),
    "sub holds a control": lambda: token(sub="a\nb"),
    "alg none": lambda: unsigned({"alg": "none"}),
    "alg None": lambda: unsigned({"alg": "None"}),
    "no alg": lambda: unsigned({"typ": "JWT"}),
    "HS256 with the public key": lambda: hs256(KEY.as_pem(private=False)),
    "HS256 with nothing": lambda: hs256(b""),
    "another key": lambda: sign({"alg": "RS256"}, json.dumps(CLAIMS).encode(), OTHER_KEY),
    "another key within": lambda: sign(
        {"alg": "RS256", "jwk": OTHER_KEY.as_dict(private=False)}, json.dumps(CLAIMS).encode(), OTHER_KEY
    ),
    "tampered": tampered,
    "refresh token": lambda: token(typ="refresh"),
    "refresh token by type": lambda: token(type="refresh"),
    "id token": lambda: token(token_use="id"),
    "id token by nonce": lambda: token(nonce="n-0S6"),
    "id token by at_hash": lambda: token(at_hash="MTIz", scope="openid"),
    "id token by c_hash": lambda: token(c_hash="MTIz"),
    "id token by azp": lambda: token(azp="app"),
    "logout token": lambda: token(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    "ES256 by name alone": lambda: token_of("ES256"),
    "EdDSA by name alone": lambda: token_of("EdDSA"),
    "ES256 with a key of its own": lambda: token_of("ES256", ECKey.generate_key("P-256")),
    "scope is a number": lambda: token(scope=7),
    "roles holds an object": lambda: token(roles=["admin", {"a": 1}]),
    "typ in the header": lambda: sign({"alg": "RS256", "typ": "rt+jwt"}, json.dumps(CLAIMS).encode()),
    "crit": lambda: (
        sign({"alg": "RS256", "typ": "JWT", "kid": "x"}, json.dumps(CLAIMS).encode())[:-3] + "AAA"
    ),
    "duplicate claims": lambda: sign({"alg": "RS256"}, b'{"sub":"a","sub":"b","exp":9999999999}'),
    "NaN": lambda: sign({"alg": "RS256"}, b'{"sub":"a","exp":NaN}'),
    "not an object": lambda: sign({"alg": "RS256"}, b"[]"),
    "not JSON": lambda: sign({"alg": "RS256"}, b"hello"),
    "not UTF-8": lambda: sign({"alg": "RS256"}, b'{"sub":"\xff"}'),
    "deep": lambda: sign({"alg": "RS256"}, b"[" * 3000),
    "role is an object": lambda: token(role={"a": 1}),
    "two dots": lambda: "..",
    "one part": lambda: "abc",
    "five parts": lambda: "a.b.c.d.e",
    "unpadded nonsense": lambda: "%%%.%%%.%%%",
    "letters from elsewhere": lambda: "é.é.é",
    "null byte in base64": lambda: f"{b64(b'{}')}.{b64(bytes(9))}.{b64(bytes(256))}",
    "8 KiB": lambda: "a" * 8192,
}


@pytest.mark.parametrize("kind", list(BAD_TOKENS))
def test_tokens_that_are_refused(element: Element, kind: str) -> None:
    bearer = BAD_TOKENS[kind]()
    with element.unchanged():
        for method, target, body in (
            ("GET", "/api/v1/files", None),
            ("POST", "/api/v1/files?filename=x", b"abc"),
        ):
            answer = element.ask(method, target, None, body, bearer=bearer)
            answer.problem(401, "unauthorized")
            assert (answer.header("www-authenticate") or "").startswith("Bearer")


@pytest.mark.parametrize(
    "value", ["Basic dTpw", "Bearer", "Bearer ", "bearer:", "Token x", "", "Bearer a b", "Bearer a,b"]
)
def test_credentials_that_are_none(element: Element, value: str) -> None:
    answer = element.get("/api/v1/files", ("Authorization", value), bearer=None)
    answer.problem(401, "unauthorized")
    assert (answer.header("www-authenticate") or "").startswith("Bearer")


def test_no_token(element: Element) -> None:
    answer = element.get("/api/v1/files", bearer=None)
    answer.problem(401, "unauthorized")
    assert answer.header("www-authenticate") == "Bearer"


def test_two_tokens_are_none(element: Element) -> None:
    element.get("/api/v1/files", ("Authorization", f"Bearer {element.bearer}")).problem(401, "unauthorized")


def test_the_scheme_has_no_case(element: Element) -> None:
    answer = element.get("/api/v1/files", ("authorization", f"bEaReR   {element.bearer}"), bearer=None)
    assert answer.status == 200


def test_a_token_in_the_query_is_no_token(element: Element) -> None:
    element.get(f"/api/v1/files?access_token={element.bearer}", bearer=None).problem(401, "unauthorized")


def test_a_token_dies_while_it_is_remembered(element: Element) -> None:
    """The element remembers verified tokens: not past their end."""
    bearer = token(exp=time.time() + 0.5)
    assert element.get("/api/v1/files", bearer=bearer).status == 200
    until(lambda: element.get("/api/v1/files", bearer=bearer).status == 401, "the token's end", 10)


def test_roles_lie_where_the_settings_say(adapter: str, start: Callable[..., Element]) -> None:
    settings = {
        "AUTH__JWT__ROLE_CLAIMS": '["roles", "realm_access.roles", "groups", "https://files.example.org/roles"]',
        "AUTH__JWT__SCOPE_CLAIMS": "scp",
        "AUTH__JWT__ROLE_MAP": '{"Storage readers": "reader"}',
    }
    element = start(adapter, settings=settings)
    for claims in (
        {"realm_access": {"roles": ["reader", "offline_access"]}}, {"groups": ["Everyone", "Storage readers"]},
        {"groups": "Storage readers"}, {"https://files.example.org/roles": ["reader"]}, {"scp": "openid files:read"},
        {"scp": ["files:read"]},
    ):  # fmt: skip
        assert element.get("/api/v1/files", bearer=token(None, **claims)).status == 200, claims
        element.ask("POST", "/api/v1/files?filename=x", None, b"x", bearer=token(None, **claims)).problem(
            403, "forbidden"
        )
    for claims in (
        {"role": "admin"},
        {"scope": "files:read"},
        {"groups": ["readers"]},
        {"groups": "reader of books"},
    ):
        bearer = token(**({"role": None} | claims))
        element.get("/api/v1/files", bearer=bearer).problem(403, "forbidden")
    element.get("/api/v1/files", bearer=token(None, realm_access="reader")).problem(401, "unauthorized")
    groups = [f"{n:08x}-0000-0000-0000-000000000000" for n in range(200)]
    long = token("reader", roles=["reader"], groups=groups)
    assert len(long) > 10_000
    assert element.get("/api/v1/files", bearer=long).status == 200


def test_keys_of_each_kind_verify_their_algorithm(
    adapter: str, start: Callable[..., Element], tmp_path: Path
) -> None:
    keys = {"ES256": ECKey.generate_key("P-256"), "EdDSA": OKPKey.generate_key("Ed25519"), "RS256": KEY}
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys.values()]}))
    element = start(adapter, settings={"AUTH__JWT__JWKS_FILE": str(path)})
    for alg, key in keys.items():
        assert element.get("/api/v1/files", bearer=token_of(alg, key)).status == 200
    for alg in ("ES256", "EdDSA"):
        element.get("/api/v1/files", bearer=token_of(alg)).problem(401, "unauthorized")
    element.get("/api/v1/files", bearer=hs256(KEY.as_pem(private=False))).problem(401, "unauthorized")


class Provider(ThreadingHTTPServer):
    """An identity provider that tells `KEY`, while it can."""

    status = 200
    asked = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keys)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Keys(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self.server.asked += 1
        body = json.dumps({"keys": [KEY.as_dict(private=False) | {"alg": "RS256"}]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_worker_waits_for_the_identity_provider(tmp_path: Path) -> None:
    """The other has the keys: an element must not end because one of its workers died meanwhile."""
    with Provider() as provider:
        url = f"http://127.0.0.1:{provider.server_port}/keys"
        element = servers.start(
            "starlette", tmp_path / "home", workers=2, settings={"AUTH__JWT__JWKS_URL": url}
        )
        try:
            until(lambda: provider.asked == 3, "recovery and two workers have keys")
            provider.status = 503
            killed, other = element.workers()
            os.kill(killed, signal.SIGKILL)
            until(lambda: "a worker waits: auth.jwt.jwks_url: No key" in element.log.read_text(), "it waits")
            until(element.answers, "the other serves")
            assert element.get("/api/v1/files").status == 200
            provider.status = 200
            os.kill(other, signal.SIGKILL)
            until(element.answers, "its successor has keys")
            element.process.send_signal(signal.SIGTERM)
            assert element.process.wait(servers.DEADLINE) == 0
        finally:
            element.process.kill()
            provider.shutdown()
