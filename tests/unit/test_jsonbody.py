import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.errors import MalformedRequest
from artstore_http.jsonbody import parse_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)


@given(value=values, ascii_only=st.booleans())
def test_what_json_writes_is_read(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), what="The body") == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":1,"a":1}',
        b'[{"a":{"b":1,"c":2,"b":3}}]',
        b"NaN",
        b"[-Infinity]",
        b"[1e999]",
        b"[-1e999]",
        b"[9223372036854775808]",
        b"[-9223372036854775808]",
        b"[" + b"9" * 5000 + b"]",
        b"[" * 21 + b"]" * 21,
        b'{"a":' * 21 + b"1" + b"}" * 21,
        b"[" * 60000,
        b'["\\ud800"]',
        b'{"\\udc00":1}',
        b'["\\ude00\\ud83d"]',
        b'{"a":1}x',
        b"{'a':1}",
        b'["a\nb"]',
        b"[1,]",
        b"[01]",
        b'"' + b'\\"' * 30000,
        b'"' + b"\\" * 60001,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_refused(body):
    begun = time.perf_counter()
    with pytest.raises(MalformedRequest) as caught:
        parse_json(body, what="The body")
    assert caught.value.detail.startswith("The body ")
    assert caught.value.detail.endswith(".")
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 20 + b"]" * 20,
        b"[" + b"[]," * 30 + b"{}]",
        b'["' + b"[{" * 100 + b'"]',
        b'["\\"' + b"[{" * 100 + b'\\\\"]',
        b'["\\ud83d\\ude00", "\\u0000"]',
        b"9223372036854775807",
        b"-9223372036854775807",
        b" null ",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_taken(body):
    assert parse_json(body, what="The body") == json.loads(body)


@given(body=st.binary() | st.text('[]{}":,\\u d8019e.-', max_size=60).map(str.encode))
def test_nothing_else_is_raised(body):
    try:
        json.dumps(parse_json(body, what="The body"), ensure_ascii=False, allow_nan=False).encode()
    except MalformedRequest:
        pass


def test_many_duplicates_are_found_fast():
    body = b"{" + b",".join(b'"%d":1' % (i % 6000) for i in range(7000)) + b"}"
    with pytest.raises(MalformedRequest, match="twice"):
        parse_json(body, what="The body")
