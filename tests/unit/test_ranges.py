import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.spi import Span
from artstore_http.ranges import UNSATISFIABLE, ByteRanges, content_range, parse_range


def oracle(specs: list[tuple[int | None, int | None]], size: int) -> set[int]:
    """The positions asked for, one by one."""
    asked: set[int] = set()
    for first, last in specs:
        for at in range(size):
            if first is None:
                assert last is not None
                if at >= size - last:
                    asked.add(at)
            elif at >= first and (last is None or at <= last):
                asked.add(at)
    return asked


number = st.integers(0, 30)
spec = st.one_of(
    st.tuples(number, st.none()),
    st.tuples(st.none(), number),
    st.tuples(number, number).map(lambda pair: (min(pair), max(pair))),
)


def shown(first: int | None, last: int | None) -> str:
    return f"{'' if first is None else first}-{'' if last is None else last}"


@given(
    specs=st.lists(spec, min_size=1, max_size=16),
    size=st.integers(1, 25),
    comma=st.sampled_from([",", ", ", " ,, "]),
)
def test_spans_cover_what_was_asked_once(specs, size, comma):
    spans = parse_range("bytes=" + comma.join(shown(*s) for s in specs), size)
    asked = oracle(specs, size)
    if not asked:
        assert spans is UNSATISFIABLE
        return
    assert isinstance(spans, list)
    covered = [at for span in spans for at in range(span.offset, span.offset + span.length)]
    assert sorted(covered) == sorted(asked)
    assert all(span.length > 0 for span in spans)


@given(
    header=st.text(max_size=60).map(lambda t: "bytes=" + t) | st.text(max_size=40), size=st.integers(0, 100)
)
def test_never_raises(header, size):
    spans = parse_range(header, size)
    if isinstance(spans, list):
        assert all(s.offset >= 0 and s.length > 0 and s.offset + s.length <= size for s in spans)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [Span(0, 1)]),
        ("BYTES=0-4", [Span(0, 5)]),
        ("bytes=5-", [Span(5, 5)]),
        ("bytes=-3", [Span(7, 3)]),
        ("bytes=-99", [Span(0, 10)]),
        ("bytes=8-99", [Span(8, 2)]),
        ("bytes=007-0008", [Span(7, 2)]),
        ("bytes=0-1,4-5", [Span(0, 2), Span(4, 2)]),
        ("bytes=4-5,0-1", [Span(4, 2), Span(0, 2)]),
        ("bytes=0-4,5-9", [Span(0, 5), Span(5, 5)]),
        ("bytes=6-8,0-1,7-9", [Span(6, 4), Span(0, 2)]),
        ("bytes=0-1,50-", [Span(0, 2)]),
        ("bytes=,0-1,", [Span(0, 2)]),
        ("bytes=0-" + "9" * 5000, [Span(0, 10)]),
        ("bytes=-" + "9" * 5000, [Span(0, 10)]),
        ("bytes=" + "0" * 5000 + "1-1", [Span(1, 1)]),
        ("bytes=10-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
        ("bytes=-000", UNSATISFIABLE),
        ("bytes=" + "9" * 5000 + "-", UNSATISFIABLE),
        ("bytes=" + "8" * 5000 + "-" + "9" * 5000, UNSATISFIABLE),
        ("bytes=" + "9" * 5000 + "-" + "8" * 5000, None),
        ("bytes=5-4", None),
        ("bytes=0-1,5-4", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=,", None),
        ("bytes", None),
        ("", None),
        ("bytes =0-1", None),
        ("bytes=0 - 1", None),
        ("bytes=+0-1", None),
        ("bytes=0-1-2", None),
        ("bytes=a-b", None),
        ("bytes=٠-١", None),
        ("bytes=0x0-1", None),
        ("items=0-1", None),
        ("bytes=" + ",".join(["0-0"] * 17), None),
        ("bytes=" + "," * 100000, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_examples_on_ten_bytes(header, expected):
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", None),
        ("bytes=0-0", None),
        ("bytes=0-1023", None),
        ("bytes=-5", None),
        ("bytes=1-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
    ],
)
def test_empty_file(header, expected):
    assert parse_range(header, 0) == expected


def test_multipart_framing_counts_exactly():
    data = bytes(range(10))
    spans = [Span(0, 2), Span(5, 3)]
    framed = ByteRanges("B0", "text/plain", spans, 10)
    body = b"".join(
        h + data[s.offset : s.offset + s.length] for h, s in zip(framed.heads, spans, strict=True)
    )
    body += framed.tail
    assert framed.content_type == "multipart/byteranges; boundary=B0"
    assert len(body) == framed.length
    assert body == (
        b"--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n\x00\x01"
        b"\r\n--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-7/10\r\n\r\n\x05\x06\x07"
        b"\r\n--B0--\r\n"
    )


def test_a_content_type_of_any_letters_is_framed():
    framed = ByteRanges("B", 'text/plain; x="é"', [Span(0, 1)], 1)
    assert framed.length == sum(map(len, framed.heads)) + 1 + len(framed.tail)


def test_content_range():
    assert content_range(Span(5, 3), 10) == "bytes 5-7/10"
