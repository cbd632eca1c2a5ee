"""Downloads that the store itself answers: after all checks, and only when that is switched on."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

from support import s3
from support.servers import Element


def test_a_download_is_sent_to_the_store(
    adapter: str, start: Callable[..., Element], s3_server: s3.Seaweed
) -> None:
    told = s3.environment(s3.settings(s3_server, s3_server.bucket(), presign=True))
    element = start(adapter, settings=told)
    made = element.upload(b"0123456789", "отчёт.txt")
    path = f"/api/v1/files/{made['file_id']}/download"
    answer = element.get(path)
    assert answer.status == 307
    assert answer.header("cache-control") == "no-store"
    assert answer.body == b""
    request = urllib.request.Request(answer.header("location") or "", headers={"Range": "bytes=2-4"})
    with urllib.request.urlopen(request) as there:
        assert (there.status, there.read()) == (206, b"234")
        assert there.headers["content-type"] == "text/plain"
        assert "filename*=UTF-8''%D0%BE" in there.headers["content-disposition"]
    assert element.ask("HEAD", path).status == 200
    assert element.get(path, ("If-None-Match", f'"{made["sha256"]}"')).status == 304
    element.get(path, ("If-Match", '"other"')).problem(412, "precondition-failed")
    assert element.get(path, bearer=None).status == 401
