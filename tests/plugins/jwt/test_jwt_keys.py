"""The auth `jwt`: where its keys come from and how they change."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import ValidationError

from artstore.errors import ConfigError, Unauthorized, Unavailable
from artstore.spi import Context
from artstore_jwt.auth import JwtAuth

NOW = 1_800_000_000.0
KEY, OTHER = RSAKey.generate_key(2048), RSAKey.generate_key(2048)


EC, ED = (k.as_dict(private=False) for k in (ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")))


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


class Provider:
    """An identity provider on localhost. It answers with `body`, `status` and `location`, and counts the requests."""

    def __init__(self):
        self.body, self.status, self.location, self.asked = b"{}", 200, None, 0
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.gate.set()
        self.cut = False
        self.moved = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked += 1
                provider.entered.set()
                provider.gate.wait(10)
                location = provider.moved.get(self.path, provider.location)
                self.send_response(302 if self.path in provider.moved else provider.status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(provider.body) + provider.cut))
                self.end_headers()
                try:
                    self.wfile.write(provider.body)
                except OSError:
                    self.close_connection = True

            def log_message(self, *args):
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def stop(self):
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def idp():
    provider = Provider()
    yield provider
    provider.gate.set()
    provider.stop()


@pytest.fixture
def context(tmp_path):
    return Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")


@pytest.fixture
def ticks():
    return Clock(1000.0)


@pytest.fixture
def build(context, ticks):
    def build(**given):
        return JwtAuth(JwtAuth.Settings(**given), context, clock=Clock(NOW), ticks=ticks)

    return build


def token(key=KEY, kid=None, sub="u-1"):
    header = {"alg": "RS256"} | ({"kid": kid} if kid else {})
    return jws.serialize_compact(
        header, json.dumps({"sub": sub, "exp": NOW + 600}), key, algorithms=["RS256"]
    )


def jwk(key=KEY, kid=..., **extra):
    public = key.as_dict(private=False) | ({"kid": kid} if kid is not ... else {}) | extra
    return {k: v for k, v in public.items() if k != "kid" or kid is not ...}


def jwks(*keys):
    return json.dumps({"keys": keys}).encode()


def pem(native):
    return native.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"public_key_file": "a", "jwks_file": "b"},
        {"public_key_file": "a", "jwks_url": "http://h/"},
        {"jwks_url": "http://h/", "jwks_file": "b"},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "ftp://h/"},
        {"jwks_url": "http://"},
        {"jwks_url": "http://u:p@h/"},
        {"jwks_url": "http://h/a b"},
        {"leeway": -1},
        {"leeway": float("nan")},
        {"jwks_cache": 0},
        {"timeout": 0},
        {"issuer": ""},
        {"secret": "x"},
    ],
)
def test_invalid_settings_are_refused(given):
    with pytest.raises(ValidationError):
        JwtAuth.Settings(**given)


# --- the key pair of the element ----------------------------------------------------------------------------------


def mode(path):
    return path.stat().st_mode & 0o777


def test_only_the_first_start_makes_a_key_pair(build, context):
    first = build()
    keys = context.state / "keys"
    assert first.generated
    assert sorted(p.name for p in keys.iterdir()) == ["private.pem", "public.pem"]
    assert (mode(keys), mode(keys / "private.pem"), mode(keys / "public.pem")) == (0o700, 0o600, 0o600)
    before = (keys / "private.pem").read_bytes()
    second = build()
    assert not second.generated
    assert (keys / "private.pem").read_bytes() == before
    assert second.authenticate(first.issue(user="ivanov", roles=[], seconds=60)).id == "ivanov"


START = """
import sys
from pathlib import Path
from artstore.spi import Context
from artstore_jwt.auth import JwtAuth
state = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
auth = JwtAuth(JwtAuth.Settings(), Context(home=state, files=state, state=state))
print(auth.generated, auth.issue(user="a", roles=[], seconds=600))
"""


def test_processes_that_start_at_once_share_one_key_pair(context):
    command = [sys.executable, "-c", START, str(context.state)]
    processes = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(3)]
    for p in processes:
        assert p.stdout.readline() == "ready\n"
    for p in processes:
        p.stdin.write("go\n")
        p.stdin.flush()
    got = [p.communicate(timeout=60)[0].split() for p in processes]
    assert sorted(made for made, _ in got) == ["False", "False", "True"]
    auth = JwtAuth(JwtAuth.Settings(), context)
    assert {auth.authenticate(t).id for _, t in got} == {"a"}
    assert sorted(os.listdir(context.state / "keys")) == ["private.pem", "public.pem"]


def test_without_the_private_key_it_only_verifies(build, context):
    issued = build().issue(user="a", roles=[], seconds=60)
    (context.state / "keys" / "private.pem").unlink()
    auth = build()
    assert not auth.generated
    assert auth.authenticate(issued).id == "a"
    with pytest.raises(ConfigError, match=r"private\.pem cannot be read") as e:
        auth.issue(user="a", roles=[], seconds=60)
    assert e.value.cure
    assert not (context.state / "keys" / "private.pem").exists()


def test_a_lost_public_key_is_derived_again(build, context):
    issued = build().issue(user="a", roles=[], seconds=60)
    (context.state / "keys" / "public.pem").unlink()
    auth = build()
    assert not auth.generated
    assert auth.authenticate(issued).id == "a"


def test_a_broken_private_key_is_reported_and_kept(build, context):
    keys = context.state / "keys"
    keys.mkdir(parents=True)
    (keys / "private.pem").write_text("torn")
    with pytest.raises(ConfigError, match=r"private\.pem holds no private key") as e:
        build()
    assert e.value.cure
    assert (keys / "private.pem").read_text() == "torn"


def test_a_directory_where_no_key_pair_can_be_made(build, context):
    context.state.write_text("a file where a directory should be")
    with pytest.raises(ConfigError) as e:
        build()
    assert str(context.state) in e.value.cure


# --- PEM --------------------------------------------------------------------------------------------------


def test_accepts_a_certificate_as_the_public_key(build, tmp_path):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "idp")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key)
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=9999))
        .sign(KEY.private_key, hashes.SHA256())
    )
    path = tmp_path / "idp.crt"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert build(public_key_file=path).authenticate(token()).id == "u-1"


def _small():
    return rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no public key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no public key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no private key"),
        (pem(ec.generate_private_key(ec.SECP384R1()).public_key()), "EC key on secp384r1"),
        (pem(ed448.Ed448PrivateKey.generate().public_key()), "kind Ed448"),
        (pem(_small().public_key()), "1024 bits"),
        (_small().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "1024 bits"),
        (KEY.as_pem(private=True, password="secret"), "without a password"),
        (b"x" * (1 << 20) + b"y", "larger than 1 MiB"),
    ],
)
def test_no_start_without_a_usable_key(build, tmp_path, content, words):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as e:
        build(public_key_file=path)
    assert (e.value.place, bool(e.value.cure)) == ("auth.jwt.public_key_file", True)


def test_no_start_without_the_file(build, tmp_path):
    for setting in ("public_key_file", "private_key_file", "jwks_file"):
        with pytest.raises(ConfigError, match="cannot be read") as e:
            build(**{setting: tmp_path / "absent"})
        assert e.value.place == f"auth.jwt.{setting}"


def test_a_new_key_file_is_used_and_a_broken_one_is_not(build, tmp_path, caplog):
    path = tmp_path / "public.pem"
    path.write_bytes(KEY.as_pem(private=False))
    auth = build(public_key_file=path)
    assert auth.authenticate(token()).id == "u-1"
    path.write_bytes(OTHER.as_pem(private=False))
    assert auth.authenticate(token(OTHER)).id == "u-1"
    with pytest.raises(Unauthorized):
        auth.authenticate(token())
    with caplog.at_level(logging.ERROR, "artstore.jwt"):
        path.write_text("torn")
        for _ in range(5):
            auth.authenticate(token(OTHER))
        path.unlink()
        for _ in range(5):
            auth.authenticate(token(OTHER))
    assert [r.getMessage().split(": ")[-1] for r in caplog.records] == [
        "the keys that were read before stay in use"
    ] * 2
    replacement = tmp_path / "new.pem"
    replacement.write_bytes(KEY.as_pem(private=False))
    replacement.rename(path)
    assert auth.authenticate(token()).id == "u-1"


def test_an_unchanged_key_file_is_not_read_again(build, tmp_path):
    path = tmp_path / "public.pem"
    path.write_bytes(KEY.as_pem(private=False))
    os.utime(path, (1, 1))
    auth = build(public_key_file=path)
    first = auth.authenticate(token())
    assert auth.authenticate(token()) is not None
    os.utime(path, (2, 2))  # another stat, the same keys: verified tokens stay verified
    again = token()
    assert auth.authenticate(again) is auth.authenticate(again)
    assert auth.authenticate(token()) == first


# --- JWK sets ---------------------------------------------------------------------------------------------


def test_a_jwks_file_is_read_again(build, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(jwk(KEY, "a")))
    auth = build(jwks_file=path)
    auth.authenticate(token(KEY, "a"))
    with pytest.raises(Unauthorized, match="kid"):
        auth.authenticate(token(OTHER, "b"))
    path.write_bytes(jwks(jwk(KEY, "a"), jwk(OTHER, "b")))
    auth.authenticate(token(OTHER, "b"))
    auth.authenticate(token(KEY, "a"))


NO_KEYS = [
        b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"{" * 99999, b"[" * 99999,
        jwks(1, None, [], "x"),
        jwks({"kty": "oct", "k": "c2VjcmV0"}),
        jwks({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        jwks({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}),
        jwks(EC | {"crv": "P-384"}),
        jwks(EC | {"alg": "RS256"}),
        jwks(EC | {"alg": "ES384"}),
        jwks(EC | {"use": "enc"}),
        jwks(EC | {"kty": "OKP"}),
        jwks(EC | {"y": EC["x"]}),
        jwks(ED | {"crv": "X25519"}),
        jwks(ED | {"crv": "Ed448"}),
        jwks(ED | {"alg": "ES256"}),
        jwks(ED | {"x": "AA"}),
        jwks(ED | {"x": "A" * 99999}),
        jwks(ECKey.generate_key("P-384").as_dict(private=False)),
        jwks(ECKey.generate_key("secp256k1").as_dict(private=False)),
        jwks(jwk(alg="ES256")),
        jwks(jwk(alg="HS256")),
        jwks(jwk(use="enc")),
        jwks(jwk(alg="RS512")),
        jwks(jwk(alg="RSA-OAEP")),
        jwks(jwk(key_ops=["encrypt"])),
        jwks(jwk(key_ops="verify")),
        jwks(jwk(kid=7)),
        jwks(jwk(n=1)),
        jwks(jwk(n="")),
        jwks(jwk(n="é" * 400)),
        jwks(jwk(e="Ag")),
        jwks(jwk(n="A" * 342)),
        jwks(jwk(n="_" * 99999)),
        jwks(RSAKey.import_key(rsa.generate_private_key(65537, 2048)).as_dict(private=False) | {"n": "_" * 340}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NO_KEYS)))  # their keys differ in each process
def test_no_start_with_a_jwk_set_without_a_usable_key(build, tmp_path, number):
    path = tmp_path / "jwks.json"
    path.write_bytes(NO_KEYS[number])
    with pytest.raises(ConfigError) as e:
        build(jwks_file=path)
    assert e.value.place == "auth.jwt.jwks_file"


def test_a_private_jwk_counts_as_its_public_key(build, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(KEY.as_dict(private=True), {"kty": "quantum"}))
    build(jwks_file=path).authenticate(token())


def test_a_key_is_found_by_its_kid(build, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(jwk(KEY, "a", use="sig", alg="RS256"), jwk(OTHER, "b")))
    auth = build(jwks_file=path)
    auth.authenticate(token(KEY))
    auth.authenticate(token(OTHER))
    with pytest.raises(Unauthorized, match="signature"):
        auth.authenticate(token(OTHER, "a"))
    path.write_bytes(jwks(jwk(OTHER, "a"), jwk(KEY, "a")))
    auth.authenticate(token(KEY, "a"))
    path.write_bytes(jwks(jwk(KEY)))
    auth.authenticate(token(KEY, "any"))


def test_the_number_of_keys_tried_is_limited(build, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(*[jwk(OTHER, f"k{n}") for n in range(16)], jwk(KEY, "a")))
    auth = build(jwks_file=path)
    auth.authenticate(token(KEY, "a"))
    with pytest.raises(Unauthorized, match="signature"):
        auth.authenticate(token(KEY))


def test_issuing_uses_the_kid_of_the_set(build, tmp_path):
    path, private = tmp_path / "jwks.json", tmp_path / "private.pem"
    path.write_bytes(jwks(jwk(OTHER, "b"), jwk(KEY, "a")))
    private.write_bytes(KEY.as_pem(private=True))
    auth = build(jwks_file=path, private_key_file=private)
    issued = auth.issue(user="a", roles=[], seconds=60)
    assert json.loads(base64.urlsafe_b64decode(issued.split(".")[0] + "=="))["kid"] == "a"
    auth.authenticate(issued)


# --- JWKS by URL ------------------------------------------------------------------------------------------


def test_keys_are_fetched_once_and_again_when_old(build, idp, ticks):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url, jwks_cache=300)
    kept = token(KEY, "a")
    principal = auth.authenticate(kept)
    ticks.now += 299
    auth.authenticate(token(KEY, "a"))
    assert idp.asked == 1
    ticks.now += 1
    assert auth.authenticate(kept) is principal  # the same keys: verified tokens stay verified
    assert idp.asked == 2
    idp.body = jwks(jwk(OTHER, "b"))
    ticks.now += 300
    with pytest.raises(Unauthorized, match="kid"):
        auth.authenticate(kept)
    auth.authenticate(token(OTHER, "b"))


def test_an_unknown_kid_causes_at_most_one_fetch_in_ten_seconds(build, idp, ticks):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url)
    for n in range(50):
        with pytest.raises(Unauthorized, match="kid"):
            auth.authenticate(token(OTHER, f"b{n}"))
    assert idp.asked == 2
    idp.body = jwks(jwk(KEY, "a"), jwk(OTHER, "b"))
    with pytest.raises(Unauthorized, match="kid"):
        auth.authenticate(token(OTHER, "b"))
    ticks.now += 10
    auth.authenticate(token(OTHER, "b"))
    assert idp.asked == 3


def test_a_rotation_of_keys_is_noticed_at_once(build, idp):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url)
    idp.body = jwks(jwk(OTHER, "b"))
    auth.authenticate(token(OTHER, "b"))
    with pytest.raises(Unauthorized):
        auth.authenticate(token(KEY, "a"))


@pytest.mark.parametrize("trouble", ["down", "500", "empty", "torn", "huge", "cut", "no-content"])
def test_old_keys_stay_in_use_while_the_provider_fails(build, idp, ticks, caplog, trouble):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url, jwks_cache=60)
    if trouble == "down":
        idp.stop()
    elif trouble == "cut":
        idp.cut = True
    else:
        idp.status = {"500": 500, "no-content": 204}.get(trouble, 200)
        idp.body = {"empty": jwks(), "torn": b'{"keys": [', "huge": b" " * ((1 << 20) + 1)}.get(trouble, b"")
    ticks.now += 60
    with caplog.at_level(logging.ERROR, "artstore.jwt"):
        for _ in range(20):
            auth.authenticate(token(KEY, "a"))
    assert len(caplog.records) == 1
    assert "stay in use" in caplog.text
    asked = idp.asked
    ticks.now += 9
    auth.authenticate(token(KEY, "a"))
    assert idp.asked == asked
    auth.check()
    if trouble != "down":
        idp.cut, idp.status, idp.body = False, 200, jwks(jwk(OTHER, "b"))
        ticks.now += 1
        auth.authenticate(token(OTHER, "b"))


@pytest.mark.parametrize("status", [404, 500, 301])
def test_no_start_when_the_provider_has_no_keys(build, idp, status):
    idp.status = status
    with pytest.raises(Unavailable, match=f"^auth.jwt.jwks_url: .* {status} "):
        build(jwks_url=idp.url)


def test_no_start_when_the_document_is_no_jwk_set(build, idp):
    idp.body = b"<html>"
    with pytest.raises(ConfigError) as e:
        build(jwks_url=idp.url)
    assert (e.value.place, bool(e.value.cure)) == ("auth.jwt.jwks_url", True)


def test_no_start_when_the_provider_is_down(build, idp):
    idp.stop()
    with pytest.raises(Unavailable, match="cannot be fetched"):
        build(jwks_url=idp.url)


def test_no_start_when_the_provider_hangs(build, idp):
    idp.gate.clear()
    with pytest.raises(Unavailable, match="timed out"):
        build(jwks_url=idp.url, timeout=0.2)


def test_a_redirect_leads_to_no_other_server(build, idp, tmp_path):
    secret = tmp_path / "jwks.json"
    secret.write_bytes(jwks(jwk()))
    target = Provider()
    target.body = jwks(jwk(KEY, "a"))
    idp.status = 302
    port = idp.url.split(":")[2].split("/")[0]
    try:
        for location in (
            f"file://{secret}", "ftp://127.0.0.1:9/jwks", "https://127.0.0.1:9/jwks", target.url,
            target.url.removeprefix("http:"), f"http://localhost:{port}/jwks", f"https://127.0.0.1:{port}/jwks",
            f"http://u@127.0.0.1:{port}/jwks", "http://127.0.0.1:99999999/jwks", "http://[/jwks",
        ):  # fmt: skip
            idp.location = location
            with pytest.raises(Unavailable, match=r"302|no URL"):
                build(jwks_url=idp.url)
        assert target.asked == 0
    finally:
        target.stop()


def test_a_redirect_to_another_path_is_followed(build, idp):
    idp.body = jwks(jwk(KEY, "a"))
    idp.moved = {"/jwks": "/new/keys"}
    build(jwks_url=idp.url).authenticate(token(KEY, "a"))
    assert idp.asked == 2
    idp.moved = {"/jwks": "/jwks"}
    with pytest.raises(Unavailable, match="302"):
        build(jwks_url=idp.url)
    assert idp.asked < 20


def test_one_thread_fetches_while_the_others_use_the_old_keys(build, idp, ticks):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url, jwks_cache=60)
    idp.gate.clear()
    idp.entered.clear()
    ticks.now += 60
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(auth.authenticate, token(KEY, "a"))
        assert idp.entered.wait(10)
        for _ in range(10):
            auth.authenticate(token(KEY, "a"))
        assert not slow.done()
        idp.gate.set()
        assert slow.result().id == "u-1"
    assert idp.asked == 2


def test_many_threads_with_a_new_kid_fetch_once(build, idp):
    idp.body = jwks(jwk(KEY, "a"))
    auth = build(jwks_url=idp.url)
    idp.body = jwks(jwk(OTHER, "b"))
    tokens = [token(OTHER, "b", sub=f"u-{n}") for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert [p.id for p in pool.map(auth.authenticate, tokens)] == [f"u-{n}" for n in range(16)]
    assert idp.asked == 2
