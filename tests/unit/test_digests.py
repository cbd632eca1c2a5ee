import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.errors import ArtstoreError, DigestMismatch, InvalidField, MalformedRequest
from artstore_http.digests import agreed_digest, parse_digest, parse_sha256_field, repr_digest

HEX = hashlib.sha256(b"hello").hexdigest()
B64 = base64.b64encode(bytes.fromhex(HEX)).decode()


@given(data=st.binary(max_size=50))
def test_round_trip(data):
    digest = hashlib.sha256(data).hexdigest()
    assert parse_digest(repr_digest(digest), name="Repr-Digest") == digest


@pytest.mark.parametrize(
    "header",
    [
        f"sha-256=:{B64}:",
        f" sha-256=:{B64.rstrip('=')}: ",
        f"sha-512=:AAAA:, sha-256=:{B64}:",
        f"sha-256=:{B64}: ,\tmd5=:AAAA:;p=1; q",
        f"sha-256=:AAAA:, sha-256=:{B64}:",
    ],
)
def test_read(header):
    assert parse_digest(header, name="Repr-Digest") == HEX


@pytest.mark.parametrize("header", ["sha-512=:AAAA:", "md5=::, sha-512=:AA==:"])
def test_others_are_left_alone(header):
    assert parse_digest(header, name="Repr-Digest") is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "sha-256",
        "sha-256=",
        f"sha-256={B64}",
        f"SHA-256=:{B64}:",
        f"sha-256=:{B64}:,",
        f"sha-256=:{B64}: sha-512=:AAAA:",
        "sha-256=:AAAA:",
        "sha-256=::",
        f"sha-256=:{B64}A:",
        f"sha-256=:A{B64}:",
        "sha-256=:" + "-" * 43 + "=:",
        f"sha-256=:{B64}:, sha-256=:AAAA:",
        f"sha-256=:{HEX}:",
    ],
)
def test_refused(header):
    with pytest.raises(MalformedRequest):
        parse_digest(header, name="Content-Digest")


@given(header=st.text() | st.text("sha-256=:,; AB").map(lambda t: "sha-256=:" + t))
def test_nothing_else_is_raised(header):
    try:
        parse_digest(header, name="Repr-Digest")
        parse_sha256_field(header)
    except ArtstoreError:
        pass


def test_the_field():
    assert parse_sha256_field(HEX.upper()) == HEX
    for bad in ("", HEX[:-1], HEX + "0", HEX + "\n", "g" * 64, "٣" * 64):
        with pytest.raises(InvalidField) as caught:
            parse_sha256_field(bad)
        assert caught.value.field == "sha256"


def test_agreement():
    assert agreed_digest(None, None) is None
    assert agreed_digest(HEX, None, HEX) == HEX
    with pytest.raises(DigestMismatch):
        agreed_digest(HEX, "0" * 64)
