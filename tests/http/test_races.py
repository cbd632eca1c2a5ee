"""Many at once: one id, one file, one revision has one winner."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.servers import Answer, Element, file_path

THREADS = 12


def at_once(ask: Callable[[int], Answer]) -> list[Answer]:
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> Answer:
        barrier.wait()
        return ask(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("size", [1, 1_500_000])
@pytest.mark.parametrize("attempt", range(3))
def test_one_id_and_other_bytes(element: Element, size: int, attempt: int) -> None:
    file_id = str(uuid.uuid4())
    before = element.tree()
    answers = at_once(lambda n: element.put(file_id, bytes([n]) * size))
    (winner,) = [n for n, a in enumerate(answers) if a.status == 201]
    for number, answer in enumerate(answers):
        assert number == winner or answer.problem(409, "conflict")
    element.wait_idle()
    assert element.download(file_id).body == bytes([winner]) * size
    assert len(element.tree() - before) == 2


@pytest.mark.parametrize("attempt", range(3))
def test_one_id_and_the_same_bytes(element: Element, attempt: int) -> None:
    file_id = str(uuid.uuid4())
    before = element.tree()
    answers = at_once(lambda n: element.put(file_id, b"same"))
    assert Counter(a.status for a in answers) == {201: 1, 200: THREADS - 1}
    assert len({a.body for a in answers}) == 1
    element.wait_idle()
    assert len(element.tree() - before) == 2


def test_one_id_of_whoever_is_first(element: Element) -> None:
    path = f"{file_path(str(uuid.uuid4()))}?filename=a.txt"
    answers = at_once(lambda n: element.ask("PUT", path, [("If-None-Match", "*")], b"same"))
    assert Counter(a.status for a in answers) == {201: 1, 412: THREADS - 1}


def test_one_name_in_one_second(element: Element) -> None:
    answers = at_once(lambda n: element.post(bytes([n]), "same name.txt"))
    assert {a.status for a in answers} == {201}
    assert len({a.json()["storage_filename"] for a in answers}) == THREADS
    for number, answer in enumerate(answers):
        assert element.download(answer.json()["file_id"]).body == bytes([number])


def test_one_revision(element: Element) -> None:
    made = element.upload(b"x")
    answers = at_once(
        lambda n: element.patch(made["file_id"], {"description": str(n)}, [("If-Match", '"r1"')])
    )
    assert Counter(a.status for a in answers) == {200: 1, 412: THREADS - 1}
    (winner,) = [a.json() for a in answers if a.status == 200]
    assert element.get(file_path(made["file_id"])).json() == winner


def test_no_patch_is_lost(element: Element) -> None:
    made = element.upload(b"x")
    answers = at_once(lambda n: element.patch(made["file_id"], {"metadata": {str(n): n}}))
    assert {a.status for a in answers} == {200}
    now = element.get(file_path(made["file_id"])).json()
    assert now["metadata"] == {str(n): n for n in range(THREADS)}
    assert now["revision"] == THREADS + 1


def test_one_delete(element: Element) -> None:
    made = element.upload(b"x")
    answers = at_once(lambda n: element.ask("DELETE", file_path(made["file_id"])))
    assert Counter(a.status for a in answers) == {204: 1, 404: THREADS - 1}
    element.wait_idle()
    assert made["file_id"] not in element.get("/api/v1/files?limit=1000").body.decode()


def test_delete_patch_and_download_of_one_file(element: Element) -> None:
    data = bytes(range(256)) * 8000
    made = element.upload(data)
    path = file_path(made["file_id"])

    def ask(number: int) -> Answer:
        if number == 0:
            return element.ask("DELETE", path)
        if number % 2:
            return element.patch(made["file_id"], {"description": str(number)})
        return element.get(path + "/download")

    answers = at_once(ask)
    assert answers[0].status == 204
    for answer in answers[1:]:
        assert answer.status in (200, 404)
        assert "content-disposition" not in dict(answer.headers) or answer.body == data
    assert element.get(path).status == 404
    element.wait_idle()
    assert not [name for name in element.tree() if made["storage_filename"] in name]
