"""The ASGI app: `granian --interface asgi --factory artstore_starlette.app:create_app`, or uvicorn's `--factory`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from artstore.errors import MalformedRequest, Refused
from artstore.host.boot import Node, open_default
from artstore.spi import PIECE
from artstore_http.app import App, Exchange
from artstore_http.message import Pieces, Request, Response
from artstore_http.problems import RequestTimeout

T = TypeVar("T")

MIN_BODY_RATE = 1024
"""Bytes a second at which a body must arrive, on average over `limits.body_timeout` seconds."""
_WITH_BODY = ("POST", "PUT", "PATCH")


class Endpoint:
    """Translates between ASGI messages and exchanges. Calls that may block hop to a thread: one, or one per MiB."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._limiter = CapacityLimiter(app.node.settings.server.threads)
        self._body_timeout = app.node.settings.limits.body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a websocket: 403; without this message uvicorn answers 500
            await send({"type": "websocket.close"})
            return
        request = _request(scope)
        if self._app.instant(request):
            response = self._app.begin(request).finish()
        elif request.method in _WITH_BODY:
            response = await self._receive(request, _Body(receive, self._body_timeout))
        else:
            response = await self._hop(_exchange_at_once, self._app, request, b"")
        await self._send(scope, send, response)

    async def _receive(self, request: Request, body: _Body) -> Response:
        """Answer a request with a body: a small one in one hop, else a MiB at a time, after its head was checked."""
        pieces: list[bytes] = []
        refused: Refused | None = None
        if request.small:
            try:
                pieces = await body.batch()
            except Refused as e:
                refused = e  # raised below unless the head is refused
            if body.over:
                return await self._hop(_exchange_at_once, self._app, request, b"".join(pieces))
        exchange = await self._hop(self._app.begin, request)
        ahead: asyncio.Task[list[bytes]] | None = None
        try:
            while exchange.response is None:
                await asyncio.sleep(0)  # a cancellation takes effect here, even when a batch is ready
                if refused:
                    raise refused
                batch = pieces or await (ahead or body.batch())
                pieces, over = [], body.over
                ahead = None if over else asyncio.create_task(body.batch())  # while this one is written
                await self._hop(_feed, exchange, batch, over)
        except Refused as e:
            return await self._hop(exchange.fail, e)
        finally:
            if ahead is not None:
                ahead.cancel()
                # To retrieve its error keeps asyncio from logging it.
                ahead.add_done_callback(lambda task: task.cancelled() or task.exception())
            if exchange.response is None:
                await self._hop(exchange.abort)
        return exchange.response

    async def _send(self, scope: Scope, send: Send, response: Response) -> None:
        if isinstance(response.body, bytes):
            await send(_start(response))
            await send({"type": "http.response.body", "body": response.body})
            return
        stream = response.body
        try:
            await send(_start(response))
            if stream.path is not None and "http.response.pathsend" in scope.get("extensions", {}):
                await send({"type": "http.response.pathsend", "path": stream.path})
                return
            pieces = iter(stream.pieces())
            while (piece := await self._hop(next, pieces, None)) is not None:
                await asyncio.sleep(0)  # a cancellation takes effect here
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            stream.close()

    async def _hop(self, function: Callable[..., T], *args: object) -> T:
        """Run `function` in a thread to its end. A cancellation takes effect after it: so a commit has ended before an
        upload is aborted, and what was opened reaches the code that closes it."""
        running = asyncio.ensure_future(to_thread.run_sync(partial(function, *args), limiter=self._limiter))
        cancelled = None
        while not running.done():
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                cancelled = asyncio.current_task()
        if cancelled:
            cancelled.cancel()
        return running.result()


class _Body:
    """Receives the body of a request in batches of about a MiB. Raises `MalformedRequest`, `RequestTimeout`."""

    def __init__(self, receive: Receive, timeout: float) -> None:
        self._receive = receive
        self._timeout = timeout
        self.over = False

    async def batch(self) -> list[bytes]:
        pieces, credited = Pieces(), 0
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                while not self.over and pieces.size < PIECE:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        # Its chunks may be broken, or it closed only its half: then it can still read the answer.
                        raise MalformedRequest("The body ended before it should.")
                    pieces.add(message.get("body", b""))
                    self.over = not message.get("more_body", False)
                    if pieces.size - credited >= self._timeout * MIN_BODY_RATE:
                        credited = pieces.size
                        deadline.reschedule(asyncio.get_running_loop().time() + self._timeout)
        except TimeoutError:
            raise RequestTimeout(
                f"In {self._timeout:g} seconds less than {MIN_BODY_RATE} bytes a second of the body arrived."
            ) from None
        return pieces.all()


def _feed(exchange: Exchange, pieces: list[bytes], over: bool) -> None:
    for piece in pieces:
        if exchange.feed(piece) is not None:
            return
    if over:
        exchange.finish()


def _exchange_at_once(app: App, request: Request, body: bytes) -> Response:
    exchange: Exchange = app.begin(request)
    if body and exchange.response is None:
        exchange.feed(body)
    response = exchange.finish()
    if not isinstance(response.body, bytes) and response.body.size <= PIECE:
        # A body that fits into one piece is read in this hop: another hop would cost more than the read.
        return exchange.collect()
    return response


def _request(scope: Scope) -> Request:
    return Request(
        method=scope["method"],
        path=scope["path"] or "/",
        root_path=scope.get("root_path", ""),
        version=scope.get("http_version", "1.1"),
        query=scope["query_string"].decode("latin-1"),
        headers=[(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in scope["headers"]],
        client=(scope.get("client") or "-")[0],
        detects_cut_chunks=True,
    )


def _start(response: Response) -> Message:
    headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in response.headers]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


def create_app(node: Node | None = None) -> Starlette:
    """Return the app of `node`, or of the element that ARTSTORE_CONFIG, ARTSTORE_HOME and the like describe."""
    served = App(node or open_default(), "starlette")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(served.close)

    app = Starlette(lifespan=lifespan)
    app.router.default = Endpoint(served)  # also for requests that no route can match: OPTIONS *, CONNECT
    return app
