import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from artstore.attr import Filename
from artstore.errors import MalformedRequest
from artstore_http.disposition import content_disposition, may_inline, parse_disposition, parse_parameters

FILENAME = TypeAdapter(Filename)


def is_filename(text: str) -> bool:
    try:
        FILENAME.validate_python(text)
    except ValidationError:
        return False
    return True


names = (st.text(min_size=1, max_size=40) | st.text("\"%2'*;= aé😀.\\", min_size=1)).filter(is_filename)


@given(name=names, inline=st.booleans())
def test_every_name_survives(name, inline):
    header = content_disposition(name, inline=inline)
    assert re.fullmatch(r"[ -~]+", header)
    kind, parameters = parse_disposition(header)
    assert kind == ("inline" if inline else "attachment")
    assert parameters["filename"] == name
    fallback = re.search(r'filename="([^"\\]*)"; filename\*=', header)
    assert fallback
    assert len(fallback[1]) == len(name)
    assert not re.search("%[0-9A-Fa-f]{2}", fallback[1])


@given(name=st.text(st.characters(codec=None, categories=None)))
def test_writing_never_raises_nor_splits_the_header(name):
    assert re.fullmatch(r"[ -~]+", content_disposition(name))


@given(name=names)
def test_what_browsers_and_curl_send_is_read(name):
    assume("%22" not in name)
    browser = name.replace('"', "%22")
    assert parse_disposition(f'form-data; name="file"; filename="{browser}"')[1]["filename"] == name
    old_curl = name.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_disposition(f'form-data; name="file"; filename="{old_curl}"')[1]["filename"] == name


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("report.pdf", "attachment; filename=\"report.pdf\"; filename*=UTF-8''report.pdf"),
        ("100%.txt", "attachment; filename=\"100%.txt\"; filename*=UTF-8''100%25.txt"),
        ("100%41.txt", "attachment; filename=\"100_41.txt\"; filename*=UTF-8''100%2541.txt"),
        ('a"b\\c.txt', "attachment; filename=\"a_b_c.txt\"; filename*=UTF-8''a%22b%5Cc.txt"),
        ("a\r\nb", "attachment; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
        ("Отчёт 1.pdf", None),
        ("naïve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
    ],
)
def test_writing(name, header):
    assert header is None or content_disposition(name) == header


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("form-data", {}),
        ('form-data; name="a"', {"name": "a"}),
        ("FORM-DATA;NAME=a;filename=b.txt;", {"name": "a", "filename": "b.txt"}),
        ('form-data; name="a;b"; filename="x; y=\\"z\\".txt"', {"name": "a;b", "filename": 'x; y="z".txt'}),
        ('form-data; filename="a%22b.txt"', {"filename": 'a"b.txt'}),
        ('form-data; filename="\\"a%22b.txt"', {"filename": '"a%22b.txt'}),
        ('form-data; filename="a%0D%0Ab%25"', {"filename": "a%0D%0Ab%25"}),
        ('form-data; filename="C:\\dir\\f.txt"', {"filename": "C:\\dir\\f.txt"}),
        ('form-data; filename="отчёт.pdf"', {"filename": "отчёт.pdf"}),
        ("form-data; filename=old; filename*=utf-8'ru'%D0%BE.txt", {"filename": "о.txt"}),
        ("form-data; filename*=UTF-8''n.txt; filename=\"old\"", {"filename": "n.txt"}),
        ('form-data; filename=""', {"filename": ""}),
    ],
)
def test_reading(value, expected):
    kind, parameters = parse_disposition(value)
    assert kind == "form-data"
    assert parameters == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        "form-data; name",
        'form-data; name="a',
        'form-data; name="a\\"',
        "form-data; name=a name=b",
        "form-data; name=a; NAME=b",
        "form-data, name=a",
        "form-data; filename*=latin-1''x",
        "form-data; filename*=UTF-8''%FF",
        "form-data; filename*=UTF-8''%4",
        "form-data; filename*=UTF-8''a b",
        "form-data; filename*=x",
    ],
)
def test_refused(value):
    with pytest.raises(MalformedRequest):
        parse_disposition(value)


@given(value=st.text() | st.text("\"\\;=*'% aUTF-8").map(lambda t: "form-data; filename" + t))
def test_reading_never_raises_anything_else(value):
    try:
        parse_disposition(value)
        parse_parameters(value, "Content-Type")
    except MalformedRequest:
        pass


def test_long_values_are_read_in_linear_time():
    for value in (
        'a; b="' + "\\" * 99999,
        "a" + ";" * 99999,
        'a; b="' + '\\"' * 50000,
        "a" + " " * 99999 + ",",
    ):
        with pytest.raises(MalformedRequest):
            parse_disposition(value + "\x00")


@pytest.mark.parametrize(
    "kind", ["image/png", "IMAGE/JPEG", "text/plain; charset=utf-8", "audio/mpeg", "video/mp4", "image/webp "]
)
def test_inline(kind):
    assert may_inline(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "image/svg+xml",
        "text/html",
        "text/xml",
        "application/xml",
        "application/xhtml+xml",
        "application/pdf",
        "application/octet-stream",
        "text/javascript",
        "video/",
        "video/mp4 text/html",
        "text/html;image/png",
        "",
    ],
)
def test_not_inline(kind):
    assert not may_inline(kind)
