"""Mixed load on two workers, one of which is killed every few seconds; then everything is checked."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.audit import open_intents
from support.deaths import LOST, answers, on_disk
from support.long_runs import usual_or_long
from support.servers import Element, file_path, until

CLIENTS = 16
SECONDS = 30, 60
"""Of load, in a usual and in a long run."""
PAUSE = 0.3
"""Between two requests of a client: it is the deaths that matter, and others want the processor too."""
KILLS = (3.0, 6.0)
"""Seconds between two deaths."""


class Client:
    """Somebody with files of their own, who remembers every answer and never believes in silence."""

    def __init__(self, element: Element, seed: int, tally: Counter[str]) -> None:
        self.element = element
        self.tally = tally
        self.random = random.Random(seed)
        self.there: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.doubtful: dict[str, str] = {}
        """What was asked of a file and never answered."""

    def run(self, over: threading.Event) -> None:
        self.over = over
        while not over.wait(self.random.random() * 2 * PAUSE):
            sure = [i for i in self.there if i not in self.doubtful]
            choices = [self.upload, self.upload, self.put]
            if sure:
                choices += [
                    self.read,
                    self.read,
                    self.range,
                    self.search,
                    self.update,
                    self.update,
                    self.delete,
                ]
            action = self.random.choice(choices)
            try:
                action(self.random.choice(sure) if sure else "")
                self.tally[action.__name__] += 1
            except LOST:
                self.tally["lost"] += 1

    def _body(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 4096, 70_000, 1_200_000]))

    def upload(self, _: str) -> None:
        body = self._body()
        made = self.element.upload(body, f"файл {self.random.random()}.bin", description="new")
        self.there[made["file_id"]], self.contents[made["file_id"]] = made, body

    def put(self, _: str) -> None:
        """Under an id of one's own, again until there is an answer."""
        body, file_id = self._body(), chosen_id(self.random)
        while not self.over.wait(PAUSE / 10):
            try:
                answer = self.element.put(file_id, body, "put.bin")
            except LOST:
                self.tally["put again"] += 1
                continue
            assert answer.status in (200, 201), answer
            self.there[file_id], self.contents[file_id] = answer.json(), body
            return

    def read(self, file_id: str) -> None:
        answer = self.element.download(file_id)
        assert (answer.status, answer.body) == (200, self.contents[file_id]), (file_id, answer.status)

    def range(self, file_id: str) -> None:
        body = self.contents[file_id]
        at = self.random.randrange(len(body) + 1)
        answer = self.element.download(file_id, ("Range", f"bytes={at}-{at + 99}"))
        expected = (206, body[at : at + 100]) if at < len(body) else (416, answer.body)
        assert (answer.status, answer.body) == expected, (file_id, at, answer.status)

    def search(self, file_id: str) -> None:
        """What was answered is found at once, by whichever worker is asked."""
        answer = self.element.get(f"/api/v1/files?sha256={self.there[file_id]['sha256']}&limit=1000")
        assert answer.status == 200, answer
        assert self.there[file_id] in answer.json()["items"], self.there[file_id]

    def update(self, file_id: str) -> None:
        self.doubtful[file_id] = "update"
        answer = self.element.patch(file_id, {"description": str(self.random.random())})
        assert answer.status == 200, answer
        self.there[file_id] = answer.json()
        del self.doubtful[file_id]

    def delete(self, file_id: str) -> None:
        self.doubtful[file_id] = "delete"
        answer = self.element.ask("DELETE", file_path(file_id))
        assert answer.status == 204, answer
        del self.there[file_id], self.doubtful[file_id]
        self.gone.add(file_id)

    def judge(self, found: dict[str, dict[str, Any]]) -> None:
        """Every answer still holds."""
        assert not self.gone & found.keys()
        for file_id, attr in self.there.items():
            doubt = self.doubtful.get(file_id)
            if file_id not in found:
                assert doubt == "delete", (doubt, attr)
                continue
            if found[file_id] != attr:
                assert doubt == "update", (doubt, attr, found[file_id])
                assert found[file_id]["revision"] == attr["revision"] + 1
            answer = self.element.download(file_id)
            assert (answer.status, answer.body) == (200, self.contents[file_id])
        for file_id in self.gone:
            self.element.get(file_path(file_id)).problem(404)


def chosen_id(dice: random.Random) -> str:
    value = f"{dice.getrandbits(128):032x}"
    return f"{value[:8]}-{value[8:12]}-4{value[13:16]}-8{value[17:20]}-{value[20:]}"


@pytest.mark.slow
@pytest.mark.timeout(240)
@usual_or_long("seconds", *SECONDS)
def test_mixed_load_while_workers_are_killed(
    tmp_path: Path, seconds: int, tried: Callable[[str], None]
) -> None:
    """Half of the time with one adapter, half with the other; the whole tree is killed between the two."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    tally: Counter[str] = Counter()
    adapters = dice.sample(["starlette", "falcon"], 2)
    element = servers.start(adapters[0], tmp_path / "home", workers=2)
    clients = [Client(element, dice.randrange(1 << 32), tally) for _ in range(CLIENTS)]
    try:
        for adapter in adapters:
            if adapter != element.adapter:
                element = servers.start(adapter, tmp_path / "home", workers=2)
            for client in clients:
                client.element = element
            over = threading.Event()
            with ThreadPoolExecutor(CLIENTS) as pool:
                running = [pool.submit(client.run, over) for client in clients]
                try:
                    deaths(element, dice, seconds / 2, lambda: any(r.done() for r in running), tally)  # noqa: B023
                finally:
                    if adapter == adapters[0]:
                        os.killpg(element.process.pid, signal.SIGKILL)
                        element.process.wait(30)
                        tally["deaths of the whole"] += 1
                    over.set()
                for done in running:
                    done.result(60)
            assert "Traceback" not in element.log.read_text()
        # On a busy machine both may have died before the first one's successor served.
        until(element.answers, "somebody serves")
        element.settled()
        found = answers(element)
        for client in clients:
            client.judge(found)
        os.killpg(element.process.pid, signal.SIGKILL)
        element.process.wait(30)
        element = servers.start(adapters[0], element.home)
        assert answers(element) == found == on_disk(element.home)
        assert element.pending() == open_intents(element.home) == []
        element.stop()
        assert on_disk(element.home) == found
    finally:
        element.process.kill()
        element.process.wait(30)
    tried(f"{seconds} s, {', then '.join(adapters)}: {dict(tally)}; {len(found)} files at the end")
    assert tally["deaths"] >= seconds / 10


def deaths(
    element: Element, dice: random.Random, seconds: float, failed: Callable[[], bool], tally: Counter[str]
) -> None:
    """Kill the older of two workers every few seconds, and see that another takes its place."""
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    timer.start()
    order: list[int] = []
    try:
        while not over.wait(dice.uniform(*KILLS)) and not failed():
            now = element.workers()
            # In order of birth: granian takes one that dies twice within seconds for a crash loop, and ends.
            order = [pid for pid in order if pid in now] + [pid for pid in now if pid not in order]
            os.kill(order[0], signal.SIGKILL)
            tally["deaths"] += 1
            until(lambda: len(set(element.workers()) - {order[0]}) == 2, "a worker in its place")  # noqa: B023
    finally:
        timer.cancel()
