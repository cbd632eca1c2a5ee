"""Ids tell the time, and have one form."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.attr import timestamp
from artstore.errors import InvalidField
from artstore.ids import now, parse_id, uuid7


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_an_id_is_a_uuid7_of_its_millisecond(at: datetime) -> None:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    made = uuid.UUID(uuid7(at))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def test_ids_of_one_moment_differ() -> None:
    at = now()
    assert len({uuid7(at) for _ in range(10_000)}) == 10_000


@given(st.uuids())
def test_an_id_has_one_form(value: uuid.UUID) -> None:
    assert parse_id(str(value)) == str(value)
    assert parse_id(str(value).upper()) == str(value)


@pytest.mark.parametrize("text", [
    "", "x", "0194567e8c3a7d21b5f01c9ea1b2c3d4", "{0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4}",
    "urn:uuid:0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4", "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3dg",
    "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d４", " 194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4",
    "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4\n", "0194567e--c3a-7d21-b5f0-1c9ea1b2c3d4",
    "../../../../../../../../etc/passwd-xxx",
])  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        parse_id(text)


@given(st.text(max_size=40))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        assert len(parse_id(text)) == 36
    except InvalidField:
        pass


def test_now_is_cut_to_the_millisecond_that_sidecars_keep() -> None:
    at = now()
    assert datetime.fromisoformat(timestamp(at)) == at
