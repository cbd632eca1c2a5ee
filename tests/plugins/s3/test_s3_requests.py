"""How many requests an element makes to S3, counted by a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artstore.errors import NotFound
from artstore.host.boot import open_node
from artstore.host.settings import load
from support import s3, servers
from support.proxies import HttpProxy
from support.uploads import BY, upload

DELETIONS = 40


@pytest.fixture
def proxy(s3_server: s3.Seaweed) -> Iterator[HttpProxy]:
    made = HttpProxy(s3_server.port)
    yield made
    made.close()


@pytest.fixture
def environ(tmp_path: Path, s3_server: s3.Seaweed, proxy: HttpProxy) -> dict[str, str]:
    servers.prepare(tmp_path / "home")
    values = s3.settings(s3_server, s3_server.bucket(), prefix="se-01")
    values["endpoint_url"] = f"http://127.0.0.1:{proxy.port}"
    return {f"ARTSTORE_{name}": value for name, value in s3.environment(values).items()}


def requests(proxy: HttpProxy) -> list[str]:
    """Return the requests for files and lists that were seen; the records of the element are read from time to time."""
    names = ("element.json", "checkpoint.json", "probe", "conditions")
    return [seen for seen in list(proxy.seen) if not any(name in seen for name in names)]


def test_deleted_files_do_not_make_look_ups_and_starts_dearer(
    tmp_path: Path, environ: dict[str, str], proxy: HttpProxy
) -> None:
    configuration = load(home=tmp_path / "home", environ=environ)
    node = open_node(configuration)
    kept = upload(node.kernel).file_id
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: upload(node.kernel).file_id, range(DELETIONS)))
        list(pool.map(lambda file_id: node.kernel.delete(BY, file_id, lambda _: None), ids))
    node.kernel.background.drain()
    proxy.seen.clear()
    with pytest.raises(NotFound):
        node.kernel.attr(ids[0])
    assert len(requests(proxy)) <= 5, requests(proxy)
    node.close()
    for change in ("start", "rebuild"):
        if change == "rebuild":
            for path in (tmp_path / "home" / "state").glob("cache.db*"):
                path.unlink()
        proxy.seen.clear()
        node = open_node(configuration)
        seen = requests(proxy)
        assert len(seen) <= 25, (change, seen)  # of which none is for a deleted file
        assert node.kernel.attr(kept).file_id == kept
        node.close()
