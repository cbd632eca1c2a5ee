"""Two nodes of one element on one bucket: a mode holds for both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artstore.errors import ModeNotAllowed
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.modes import Mode
from artstore.spi import SCOPES, Principal
from support import s3, servers
from support.proxies import HttpProxy

BY = Principal(id="u-1", name="ivanov", scopes=SCOPES)
Open = Callable[..., Node]


@pytest.fixture
def opened(tmp_path: Path, s3_server: s3.Seaweed) -> Iterator[Open]:
    bucket = s3_server.bucket()
    with ExitStack() as nodes:

        def open_it(name: str, port: int = s3_server.port) -> Node:
            servers.prepare(tmp_path / name)
            values = s3.environment(s3.settings(s3_server, bucket))
            values |= {"MODE": "rw", "ELEMENT_ID": "se-01"}
            values["BACKEND__S3__ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
            environ = {f"ARTSTORE_{name}": value for name, value in values.items()}
            return nodes.enter_context(closing(open_node(load(home=tmp_path / name, environ=environ))))

        yield open_it


def upload(node: Node, before_commit: Callable[[], None] = lambda: None) -> None:
    session = node.kernel.begin(BY, filename="report.bin")
    session.write(b"data")
    before_commit()
    session.commit()


def test_no_node_takes_a_change_after_the_answer_that_forbids_it(opened: Open) -> None:
    one, two = opened("one"), opened("two")
    for target in (Mode.RO, Mode.AR):
        assert two.kernel.describe()  # it has just read the record
        one.kernel.transition(BY, target, confirm=False, reason="")
        with pytest.raises(ModeNotAllowed):
            two.kernel.begin(BY, filename="report.bin")
    one.kernel.transition(BY, Mode.RO, confirm=True, reason="")
    one.kernel.transition(BY, Mode.RW, confirm=True, reason="")


def test_an_old_record_whose_answer_was_long_on_its_way_lets_no_change_pass(
    opened: Open, s3_server: s3.Seaweed
) -> None:
    """The other node asked for the record before the transition, and the answer came after it."""
    proxy = HttpProxy(s3_server.port)
    try:
        one, two = opened("one"), opened("two", port=proxy.port)
        refused: list[bool] = []

        def write() -> None:
            try:
                upload(two)
            except ModeNotAllowed:
                refused.append(True)

        two.kernel.parts.element._read_at = 0.0  # the record that it has is old
        proxy.catch(1, "applied", "GET")
        writing = threading.Thread(target=write)
        writing.start()
        assert proxy.arrived(30)
        assert proxy.caught is not None
        assert "element.json" in proxy.caught.line
        one.kernel.transition(BY, Mode.RO, confirm=False, reason="")
        proxy.caught.release.set()
        writing.join()
        assert refused == [True]
    finally:
        proxy.close()
