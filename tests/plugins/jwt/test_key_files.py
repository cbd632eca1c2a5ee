"""Key files as operators make them, with openssl itself: used whole, or refused with the line that is in the way."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from artstore.errors import ConfigError, Unauthorized
from artstore.spi import Context
from artstore_jwt.auth import JwtAuth
from artstore_jwt.pem import pem_keys

NEW_KEY = {
    "rsa": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ec": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ed25519": ["genpkey", "-algorithm", "ED25519"],
}
ALG = {"rsa": "RS256", "ec": "ES256", "ed25519": "EdDSA"}


def openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def keys() -> dict[str, bytes]:
    """A private key of each kind (PKCS #8), as `openssl genpkey` writes it."""
    return {kind: openssl(*arguments) for kind, arguments in NEW_KEY.items()}


@pytest.fixture(scope="module")
def second() -> bytes:
    return openssl(*NEW_KEY["rsa"])


def public(private: bytes) -> bytes:
    return openssl("pkey", "-pubout", stdin=private)


def certificate(private: bytes, subject: str = "/CN=idp") -> bytes:
    return _with_file(
        private, lambda key: openssl("req", "-x509", "-key", key, "-subj", subject, "-days", "2")
    )


def _with_file(content: bytes, make: Callable[[str], bytes]) -> bytes:
    with tempfile.NamedTemporaryFile() as f:
        f.write(content)
        f.flush()
        return make(f.name)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., JwtAuth]:
    def build(verify: bytes | None = None, sign: bytes | None = None) -> JwtAuth:
        settings = {}
        for name, content in (("public_key_file", verify), ("private_key_file", sign)):
            if content is not None:
                settings[name] = tmp_path / name
                settings[name].write_bytes(content)
        context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
        return JwtAuth(JwtAuth.Settings(**settings), context)

    return build


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "PKCS #8": lambda key: key,
    "SPKI": public,
    "certificate": certificate,
    "key and certificate (HAProxy)": lambda key: key + certificate(key),
    "with the text of openssl": lambda key: openssl("x509", "-text", stdin=certificate(key)),
    "CRLF": lambda key: public(key).replace(b"\n", b"\r\n"),
    "BOM": lambda key: b"\xef\xbb\xbf" + public(key),
    "UTF-16 of PowerShell": lambda key: public(key).decode().replace("\n", "\r\n").encode("utf-16"),
    "no last line break": lambda key: public(key).rstrip(),
    "blank lines and blanks": lambda key: b"\n\n" + public(key).replace(b"\n", b"  \n\t"),
    "indented (YAML)": lambda key: b"".join(b"    " + line + b"\n" for line in public(key).splitlines()),
    "comments": lambda key: b"# key of 2026\nsubject=CN = idp\n" + public(key) + b"# \xff end\n",
    "a commented key": lambda key: b"#" + public(key).replace(b"\n", b"\n#") + b"\n" + public(key),
}


@pytest.mark.parametrize("kind", list(NEW_KEY))
@pytest.mark.parametrize("form", list(FORMS))
def test_a_key_of_each_kind_is_used_in_each_form(
    keys: dict[str, bytes], build: Callable[..., JwtAuth], kind: str, form: str
) -> None:
    content = FORMS[form](keys[kind])
    (key,) = pem_keys(content).keys
    assert key.alg == ALG[kind]
    auth = build(content, keys[kind])
    token = auth.issue(user="ivanov", roles=["user"], seconds=60)
    assert auth.authenticate(token).id == "ivanov"


def test_keys_of_the_old_forms_of_openssl_are_used(
    keys: dict[str, bytes], build: Callable[..., JwtAuth]
) -> None:
    for kind, content in [
        ("rsa", openssl("rsa", "-traditional", stdin=keys["rsa"])),
        ("rsa", openssl("rsa", "-RSAPublicKey_out", stdin=keys["rsa"])),
        ("ec", openssl("ec", stdin=keys["ec"])),
        ("ec", openssl("ecparam", "-name", "prime256v1", "-genkey")),  # EC PARAMETERS before the key
    ]:
        assert [k.alg for k in pem_keys(content).keys] == [ALG[kind]]
    with_parameters = openssl("ecparam", "-name", "prime256v1", "-genkey")
    auth = build(sign=with_parameters)
    assert auth.authenticate(auth.issue(user="a", roles=[], seconds=60)).id == "a"


def test_every_key_of_a_concatenated_file_is_used(
    keys: dict[str, bytes], second: bytes, build: Callable[..., JwtAuth]
) -> None:
    content = (
        public(keys["rsa"]) + certificate(keys["ec"]) + b"the next one\n" + keys["ed25519"] + public(second)
    )
    assert sorted(k.alg for k in pem_keys(content).keys) == ["ES256", "EdDSA", "RS256", "RS256"]
    for private in (*keys.values(), second):
        auth = build(content, private)
        assert auth.authenticate(auth.issue(user="a", roles=[], seconds=60)).id == "a"
    token = auth.issue(user="a", roles=[], seconds=60)
    with pytest.raises(Unauthorized):
        build(openssl(*NEW_KEY["rsa"])).authenticate(token)


def test_a_key_that_comes_twice_is_one(keys: dict[str, bytes]) -> None:
    content = keys["rsa"] + public(keys["rsa"]) + certificate(keys["rsa"])
    assert len(pem_keys(content).keys) == 1


