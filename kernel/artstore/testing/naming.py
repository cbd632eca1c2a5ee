"""What every naming must do: subclass `NamingSuite` and override `naming`."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from artstore.attr import SIDECAR_SUFFIX
from artstore.ids import FileId
from artstore.spi import API, Naming

AT = datetime(2025, 1, 11, 15, 30, 45, 123000, tzinfo=UTC)
ID = FileId("01945599-5a03-7d21-b5f0-1c9ea1b2c3d4")
_LAST_V7 = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

anything = st.text(st.characters(exclude_categories=()), max_size=400)
odd = st.text(st.sampled_from('_.-~ aAé\u0301\u200d\u202e/\\:*?"<>|\n\x00\x85\ud800👩🏽文'), max_size=300)
texts = st.one_of(anything, odd, st.text(max_size=12))
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
v7_times = st.datetimes(datetime(1970, 1, 1), _LAST_V7.replace(tzinfo=None), timezones=st.just(UTC))  # noqa: DTZ001
ids = st.uuids().map(lambda value: FileId(str(value)))

# Namings are pure, so one instance may serve every example of a property.
pure = settings(
    # Several classes inherit each property: a suite is made for that.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    deadline=None,
)


def v7(at: datetime, rest: int) -> FileId:
    """Return the UUIDv7 of a moment, with `rest` for the random bits."""
    ms = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    bits = ms << 80 | 0x7 << 76 | (rest >> 62 & 0xFFF) << 64 | 0b10 << 62 | rest & (1 << 62) - 1
    return FileId(str(UUID(int=bits)))


class NamingSuite:
    """The promises of `artstore.spi.Naming`."""

    @pytest.fixture
    def naming(self) -> Naming:
        raise NotImplementedError("override this fixture: return the naming under test")

    def test_it_names_its_contract(self, naming: Naming) -> None:
        assert naming.API == API

    def test_unknown_settings_are_refused(self, naming: Naming) -> None:
        with pytest.raises(ValidationError):
            naming.Settings.model_validate({"no_such_setting": 1})

    @pure
    @given(original=texts, user=texts, at=times, file_id=ids)
    @example(original="", user="", at=AT, file_id=ID)
    @example(original="a" + "\u0301" * 999, user="_" * 999, at=AT, file_id=ID)
    @example(original="x." + "文" * 999, user="文" * 999, at=AT, file_id=ID)
    @example(original="..", user="..", at=AT, file_id=ID)
    @example(original="report.x_bob_20250111T153045_a1b2c3d4", user="a_b", at=AT, file_id=ID)
    def test_a_name_is_one_plain_component_and_is_parsed_back(
        self, naming: Naming, original: str, user: str, at: datetime, file_id: FileId
    ) -> None:
        name = naming.name(file_id=file_id, original_filename=original, username=user, at=at)
        assert name.directory == naming.directory_at(at)
        filename = name.filename
        assert len((filename + SIDECAR_SUFFIX).encode()) <= 230
        assert not filename.startswith(".")
        assert filename == filename.rstrip(". ")
        assert not set(filename) & set('<>:"/\\|?*\x7f')
        assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in filename)
        assert unicodedata.is_normalized("NFC", filename)
        parsed = naming.parse(filename)
        assert parsed is not None
        assert parsed.stem
        assert parsed.user
        for part in (parsed.stem, parsed.user, parsed.timestamp, parsed.uuid, parsed.ext):
            assert part in filename
        assert file_id.endswith(parsed.uuid)
        assert naming.carries(filename, file_id)
        assert naming.parse(filename + SIDECAR_SUFFIX) is None

    @pure
    @given(original=texts, user=texts, at=times, file_id=ids)
    def test_the_same_arguments_give_the_same_name(
        self, naming: Naming, original: str, user: str, at: datetime, file_id: FileId
    ) -> None:
        first = naming.name(file_id=file_id, original_filename=original, username=user, at=at)
        assert first == naming.name(file_id=file_id, original_filename=original, username=user, at=at)

    @pure
    @given(original=texts, user=texts, file_id=ids)
    @example(original="文" * 999, user="文" * 999, file_id=ID)
    def test_each_attempt_gives_another_name_in_the_same_directory(
        self, naming: Naming, original: str, user: str, file_id: FileId
    ) -> None:
        names = [
            naming.name(file_id=file_id, original_filename=original, username=user, at=AT, attempt=n)
            for n in (0, 1, 2, 63)
        ]
        assert len({name.filename for name in names}) == len(names)
        assert {name.directory for name in names} == {naming.directory_at(AT)}
        for name in names:
            assert len((name.filename + SIDECAR_SUFFIX).encode()) <= 230
            assert naming.parse(name.filename) is not None
            assert naming.carries(name.filename, file_id)

    @pure
    @given(file_id=ids, other=ids)
    def test_another_id_gives_another_name(self, naming: Naming, file_id: FileId, other: FileId) -> None:
        if file_id[-8:] == other[-8:]:
            return
        mine = naming.name(file_id=file_id, original_filename="a.txt", username="ivanov", at=AT)
        theirs = naming.name(file_id=other, original_filename="a.txt", username="ivanov", at=AT)
        assert mine != theirs
        assert not naming.carries(mine.filename, other)

    @pure
    @given(text=st.one_of(texts, st.from_regex(r"\A.{0,9}_.{0,9}_\d{8}T\d{6}_[0-9a-f]{8}(\..{0,9})?\Z")))
    def test_any_text_is_parsed_without_an_exception(self, naming: Naming, text: str) -> None:
        naming.parse(text)
        naming.carries(text, ID)
        naming.directory_of(FileId(text))

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "notes.txt", "Thumbs.db", ".nfs0000a1b2", "element.json"]
    )
    def test_foreign_names_are_not_parsed(self, naming: Naming, name: str) -> None:
        assert naming.parse(name) is None
        assert not naming.carries(name, ID)

    @pure
    @given(at=v7_times, rest=st.integers(0, (1 << 74) - 1))
    @example(at=_LAST_V7, rest=0)
    def test_the_directory_of_a_uuid7_is_that_of_its_time(
        self, naming: Naming, at: datetime, rest: int
    ) -> None:
        assert naming.directory_of(v7(at, rest)) == naming.directory_at(at)

    @pytest.mark.parametrize(
        "file_id",
        [
            "a3bb189e-8bf9-4c8a-9d5b-1c9ea1b2c3d4",  # version 4
            "01945599-5a03-7d21-75f0-1c9ea1b2c3d4",  # another variant
            "ffffffff-ffff-7d21-b5f0-1c9ea1b2c3d4",  # the year 10889
            "00000000-0000-0000-0000-000000000000",
            "not-an-id",
            "",
        ],
    )
    def test_an_id_without_a_time_has_no_directory(self, naming: Naming, file_id: FileId) -> None:
        assert naming.directory_of(file_id) is None

    @pure
    @given(one=times, two=times)
    def test_directories_sort_by_time(self, naming: Naming, one: datetime, two: datetime) -> None:
        earlier, later = sorted((one, two))
        assert naming.directory_at(earlier) <= naming.directory_at(later)
        for part in naming.directory_at(one).split("/"):
            assert part.strip(".")

    @pure
    @given(at=times)
    def test_directories_and_what_holds_them_are_its_own(self, naming: Naming, at: datetime) -> None:
        parts = naming.directory_at(at).split("/")
        for count in range(1, len(parts) + 1):
            assert naming.is_directory("/".join(parts[:count]))

    def test_the_time_zone_makes_no_difference(self, naming: Naming) -> None:
        there = AT.astimezone(timezone(timedelta(hours=-11, minutes=-30)))
        assert naming.directory_at(there) == naming.directory_at(AT)
        assert naming.name(file_id=ID, original_filename="a", username="b", at=there) == naming.name(
            file_id=ID, original_filename="a", username="b", at=AT
        )
