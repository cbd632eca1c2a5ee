"""The naming `dated`: its decisions beyond the contract of every naming."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.spi import Context, NoSettings, Parsed
from artstore_naming.dated import DatedNaming

AT = datetime(2025, 1, 11, 15, 30, 45, tzinfo=UTC)
ID = "01945599-5a03-7d21-b5f0-1c9ea1b2c3d4"
NOWHERE = Path("/nonexistent")
TAIL = "_20250111T153045_a1b2c3d4"

naming = DatedNaming(NoSettings(), Context(home=NOWHERE, files=NOWHERE, state=NOWHERE))


def make(original: str, user: str = "ivanov") -> str:
    return naming.name(file_id=ID, original_filename=original, username=user, at=AT).filename


def read(filename: str) -> Parsed:
    parsed = naming.parse(filename)
    assert parsed is not None
    return parsed


def test_the_name_of_the_example():
    name = naming.name(file_id=ID, original_filename="report.pdf", username="ivanov", at=AT)
    assert name.filename == "report_ivanov_20250111T153045_a1b2c3d4.pdf"
    assert name.directory == "2025/01/11/15"
    assert name.key == "2025/01/11/15/report_ivanov_20250111T153045_a1b2c3d4.pdf"
    assert read(name.filename) == Parsed(
        stem="report", user="ivanov", timestamp="20250111T153045", uuid="a1b2c3d4", ext="pdf"
    )


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("archive.tar.gz", f"archive.tar_ivanov{TAIL}.gz"),
        ("README", f"README_ivanov{TAIL}"),
        ("", f"file_ivanov{TAIL}"),
        ("...", f"file_ivanov{TAIL}"),
        ("   ", f"file_ivanov{TAIL}"),
        ("   .pdf", f"_pdf_ivanov{TAIL}"),
        (".bashrc", f"_bashrc_ivanov{TAIL}"),
        ("..hidden.txt", f"_hidden_ivanov{TAIL}.txt"),
        ("report.pdf. ", f"report_ivanov{TAIL}.pdf"),
        (" report .pdf", f"report_ivanov{TAIL}.pdf"),
        ("a/b\\c.t?t", f"a_b_c_ivanov{TAIL}.t_t"),
        ('<>:"|?*', f"________ivanov{TAIL}"),
        ("tab\there\x7f\x85.txt", f"tab_here___ivanov{TAIL}.txt"),
        ("pic\u202egpj.exe", f"pic_gpj_ivanov{TAIL}.exe"),
        ("line\u2028para\u2029.txt", f"line_para__ivanov{TAIL}.txt"),
        ("lone\ud800.t\udc80t", f"lone__ivanov{TAIL}.t_t"),
        ("e\u0301tude.pdf", f"\u00e9tude_ivanov{TAIL}.pdf"),
        ("con", f"con__ivanov{TAIL}"),
        ("CON.txt", f"CON__ivanov{TAIL}.txt"),
        ("nul.tar.gz", f"nul_.tar_ivanov{TAIL}.gz"),
        ("com1 .x.txt", f"com1_ .x_ivanov{TAIL}.txt"),
        ("console.txt", f"console_ivanov{TAIL}.txt"),
        ("a_b_c.txt", f"a_b_c_ivanov{TAIL}.txt"),
        ("Mr. Smith went to Washington", f"Mr. Smith went to Washington_ivanov{TAIL}"),
        ("отчёт.pdf", f"отчёт_ivanov{TAIL}.pdf"),
    ],
)
def test_odd_originals_become_safe_stems(original, expected):
    assert make(original) == expected


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("ivan_petrov", "ivan-petrov"),
        ("ivanov@example.org", "ivanov@example.org"),
        ("a/b", "a-b"),
        ("___", "---"),
        ("", "unknown"),
        (" ", "unknown"),
        ("Иван Петров", "Иван Петров"),
        ("u" * 300, "u" * 45 + "..."),
    ],
)
def test_users_become_safe_parts_of_a_name(user, expected):
    name = make("a_b.txt", user)
    assert name == f"a_b_{expected}{TAIL}.txt"
    assert read(name).user == expected


def test_the_longest_names_fit_and_end_in_an_ellipsis():
    ascii_name = make("x" * 5000 + ".pdf")
    assert len(ascii_name) == 200
    assert read(ascii_name).stem.endswith("x...")
    wide = make("文" * 5000 + "." + "文" * 13, "文" * 500)
    assert 215 < len(wide.encode()) <= 220
    assert read(wide).stem.endswith("文...")
    assert read(wide).ext == "文" * 13


def test_a_name_of_exactly_200_characters_is_not_cut():
    room = 200 - len(f"_ivanov{TAIL}.pdf")
    assert read(make("x" * room + ".pdf")).stem == "x" * room
    assert read(make("x" * (room + 1) + ".pdf")).stem == "x" * (room - 3) + "..."


def test_a_suffix_too_long_for_an_extension_stays_in_the_stem():
    parsed = read(make("notes." + "x" * 21))
    assert (parsed.stem, parsed.ext) == ("notes." + "x" * 21, "")
    assert read(make("notes." + "x" * 20)).ext == "x" * 20


@pytest.mark.parametrize("cluster", ["e\u0323\u0301", "👩🏽\u200d🚀", "नि", "✌\ufe0f"])
@pytest.mark.parametrize("shift", range(12))
def test_a_cut_never_splits_a_visible_character(cluster, shift):
    cluster = unicodedata.normalize("NFC", cluster)
    stem = read(make("x" * shift + cluster * 200)).stem
    assert stem.endswith("...")
    kept = stem[shift:-3]
    assert kept == cluster * (len(kept) // len(cluster))


def test_one_endless_cluster_of_combining_characters_is_cut():
    assert read(make("a" + "\u0301" * 999)).stem.endswith("...")
    assert read(make("\u200d" * 999)).stem == "_..."


def test_a_cut_stem_is_no_device_name():
    assert read(make("con" + " " * 300 + "x")).stem == "con_..."


@given(
    original=st.text(st.characters(exclude_categories=())), user=st.text(st.characters(exclude_categories=()))
)
def test_every_name_parses_into_its_parts(original, user):
    name = make(original, user)
    parsed = read(name)
    assert (parsed.timestamp, parsed.uuid) == ("20250111T153045", "a1b2c3d4")
    dot = "." if parsed.ext else ""
    assert f"{parsed.stem}_{parsed.user}{TAIL}{dot}{parsed.ext}" == name
    # Parsing does not depend on the stem: a user that parses with one stem parses with every stem.
    assert parsed.user == read(make("x", user)).user
    assert parsed.stem == read(make(original, "x")).stem or parsed.stem.endswith("...")
    assert parsed.ext == read(make(original, "x")).ext


@given(
    original=st.text(st.characters(exclude_categories=())),
    user=st.text(st.characters(exclude_categories=())),
    long=st.booleans(),
)
def test_each_attempt_gives_another_name_that_parses_and_fits(original, user, long):
    original *= 200 if long else 1
    names = [
        naming.name(file_id=ID, original_filename=original, username=user, at=AT, attempt=n)
        for n in (0, 1, 2, 9, 98, 99)
    ]
    assert {name.directory for name in names} == {"2025/01/11/15"}
    filenames = [name.filename for name in names]
    assert len(set(filenames)) == len(filenames)
    for n, filename in zip((0, 1, 2, 9, 98, 99), filenames, strict=True):
        parsed = read(filename)
        assert (parsed.timestamp, parsed.uuid) == ("20250111T153045", "a1b2c3d4")
        assert (parsed.user, parsed.ext) == (read(filenames[0]).user, read(filenames[0]).ext)
        assert parsed.stem.endswith(f"-{n + 1}" if n else "")
        assert naming.carries(filename, ID)
        assert len(filename) <= 200
        assert len((filename + ".attr.json").encode()) <= 230


def test_the_second_attempt_is_numbered():
    name = naming.name(file_id=ID, original_filename="report.pdf", username="ivanov", at=AT, attempt=1)
    assert name.filename == f"report-2_ivanov{TAIL}.pdf"


def test_a_stored_name_as_the_original_filename_parses():
    once = make("report.pdf")
    twice = read(make(once))
    assert twice.stem == once.removesuffix(".pdf")
    assert (twice.user, twice.ext) == ("ivanov", "pdf")
    inside = read(make(f"x.y_bob{TAIL}", "a_b"))
    assert (inside.user, inside.ext) == ("a-b", "")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "report.pdf",
        f"_ivanov{TAIL}.pdf",
        f"report_{TAIL}.pdf",
        f"report_ivanov{TAIL}.",
        f"report_ivanov{TAIL}.tar.gz",
        f"report_ivanov{TAIL}.pdf.attr.json",
        f"report_ivanov{TAIL}.{'x' * 21}",
        f"report_ivanov{TAIL}.p/f",
        f"re\nport_ivanov{TAIL}.pdf",
        f"re\udc80port_ivanov{TAIL}.pdf",
        f"report_ivanov{TAIL}.pdf\n",
        "report_ivanov_20250230T153045_a1b2c3d4.pdf",
        "report_ivanov_20251311T153045_a1b2c3d4.pdf",
        "report_ivanov_00000101T000000_a1b2c3d4.pdf",
        "report_ivanov_20250111T246060_a1b2c3d4.pdf",
        "report_ivanov_٢٠٢٥٠١١١T153045_a1b2c3d4.pdf",
        "report_ivanov_20250111T153045_A1B2C3D4.pdf",
        f"{'x' * 180}_ivanov{TAIL}",
    ],
)
def test_a_foreign_filename_does_not_parse(name):
    assert naming.parse(name) is None


def test_the_directory_follows_from_the_id():
    assert naming.directory_of(ID) == naming.directory_at(datetime(2025, 1, 11, 13, tzinfo=UTC))
    assert naming.directory_of(ID.upper()) == naming.directory_of(ID)
    assert naming.directory_of("00000000-0000-7000-8000-000000000000") == "1970/01/01/00"


def test_years_have_four_digits():
    assert naming.directory_at(datetime(33, 4, 3, 15, tzinfo=UTC)) == "0033/04/03/15"


def test_names_are_in_utc():
    moscow = AT.astimezone(timezone(timedelta(hours=3)))
    name = naming.name(file_id=ID, original_filename="a", username="b", at=moscow)
    assert name.key == f"2025/01/11/15/a_b{TAIL}"


def test_carries_compares_the_uuid_part_alone():
    name = make("report.pdf")
    assert naming.carries(name, ID)
    assert naming.carries(name, ID.upper())
    assert not naming.carries(name, ID[:-1] + "5")
    assert not naming.carries("x_a1b2c3d4_b_20250111T153045_00000000", ID)
