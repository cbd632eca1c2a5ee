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

import pytest

from support import servers
from support.audit import open_intents
from support.clients import Client
from support.crashes import files_on_disk, read_files
from support.long_runs import usual_or_long
from support.servers import Element, until

CLIENTS = 16
SECONDS = 30, 60
"""Of load, in a usual and in a long run."""
PAUSE = 0.3
"""Seconds between two requests of a client: the deaths matter, and other tests need the processor too."""
KILLS = (3.0, 6.0)
"""Seconds between two deaths."""


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
    clients = [Client(element, dice.randrange(1 << 32), tally, PAUSE) for _ in range(CLIENTS)]
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
                    kill_workers(element, dice, seconds / 2, lambda: any(r.done() for r in running), tally)  # noqa: B023
                finally:
                    if adapter == adapters[0]:
                        element.kill()
                        tally["deaths of all processes"] += 1
                    over.set()
                for done in running:
                    done.result(60)
            assert "Traceback" not in element.log.read_text()
        # On a busy machine both may have died before the successor of the first one served.
        until(element.answers, "a worker serves")
        element.wait_idle()
        found = read_files(element)
        for client in clients:
            client.check(found)
        element.kill()
        element = servers.start(adapters[0], element.home)
        assert read_files(element) == found == files_on_disk(element.home)
        assert element.pending() == open_intents(element.home) == []
        element.stop()
        assert files_on_disk(element.home) == found
    finally:
        element.kill()
    tried(f"{seconds} s, {', then '.join(adapters)}: {dict(tally)}; {len(found)} files at the end")
    assert tally["deaths"] >= seconds / 10


def kill_workers(
    element: Element, dice: random.Random, seconds: float, failed: Callable[[], bool], tally: Counter[str]
) -> None:
    """Kill the older of two workers every few seconds, and wait until another has taken its place."""
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    timer.start()
    order: list[int] = []
    try:
        while not over.wait(dice.uniform(*KILLS)) and not failed():
            now = element.workers()
            # The oldest first: a worker that dies within seconds of its start is replaced after a pause.
            order = [pid for pid in order if pid in now] + [pid for pid in now if pid not in order]
            os.kill(order[0], signal.SIGKILL)
            tally["deaths"] += 1
            until(lambda: len(set(element.workers()) - {order[0]}) == 2, "a worker in its place")  # noqa: B023
    finally:
        timer.cancel()
