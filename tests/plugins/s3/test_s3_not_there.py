"""A bucket or a prefix that is not the one of this home: a start ends, and what serves answers 503."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ConfigError, Unavailable
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.spi import Query
from support import s3, servers
from support.servers import until
from support.uploads import BY, content, upload


def start(tmp_path: Path, server: s3.Seaweed, bucket: str, **more: Any) -> Node:
    if not (tmp_path / "home").exists():
        servers.prepare(tmp_path / "home")
    values = s3.environment(s3.settings(server, bucket, **more)) | {"ELEMENT_ID": "se-01", "MODE": "rw"}
    return open_node(load(home=tmp_path / "home", environ={f"ARTSTORE_{n}": v for n, v in values.items()}))


def empty(server: s3.Seaweed, bucket: str) -> None:
    for page in server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            server.client.delete_object(Bucket=bucket, Key=found["Key"])


def test_another_prefix_or_bucket_ends_a_start_and_is_left_as_it_is(
    tmp_path: Path, s3_server: s3.Seaweed
) -> None:
    bucket, other = s3_server.bucket(), s3_server.bucket()
    with closing(start(tmp_path, s3_server, bucket, prefix="a")) as node:
        kept = upload(node.kernel, b"kept").file_id
    for wrong in ({"bucket": bucket, "prefix": "b"}, {"bucket": bucket}, {"bucket": other, "prefix": "a"}):
        with pytest.raises(ConfigError) as error:
            start(tmp_path, s3_server, **wrong)
        assert "--new-store" in error.value.cure
    names = {o["Key"] for o in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert all(name.startswith("a/") for name in names), names
    assert "Contents" not in s3_server.client.list_objects_v2(Bucket=other)
    with closing(start(tmp_path, s3_server, bucket, prefix="a")) as node:
        assert content(node.kernel, kept) == b"kept"


def test_a_bucket_made_anew_ends_a_start(tmp_path: Path, s3_server: s3.Seaweed) -> None:
    bucket = s3_server.bucket()
    start(tmp_path, s3_server, bucket).close()
    empty(s3_server, bucket)
    s3_server.client.delete_bucket(Bucket=bucket)
    with pytest.raises(ConfigError, match="There is no bucket"):
        start(tmp_path, s3_server, bucket)
    s3_server.client.create_bucket(Bucket=bucket)
    with pytest.raises(ConfigError) as error:
        start(tmp_path, s3_server, bucket)
    assert "--new-store" in error.value.cure


ASKED: dict[str, Callable[[Node, str], object]] = {
    "upload": lambda node, _: upload(node.kernel),
    "attr": lambda node, file_id: node.kernel.attr(file_id),
    "download": lambda node, file_id: node.kernel.download(file_id),
    "search": lambda node, _: node.kernel.search(Query()),
    "update": lambda node, file_id: node.kernel.update(BY, file_id, lambda _: {"description": "new"}),
}


@pytest.mark.parametrize("state", ["emptied", "removed", "another store"])
def test_a_bucket_that_changes_while_it_is_served_is_no_empty_store(
    tmp_path: Path, s3_server: s3.Seaweed, state: str
) -> None:
    bucket = s3_server.bucket()
    node = start(tmp_path, s3_server, bucket)
    try:
        kept = upload(node.kernel, b"kept").file_id
        empty(s3_server, bucket)
        if state == "removed":
            s3_server.client.delete_bucket(Bucket=bucket)
        elif state == "another store":
            start(tmp_path / "second", s3_server, bucket).close()

        def is_noticed() -> bool:
            try:
                node.kernel.parts.element.record()
            except Unavailable:
                return True
            return False

        until(is_noticed, "the record is read again", 5)
        answers: dict[str, object] = {}
        for name, ask in ASKED.items():
            try:
                answers[name] = ask(node, kept)
            except Unavailable:
                continue
            except Exception as e:
                answers[name] = e
        assert answers == {}
    finally:
        node.close()
