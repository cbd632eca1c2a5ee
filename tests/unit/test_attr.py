"""Attr and its sidecar: what goes in comes out, and nothing hostile gets further than `Damaged`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artstore.attr import MAX_DEPTH, SIDECAR_LIMIT, Attr, decode, sidecar_key, validate, with_changed_bytes
from artstore.errors import Damaged, InvalidField
from artstore.testing import make_attr

KNOWN = set(Attr.model_fields)

plain = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(plain, below, max_size=3),
    max_leaves=8,
)
metadata = st.dictionaries(plain, values, max_size=4)
tags = st.lists(plain.filter(bool), max_size=4).map(tuple)


def sidecar(**changes: Any) -> bytes:
    return json.dumps(json.loads(make_attr().encode()) | changes).encode()


KEY = make_attr(file_id="0194567e-8c3a-7000-8000-000000000001").key


def of_key(**changes: Any) -> bytes:
    """A sidecar that belongs to KEY."""
    return json.dumps(
        json.loads(make_attr(file_id="0194567e-8c3a-7000-8000-000000000001").encode()) | changes
    ).encode()


@given(
    description=plain, tags=tags, metadata=metadata, size=st.integers(0, 2**53 - 1),
    extra=st.dictionaries(st.text("abcxyzäß_", min_size=1, max_size=9).filter(lambda k: k not in KNOWN), values),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_what_is_encoded_decodes_to_the_same(
    description: str, tags: tuple[str, ...], metadata: dict[str, Any], size: int, extra: dict[str, Any]
) -> None:
    attr = make_attr(description=description, tags=tags, metadata=metadata, size=size, **extra)
    try:
        encoded = attr.encode()
    except InvalidField:
        assert len(attr.model_dump_json().encode()) > SIDECAR_LIMIT
        return
    assert len(encoded) <= SIDECAR_LIMIT
    again = decode(encoded, attr.key)
    assert again == attr
    assert again.encode() == encoded
    assert json.loads(encoded).keys() >= extra.keys()


def test_unknown_keys_are_kept_through_a_rewrite() -> None:
    attr = decode(of_key(colour={"of": ["unknown", 1, None]}, x_new_in_v9=1.5), KEY)
    rewritten = json.loads(attr.model_copy(update={"revision": 2}).encode())
    assert rewritten["colour"] == {"of": ["unknown", 1, None]}
    assert rewritten["x_new_in_v9"] == 1.5
    assert rewritten["revision"] == 2


def test_the_limit_is_4096_bytes_and_not_one_more() -> None:
    empty = len(make_attr(metadata={"x": ""}).model_dump_json().encode())
    longest = make_attr(metadata={"x": "y" * (SIDECAR_LIMIT - empty)})
    assert len(longest.encode()) == SIDECAR_LIMIT
    assert decode(longest.encode(), longest.key) == longest
    with pytest.raises(InvalidField, match="4097 bytes"):
        make_attr(metadata={"x": "y" * (SIDECAR_LIMIT - empty + 1)}).encode()
    with pytest.raises(Damaged, match="larger than 4096"):
        decode(longest.encode() + b" ", longest.key)


@given(st.integers(0, 4), st.booleans())
def test_a_touched_sidecar_says_the_same_in_other_bytes(left: int, indented: bool) -> None:
    empty = len(make_attr(metadata={"x": ""}).model_dump_json().encode())
    size = 10 if indented else SIDECAR_LIMIT - empty - left
    attr = make_attr(metadata={"x": "y" * size})
    seen = {attr.encode()}
    sidecar = attr.encode()
    for _ in range(12):
        sidecar = with_changed_bytes(sidecar)
        assert len(sidecar) <= SIDECAR_LIMIT
        assert decode(sidecar, attr.key) == attr
        assert sidecar not in seen
        seen.add(sidecar)


def test_a_sidecar_that_people_can_read() -> None:
    text = make_attr(description="год").encode().decode()
    assert text.startswith('{\n  "schema_version": 1,\n')
    assert "год" in text


@pytest.mark.parametrize("content", [
    b"", b" ", b"null", b"[]", b'"x"', b"{}", b"{", b"\xff\xfe", b"\x00" * 10, b"[" * 4096, b'{"a":' * 800,
    b"9" * 4096, b'{"metadata":' + b"[" * 4000, of_key()[:-1], of_key() + b"x", b"\xef\xbb\xbf" + of_key(),
    of_key().replace(b"report.pdf", b"\xc3\x28", 1),
])  # fmt: skip
def test_what_is_no_sidecar_is_damaged(content: bytes) -> None:
    with pytest.raises(Damaged) as damaged:
        decode(content, KEY)
    assert ": :" not in damaged.value.detail


@pytest.mark.parametrize("changes", [
    {"schema_version": 2}, {"schema_version": 0}, {"schema_version": None}, {"schema_version": "x"},
    {"file_id": "no"}, {"file_id": "0194567E-8C3A-7000-8000-000000000001"}, {"file_id": 1},
    {"size": -1}, {"size": 2**53}, {"size": 1.5}, {"size": "many"}, {"size": 10**300}, {"size": None},
    {"revision": 0}, {"revision": 2**53}, {"revision": 10**300},
    {"sha256": "0" * 63}, {"sha256": "G" * 64}, {"sha256": "0" * 64 + "\n"},
    {"uploaded_at": "yesterday"}, {"uploaded_at": "2025-13-01T00:00:00.000Z"}, {"uploaded_at": 1736609445},
    {"uploaded_at": "2025-01-11T15:30:45.123Z\n"}, {"updated_at": "2025-01-11T15:30:45Z"},
    {"original_filename": "../x"}, {"original_filename": ""}, {"original_filename": "a" * 256},
    {"original_filename": "nul"}, {"original_filename": "a\u202eb"}, {"original_filename": "..."},
    {"content_type": "text"}, {"content_type": "text/plain\r\nX: y"},
    {"tags": "a"}, {"tags": [""]}, {"tags": [1]}, {"tags": ["a" * 101]}, {"tags": ["a\n"]},
    {"metadata": []}, {"metadata": "x"}, {"uploaded_by": ""}, {"uploaded_by": "a\x00"},
    {"storage_filename": "other.pdf"}, {"storage_path": "2025/01/11/16"}, {"storage_path": "../../etc"},
    {"storage_filename": ""}, {"storage_path": None},
])  # fmt: skip
def test_a_field_that_cannot_be_is_damaged(changes: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        decode(of_key(**changes), KEY)


@pytest.mark.parametrize("field", sorted(KNOWN - {"schema_version", "description", "tags", "metadata"}))
def test_a_field_that_is_missing_is_damaged(field: str) -> None:
    fields = json.loads(of_key())
    del fields[field]
    with pytest.raises(Damaged, match=field):
        decode(json.dumps(fields).encode(), KEY)


@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_anything_at_all_is_damaged_at_worst(content: bytes) -> None:
    with pytest.raises(Damaged):
        decode(content, KEY)


@given(st.integers(0, len(of_key()) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_is_damaged_or_another_valid_attr(at: int, byte: int) -> None:
    content = bytearray(of_key())
    content[at] = byte
    try:
        attr = decode(bytes(content), KEY)
    except Damaged:
        return
    assert attr.key == KEY
    assert decode(attr.encode(), KEY) == attr


@given(st.sampled_from(sorted(KNOWN)), values)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_is_damaged_or_survives(field: str, value: Any) -> None:
    content = of_key(**{field: value})
    try:
        attr = decode(content, KEY)
        attr.encode()
    except (Damaged, InvalidField):
        return
    assert decode(attr.encode(), KEY) == attr


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["metadata", "future"])
def test_numbers_that_are_none(number: str, place: str) -> None:
    content = of_key(**{place: {"x": [1.25]}}).replace(b"1.25", number.encode())
    with pytest.raises(Damaged):
        decode(content, KEY)


def test_metadata_that_is_too_deep() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    with pytest.raises(Damaged, match="deeper"):
        decode(of_key(metadata=deep), KEY)
    assert decode(of_key(metadata=deep["a"]), KEY).metadata == deep["a"]


def test_an_unknown_key_that_is_very_deep_is_harmless() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    try:
        attr = decode(of_key(future=deep), KEY)
    except Damaged:
        return
    try:
        assert decode(attr.encode(), KEY) == attr
    except InvalidField:
        return


def test_an_attr_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_attr().size = 1  # type: ignore[misc]


def test_where_a_sidecar_lies() -> None:
    assert sidecar_key("2025/01/11/15/a.pdf") == "2025/01/11/15/a.pdf.attr.json"


@pytest.mark.parametrize(
    "changes",
    [{"description": "a\0"}, {"metadata": {"a": ["\0"]}}, {"metadata": {"\0": 1}}, {"tags": ("\0",)}],
)
def test_nul_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        validate(make_attr().model_dump() | changes)
