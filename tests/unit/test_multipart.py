import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artstore.errors import ArtstoreError, InvalidField, MalformedRequest
from artstore_http.form import Form
from artstore_http.multipart import MAX_PARTS, FormReader

TYPE = "multipart/form-data; boundary=B0"
BASE = b"--B0\r\n"
END = b"\r\n--B0--\r\n"


class Kept:
    """A sink that remembers."""

    def __init__(self):
        self.files = []
        self.data = b""
        self.ended = 0

    def on_file(self, filename, content_type):
        self.files.append((filename, content_type))

    def on_file_data(self, piece):
        assert len(piece)
        self.data += piece

    def on_file_end(self):
        self.ended += 1


def part(disposition: str, data: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--B0\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + data + b"\r\n"


def a_file(data: bytes = b"hello", filename: str = "a.txt") -> bytes:
    return part(f'name="file"; filename="{filename}"', data, "Content-Type: text/plain")


def text(name: str, value: str | bytes) -> bytes:
    return part(f'name="{name}"', value if isinstance(value, bytes) else value.encode())


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B0--\r\n"


def read(*pieces: bytes, content_type: str = TYPE) -> tuple[Kept, Form]:
    kept = Kept()
    reader = FormReader(content_type, kept)
    for piece in pieces:
        reader.feed(piece)
    return kept, reader.close()


def result(*pieces: bytes):
    try:
        kept, form = read(*pieces)
    except ArtstoreError as e:
        return type(e), e.detail
    return kept.files, kept.data, kept.ended, form


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


FULL = whole(
    text("description", "Отчёт"),
    text("tags", "a"),
    a_file(b"x\r\n--B\r\ny\r\n--B0z"),
    text("tags", '["b", "c"]'),
    text("metadata", '{"k": [1, null]}'),
    text("sha256", "A" * 64),
)


def filled(*, sha256: str | None = None, **fields: Any) -> Form:
    """The form with these fields; the others are empty."""
    return Form(editable={"description": "", "tags": (), "metadata": {}, **fields}, sha256=sha256)


def test_a_form():
    kept, form = read(FULL)
    assert kept.files == [("a.txt", "text/plain")]
    assert kept.data == b"x\r\n--B\r\ny\r\n--B0z"
    assert kept.ended == 1
    assert form == filled(
        description="Отчёт", tags=("a", "b", "c"), metadata={"k": [1, None]}, sha256="a" * 64
    )


def test_the_least_form():
    kept, form = read(whole(part('name="file"; filename="пусто"', b"")))
    assert (kept.files, kept.data, kept.ended, form) == ([("пусто", None)], b"", 1, filled())


payloads = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--B", b"\r\n--B0", b"--B0", b"B0", b"0", b"x", b" "]
    ),
    max_size=40,
).map(b"".join)


def holds_delimiter(payload: bytes) -> bool:
    """RFC 2046 forbids these within a part: what would be read as an end of it."""
    after = payload + b"\r\n"
    return any(b"\r\n--B0" + tail in after for tail in (b"\r\n", b"--", b" ", b"\t"))


@given(payload=payloads, cuts=st.lists(st.integers(0, 600), max_size=12))
@example(payload=b"\r\n--B0", cuts=[])
@example(payload=b"\r\n--B0\r", cuts=[])
@example(payload=b"\r\n--B0-x\r\n--B0\rx", cuts=[])
def test_any_split_gives_the_same(payload, cuts):
    body = whole(text("description", "d"), a_file(payload), text("tags", "t"))
    edges = [0, *sorted(min(c, len(body)) for c in cuts), len(body)]
    split = [body[a:b] for a, b in itertools.pairwise(edges)]
    once = result(body)
    assert result(*split) == once
    assert result(*bytewise(body)) == once
    if not holds_delimiter(payload):
        assert once == ([("a.txt", "text/plain")], payload, 1, filled(description="d", tags=("t",)))