@pytest.mark.parametrize("kind", list(NEW_KEY))
def test_the_authority_of_a_chain_signs_no_tokens(
    keys: dict[str, bytes], second: bytes, build: Callable[..., JwtAuth], tmp_path: Path, kind: str
) -> None:
    """cert-manager writes the chain into tls.crt: leaf first, then the authorities. Their keys are others' keys."""
    (tmp_path / "ca.key").write_bytes(second)
    (tmp_path / "ca.crt").write_bytes(certificate(second, "/CN=authority"))
    (tmp_path / "leaf.key").write_bytes(keys[kind])
    request = openssl("req", "-new", "-key", str(tmp_path / "leaf.key"), "-subj", "/CN=idp")
    signer = ["-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key"), "-CAcreateserial"]
    leaf = openssl("x509", "-req", *signer, "-days", "2", stdin=request)
    for chain in (leaf + (tmp_path / "ca.crt").read_bytes(), (tmp_path / "ca.crt").read_bytes() + leaf):
        material = pem_keys(chain)
        assert [k.alg for k in material.keys] == [ALG[kind]]
        (note,) = material.unused
        assert "issued another certificate" in note
        auth = build(chain, keys[kind])
        auth.authenticate(auth.issue(user="a", roles=[], seconds=60))
    token = build(public(second), second).issue(user="a", roles=["admin"], seconds=60)
    with pytest.raises(Unauthorized):
        build(chain).authenticate(token)


def test_a_key_that_is_not_used_is_named_in_the_log(
    keys: dict[str, bytes], build: Callable[..., JwtAuth], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "artstore.jwt")
    entries = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret\nFORGED"},
        *[json.loads(json.dumps(k.key.as_dict(private=False))) for k in pem_keys(public(keys["rsa"])).keys],
    ]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": entries}))
    context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
    JwtAuth(JwtAuth.Settings(jwks_file=tmp_path / "jwks.json"), context)
    assert r"not used: key 1 (kid 'secret\nFORGED'): its kty is not RSA, EC or OKP" in caplog.text


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda key: b"", "holds no public key in PEM"),
    "comments alone": (lambda key: b"# put the key here\n", "holds no public key in PEM"),
    "a JWK set": (lambda key: b' {"keys": []}', "holds no public key in PEM: a JWK set belongs into jwks_file"),
    "OpenSSH": (lambda key: b"ssh-rsa AAAA ivanov@host\n", "OpenSSH"),
    "DER": (lambda key: openssl("pkey", "-pubout", "-outform", "DER", stdin=key), "DER"),
    "cut": (lambda key: _cut(public(key)), r"ends inside PUBLIC KEY \(line 1\): it was cut"),
    "a second one that is cut": (lambda key: public(key) + _cut(public(key)), r"ends inside PUBLIC KEY \(line 10\)"),
    "a first one that is cut": (
        lambda key: _cut(public(key)) + b"\n" + public(key), r"unexpected BEGIN PUBLIC KEY \(line \d+\) inside",
    ),
    "the end alone": (lambda key: public(key) + b"-----END PUBLIC KEY-----\n", r"unexpected END .* \(line 10\)"),
    "four dashes": (lambda key: public(key) + b"-----BEGIN PUBLIC KEY----\n", "line 10 that is not only the begin"),
    "in one line": (lambda key: public(key).replace(b"\n", b"\\n"), "line 1 that is not only the begin"),
    "damaged base64": (lambda key: public(key).replace(b"\nMI", b"\n%I"), r"no base64 in PUBLIC KEY \(line 1\)"),
    "damaged content": (lambda key: public(key).replace(b"\nMI", b"\nMM"), r"read in PUBLIC KEY \(line 1\)"),
    "a comment within": (lambda key: public(key).replace(b"\nMI", b"\n# new\nMI"), "no base64"),
    "a request": (
        lambda key: public(key) + _with_file(key, lambda f: openssl("req", "-new", "-key", f, "-subj", "/CN=a")),
        r"holds CERTIFICATE REQUEST \(line 10\)",
    ),
    "PKCS #7": (
        lambda key: _with_file(certificate(key), lambda f: openssl("crl2pkcs7", "-nocrl", "-certfile", f)),
        "holds PKCS7",
    ),
    "encrypted": (
        lambda key: openssl("pkcs8", "-topk8", "-passout", "pass:x", stdin=key), "is encrypted .*without a password",
    ),
    "encrypted, old form": (
        lambda key: openssl("rsa", "-traditional", "-aes128", "-passout", "pass:x", stdin=key), "is encrypted",
    ),
    "RSA-PSS": (
        lambda key: openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"), "an RSA-PSS key",
    ),
    "RSA-PSS public": (
        lambda key: public(openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048")),
        "an RSA-PSS key",
    ),
    "RSA-PSS certificate": (
        lambda key: certificate(openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048")),
        "an RSA-PSS key",
    ),
    "another curve": (
        lambda key: public(key) + public(openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")),
        r"PUBLIC KEY \(line 10\) an EC key on secp384r1",
    ),
    "X25519": (lambda key: public(openssl("genpkey", "-algorithm", "X25519")), "kind X25519"),
    "small": (
        lambda key: public(openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")), "1024 bits",
    ),
    "too many": (lambda key: public(key) * 65, "more than 64"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_file_that_cannot_be_used_whole_is_refused_by_name(
    keys: dict[str, bytes], build: Callable[..., JwtAuth], what: str
) -> None:
    make, words = REFUSED[what]
    with pytest.raises(ConfigError, match=words) as e:
        build(make(keys["rsa"]))
    assert (e.value.place, bool(e.value.cure)) == ("auth.jwt.public_key_file", True)


def test_two_private_keys_are_not_one_to_sign_with(
    keys: dict[str, bytes], second: bytes, build: Callable[..., JwtAuth]
) -> None:
    auth = build(sign=keys["rsa"] + second)
    with pytest.raises(ConfigError, match=r"holds 2 private keys \(lines 1 and 29\)"):
        auth.issue(user="a", roles=[], seconds=60)
