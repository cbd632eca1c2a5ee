"""Names of every sort survive the way in, and the way out."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import pytest

from support.servers import Answer, Element, file, part

NAMES = [
    "a",
    "report.pdf",
    "no extension",
    "Отчёт за год.docx",
    "报告.txt",
    "דוח.txt",
    "تقرير.pdf",
    "emoji 😀👨‍👩‍👧.png",
    "\u200e00000012-PHOTO-2024-05-01.jpg",
    "תשלום (\u200f1).pdf",
    "تقرير\u061c2024.pdf",
    "e\u0301 is not \u00e9.txt",
    "ﬁ ligature ﬀ.txt",
    "it's.txt",
    "100%.txt",
    "%41.txt",
    "a%20b.txt",
    "a+b&c=d;e#f?g.txt",
    "semi;colon, comma.txt",
    "<b>bold</b>".replace("/", "") + ".html",
    "pipe|star*colon:.txt",
    "trailing space ",
    " leading space",
    "trailing dot.",
    ".hidden",
    "..two dots",
    "...three.txt",
    "a..b",
    "tab-less but nbsp\u00a0.txt",
    "-rf",
    "~",
    "$HOME `id` $(id).sh",
    "_under_scores_20250111T153045_a1b2c3d4.pdf",
    "attr.json",
    "evil.attr.json",
    "filename*=UTF-8''x.txt",
    "UTF-8''x",
    "xn--caf-dma.com",
    "console.txt",
    "combining " + "\u0301" * 50,
    "𐍈 gothic, 𝒎𝒂𝒕𝒉.txt",
    "x" * 255,
    "я" * 255,
    "😀" * 255,
    "файл" * 60 + ".расширение",
]
QUOTED = ['say "hi".txt', '"', '"quoted"']


def exact(answer: Answer) -> str:
    """The name that a client with RFC 8187 sees."""
    header = answer.header("content-disposition") or ""
    match = re.fullmatch(
        r"attachment; filename=\"([ !#-\[\]-~]*)\"; filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]+)", header
    )
    assert match, header
    return unquote(match[2], errors="strict")


def check(element: Element, answer: Answer, name: str) -> None:
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.json()
    assert made["original_filename"] == name
    assert exact(element.download(made["file_id"])) == name
    assert len(made["storage_filename"].encode()) + len(".attr.json") <= 255
    found = element.get(f"/api/v1/files?filename={quote(name, safe='')}&limit=1000").json()["items"]
    assert made["file_id"] in [f["file_id"] for f in found]
    assert element.stored(f"{made['storage_path']}/{made['storage_filename']}")


@pytest.mark.parametrize("name", NAMES + QUOTED, ids=range(len(NAMES + QUOTED)))
def test_in_the_query(element: Element, name: str) -> None:
    check(element, element.post(b"x", name), name)


@pytest.mark.parametrize("name", NAMES + QUOTED, ids=range(len(NAMES + QUOTED)))
def test_in_a_form(element: Element, name: str) -> None:
    check(element, element.post_form([file(b"x", name)]), name)


def test_in_a_form_with_pairs_and_with_rfc_8187(element: Element) -> None:
    pair = part(b'name="file"; filename="say \\"hi\\" \\\\o.txt"'.replace(b" \\\\o", b""), b"x")
    check(element, element.post_form([pair]), 'say "hi".txt')
    extended = part(b"name=file; filename=\"x\"; filename*=utf-8'de'na%C3%AFve%22%2541.txt", b"x")
    check(element, element.post_form([extended]), 'naïve"%41.txt')
    bare = part(b"name=file; filename=bare.txt", b"x")
    check(element, element.post_form([bare]), "bare.txt")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photos/2024/a.jpg", "a.jpg"),
        ("C:\\fakepath\\a.jpg", "a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("a\\b/c", "c"),
    ],
)
def test_of_a_path_the_last_part_is_the_name(element: Element, path: str, name: str) -> None:
    check(element, element.post(b"x", path), name)
    check(element, element.post_form([file(b"x", path)]), name)
    starred = part(b"name=file; filename*=UTF-8''" + quote(path, safe="").encode(), b"x")
    check(element, element.post_form([starred]), name)


@pytest.mark.parametrize(
    "name",
    [
        "отчёт.txt",
        "日本語.txt",
        "emoji😀.txt",
        "naïve (1).txt",
        "\u200e00000012-PHOTO.jpg",
        'say "ё".txt',
    ],
)
def test_a_percent_encoded_name_in_a_form_is_decoded(element: Element, name: str) -> None:
    """aiohttp writes each name so (RFC 7578, 4.2)."""
    for safe in ("", "!*'()"):
        encoded = quote(name, safe=safe).encode()
        check(element, element.post_form([part(b'name="file"; filename="' + encoded + b'"', b"x")]), name)


@pytest.mark.parametrize(
    "name", ["%D0%BE и.txt", "%D0.txt", "%C3%A9 .txt", "%2Fetc.txt", "50%25.txt", "%zz%D0%BE"]
)
def test_a_percent_sign_that_encodes_no_name_stays(element: Element, name: str) -> None:
    check(element, element.post_form([file(b"x", name)]), name)


def test_letters_in_the_query_that_nobody_escaped(element: Element) -> None:
    answer = element.ask("POST", "/api/v1/files?filename=é%C3%A9.txt", None, b"x")
    check(element, answer, "éé.txt")


def test_a_plus_in_the_query_is_a_space(element: Element) -> None:
    check(element, element.ask("POST", "/api/v1/files?filename=a+b%2Bc.txt", None, b"x"), "a b+c.txt")