fragments = st.lists(
    st.sampled_from(
        [
            b"--B0", b"\r\n", b"--", b"\n", b":", b" ", b"\t", b"x", b"--B0\r\n", b"\r\n--B0--", b"\xff", b"\x00",
            b"Content-Disposition: form-data; ", b'name="file"', b'; filename="f"', b"name=tags", b"name=metadata",
            b"\r\n\r\n", b"Content-Type: ", b"text/plain; charset=latin-1", b"[", b"{}",
        ]
    ),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(
    body=st.binary(max_size=80)
    | fragments
    | fragments.map(lambda b: BASE + b)
    | fragments.map(lambda b: b + END)
)
def test_arbitrary_bytes_raise_nothing_else(body):
    assert result(body) == result(*bytewise(body))


def test_cut_anywhere_is_refused():
    last = FULL.rindex(b"--") + 2
    for end in range(last):
        with pytest.raises(MalformedRequest):
            read(FULL[:end])
    assert result(FULL[:last]) == result(FULL) == result(FULL + b"an epilogue")


@pytest.mark.parametrize(
    "unit", [b"\r\n", b"\r", b"\r\n--", b"\r\n--B", b"\r\n--B0x", b"\r\n--B0\rx", b"\r\n--B0-"]
)
def test_dense_payloads(unit):
    payload = unit * 2000 + b"."
    body = whole(a_file(payload))
    for step in (1, 7, 4096, len(body)):
        kept, _ = read(*(body[i : i + step] for i in range(0, len(body), step)))
        assert kept.data == payload


def test_data_passes_through_without_copies():
    kept = []
    sink = Kept()
    sink.on_file_data = kept.append
    reader = FormReader(TYPE, sink)
    reader.feed(a_file(b"")[:-2])
    piece = bytes(1 << 20)
    reader.feed(piece)
    assert kept == [piece]
    assert kept[0] is piece


def test_what_the_sink_raises_passes():
    sink = Kept()

    def full(piece):
        raise OSError("full")

    sink.on_file_data = full
    with pytest.raises(OSError, match="full"):
        FormReader(TYPE, sink).feed(FULL)


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="B0"',
        "multipart/form-data;boundary=B0;charset=utf-8",
        'Multipart/Form-Data; x="; boundary=evil"; Boundary=B0',
    ],
)
def test_boundaries(content_type):
    assert read(FULL, content_type=content_type)[0].ended == 1


@pytest.mark.parametrize(
    "tail",
    [
        "", ";", "; boundary", "; boundary=", '; boundary=""', "; boundary=B0; boundary=B1", '; boundary="a "',
        "; boundary=" + "a" * 71, '; boundary="é"', "; boundary=a*b", '; boundary="a\r\nb"', '; boundary="a',
    ],
)  # fmt: skip
def test_bad_boundaries(tail):
    with pytest.raises(MalformedRequest):
        FormReader("multipart/form-data" + tail, Kept())


def test_a_boundary_of_seventy_odd_letters():
    boundary = "'()+_,-./:=?" + "z" * 58
    body = FULL.replace(b"--B0", b"--" + boundary.encode())
    assert read(body, content_type=f'multipart/form-data; boundary="{boundary}"')[0].ended == 1


DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="f"\r\n'


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "truncated"),
        (b"--B0--", "curl -F file=@"),
        (b"--B0--\r\n", "curl -F file=@"),
        (whole(text("description", "d")), "curl -F file=@"),
        (whole(text("file", "hello")), "with the @"),
        (whole(part('name="file"; filename=""', b"")), "no filename"),
        (whole(part('name="upload"; filename="f"', b"x")), "'upload'"),
        (whole(a_file(), a_file()), "second part"),
        (whole(a_file(), text("file", "x")), "second part"),
        (FULL.replace(b"--B0", b"--B1"), "boundary"),
        (b"x" * 8193 + b"\r\n" + FULL, "boundary"),
        (b"a line\r\n" * 8193 + FULL, "boundary"),
        (b"--B0 and more\r\n--B0", "boundary"),
        (FULL.replace(b"\r\n", b"\n"), "CRLF"),
        (whole(*[text("tags", "t")] * 1000, a_file()), "32 parts"),
        (whole(part('name="file"; filename="f"', b"", "X: " + "x" * (1 << 20))), "8192"),
        (whole(part('name="file"; filename="f"', b"", "X" * (1 << 20) + ": x")), "8192"),
        (whole(part('name="file"; filename="f"', b"", *[f"X{i}: {'x' * 1000}" for i in range(9)])), "8192"),
        (whole(part('name="file"; filename="f"', b"", *[f"X{i}: x" for i in range(16)])), "16 headers"),
        (whole(part('name="file"; filename="f"', b"", *["X: x"] * 10000)), "twice"),
        (whole(part('name="file"; filename="f"', b"", "X: a\x00b")), "control"),
        (whole(part('name="file"; filename="f"', b"", " folded: x")), "headers"),
        (whole(part('name="file"; filename="f"', b"", "no colon")), "headers"),
        (BASE + DISPOSITION + DISPOSITION + b"\r\nx" + END, "twice"),
        (BASE + b"\r\nx" + END, "Content-Disposition"),
        (BASE + b'Content-Disposition: attachment; name="file"\r\n\r\nx' + END, "form-data"),
        (whole(part('filename="f"', b"x")), "name"),
        (BASE + DISPOSITION.replace(b'"f"', b'"\xff"') + b"\r\nx" + END, "UTF-8"),
        (whole(part('name="file"; filename="f"', b"eA==", "Content-Transfer-Encoding: base64")), "Encoding"),
        (whole(part('name="tags"', b"=41", "Content-Transfer-Encoding: Quoted-Printable")), "Encoding"),
        (whole(part('name="tags"', b"x", "Content-Type: text/plain; charset=latin-1")), "UTF-8"),
        (whole(text("_charset_", "windows-1251")), "UTF-8"),
        (whole(part('name="file"; filename="f"', b"x", "Content-Range: bytes 0-0/2")), "Content-Range"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_malformed(body, hint):
    with pytest.raises(MalformedRequest) as caught:
        read(body)
    assert hint in caught.value.detail
    if len(body) < 1 << 20:
        assert result(*bytewise(body)) == result(body)


@pytest.mark.parametrize(
    "body",
    [
        b"This is a multi-part message in MIME format.\r\n" + FULL,
        b"MIME-Version: 1.0\r\nContent-Type: multipart/form-data\r\n\r\n" + FULL,
        b"\r\n" + FULL,
        b"\r\n\r\n" + FULL,
        b"a line with --B0 in it\r\n--B0 too\r\n--B0x\r\n" + FULL,
        b"x" * 8192 + b"\r\n" + FULL,
        FULL.replace(b"--B0\r\n", b"--B0  \r\n").replace(b"--B0--", b"--B0-- \t"),
        FULL.replace(b"--B0\r\n", b"--B0\t\r\n"),
        FULL + b"an epilogue\r\n--B0\r\nof lines\r\n",
        FULL.removesuffix(b"\r\n"),
    ],
)
def test_a_preamble_padding_or_epilogue_does_not_break_a_form(body):
    """RFC 2046, 5.1.1."""
    assert result(body) == result(FULL)
    assert result(*bytewise(body)) == result(FULL)


@pytest.mark.parametrize("value", ["", "null"])
def test_an_empty_digest_field_announces_no_digest(value):
    assert read(whole(a_file(), text("sha256", value), text("metadata", value)))[1] == filled()


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ([text("colour", "red")], "colour"),
        ([text("description", "a"), text("description", "b")], "description"),
        ([text("sha256", "a" * 64), text("sha256", "a" * 64)], "sha256"),
        ([text("metadata", "{}"), text("metadata", "{}")], "metadata"),
        ([text("sha256", "xyz")], "sha256"),
        ([text("metadata", "[]")], "metadata"),
        ([text("metadata", "{'a': 1}")], "metadata"),
        ([text("metadata", '{"a": NaN}')], "metadata"),
        ([text("tags", "[1]")], "tags"),
        ([text("tags", "[draft")], "tags"),
        ([text("description", b"\xff")], "description"),
        ([text("description", "d" * 65537)], "description"),
        ([text("description", "d" * 40000), text("tags", "t" * 40000)], "tags"),
    ],
)
def test_bad_fields(parts, name):
    with pytest.raises(InvalidField) as caught:
        read(whole(a_file(), *parts))
    assert caught.value.field == name


def test_what_people_send_is_taken():
    _, form = read(
        whole(
            part('name="metadata"; filename="blob"', b'{"a": 1}', "Content-Type: application/json"),
            part("name=description", b"", 'Content-Type: text/plain; charset="UTF-8"'),
            text("_charset_", "utf-8"),
            text("tags", ""),
            text("tags", "a, b"),
            part('name="file"; filename="f"', b"x", "Content-Transfer-Encoding: binary"),
        )
    )
    assert form == filled(metadata={"a": 1}, tags=("a, b",))
    assert read(b"\r\n" + FULL)[0].ended == 1


def test_as_many_parts_as_allowed():
    _, form = read(whole(a_file(), *[text("tags", "t")] * (MAX_PARTS - 1)))
    assert len(form.editable["tags"]) == MAX_PARTS - 1
