"""A worker that is stopped while it is only starting."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What granian does: it runs the loop until the app has started, is held up, and runs the loop again for good.
CODE = """
import asyncio, os, signal, sys, time
import uvloop
from granian.asgi import LifespanProtocol
from artstore_granian.worker import block_signals_until_uvloop_runs, unblock_signals_once_uvloop_runs

async def app(scope, receive, send):
    await receive()
    await asyncio.sleep(float(sys.argv[1]))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def wait_for_the_signal():
    await asyncio.wait_for(stopped.wait(), 10)

blocked = block_signals_until_uvloop_runs()
loop = uvloop.new_event_loop()
handler = LifespanProtocol(unblock_signals_once_uvloop_runs(app, blocked))
stopped = asyncio.Event()
loop.add_signal_handler(signal.SIGTERM, stopped.set)
loop.run_until_complete(handler.startup())
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(float(sys.argv[2]))
loop.run_until_complete(wait_for_the_signal())
loop.run_until_complete(handler.shutdown())
print("stopped")
"""


@pytest.mark.parametrize(("start", "pause"), [(0, 0), (0, 0.2), (0.2, 0), (0.2, 0.2)])
def test_a_signal_between_the_start_of_the_app_and_its_serving_stops_the_worker(
    start: float, pause: float
) -> None:
    """It was lost when the start took longer than 50 ms: the worker was killed once the shutdown timeout was over."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(start), str(pause)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done
