"""Clients that load an element while its processes are killed, and know what must be true of it afterwards."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from typing import Any

from support.crashes import LOST
from support.servers import Element, file_path


class Client:
    """A client with files of its own. It remembers every answer, and takes a lost one neither for yes nor for no."""

    def __init__(self, element: Element, seed: int, tally: Counter[str], pause: float = 0.0) -> None:
        """`pause`: average seconds between two requests."""
        self.element = element
        self._tally = tally
        self._pause = pause
        self._random = random.Random(seed)
        self.there: dict[str, dict[str, Any]] = {}
        self._contents: dict[str, bytes] = {}
        self._gone: set[str] = set()
        self._in_doubt: dict[str, str] = {}
        """What was asked of a file and never answered."""

    def run(self, over: threading.Event) -> None:
        """Send requests until `over`, also when answers are lost."""
        self._over = over
        while not over.wait(self._random.random() * 2 * self._pause):
            certain = [file_id for file_id in self.there if file_id not in self._in_doubt]
            choices = [self.upload, self.upload, self.put]
            if certain:
                choices += [self.read, self.read, self.range, self.search]
                choices += [self.update, self.update, self.delete]
            action = self._random.choice(choices)
            try:
                action(self._random.choice(certain) if certain else "")
                self._tally[action.__name__] += 1
            except LOST:
                self._tally["lost"] += 1

    def _body(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 4096, 70_000, 1_200_000]))

    def upload(self, _: str) -> None:
        body = self._body()
        made = self.element.upload(body, f"файл {self._random.random()}.bin", description="new")
        self.there[made["file_id"]], self._contents[made["file_id"]] = made, body

    def put(self, _: str) -> None:
        """Upload under a chosen id, and repeat that until there is an answer."""
        body, file_id = self._body(), str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        while not self._over.wait(self._pause / 10):
            try:
                answer = self.element.put(file_id, body, "put.bin")
            except LOST:
                self._tally["put repeated"] += 1
                continue
            assert answer.status in (200, 201), answer
            self.there[file_id], self._contents[file_id] = answer.json(), body
            return

    def read(self, file_id: str) -> None:
        answer = self.element.download(file_id)
        assert (answer.status, answer.body) == (200, self._contents[file_id]), (file_id, answer.status)

    def range(self, file_id: str) -> None:
        body = self._contents[file_id]
        at = self._random.randrange(len(body) + 1)
        answer = self.element.download(file_id, ("Range", f"bytes={at}-{at + 99}"))
        expected = (206, body[at : at + 100]) if at < len(body) else (416, answer.body) if at else (200, b"")
        assert (answer.status, answer.body) == expected, (file_id, at, answer.status)

    def search(self, file_id: str) -> None:
        """What was acknowledged is found at once, by every worker."""
        answer = self.element.get(f"/api/v1/files?sha256={self.there[file_id]['sha256']}&limit=1000")
        assert answer.status == 200, answer
        assert self.there[file_id] in answer.json()["items"], self.there[file_id]

    def update(self, file_id: str) -> None:
        self._in_doubt[file_id] = "update"
        answer = self.element.patch(file_id, {"description": str(self._random.random())})
        assert answer.status == 200, answer
        self.there[file_id] = answer.json()
        del self._in_doubt[file_id]

    def delete(self, file_id: str) -> None:
        self._in_doubt[file_id] = "delete"
        answer = self.element.ask("DELETE", file_path(file_id))
        assert answer.status == 204, answer
        del self.there[file_id], self._in_doubt[file_id]
        self._gone.add(file_id)

    def check(self, found: dict[str, dict[str, Any]]) -> None:
        """Check that every answer still holds; `found`: what the element lists."""
        assert not self._gone & found.keys()
        for file_id, attr in self.there.items():
            change = self._in_doubt.get(file_id)
            if file_id not in found:
                assert change == "delete", (change, attr)
                continue
            if found[file_id] != attr:
                assert change == "update", (change, attr, found[file_id])
                assert found[file_id]["revision"] == attr["revision"] + 1
            self.read(file_id)
        for file_id in self._gone:
            self.element.get(file_path(file_id)).problem(404)
