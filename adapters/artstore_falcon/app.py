"""The WSGI app: `granian --interface wsgi --factory artstore_falcon.app:create_app`, or gunicorn's
`'artstore_falcon.app:create_app()'` with threads."""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterable, Iterator
from typing import Any

import falcon

from artstore.errors import MalformedRequest
from artstore.host.boot import Node, open_default
from artstore.spi import PIECE
from artstore_http.app import App
from artstore_http.message import Request, Stream


class Endpoint:
    """Translates between the WSGI environment and exchanges."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: object) -> None:
        request = _request(req.env)
        exchange = self._app.begin(request)
        try:
            if exchange.response is None:
                for piece in _body(req.env, request):
                    if exchange.feed(piece) is not None:
                        break
            response = exchange.finish()
        except MalformedRequest as e:
            response = exchange.fail(e)
        resp.status = response.status
        for name, value in response.headers:
            resp.set_header(name, value)
        if isinstance(response.body, bytes):
            resp.data = response.body
        else:
            resp.stream = _Pieces(response.body)


class _Pieces:
    """A stream as WSGI needs it: an iterable with `close`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream.pieces())

    def close(self) -> None:
        self._stream.close()


def _body(env: dict[str, Any], request: Request) -> Iterable[bytes]:
    """Yield the body in pieces. It may end early when the client went away; the exchange sees that by the length.

    Raises `MalformedRequest`.
    """
    stream, left = env["wsgi.input"], request.length
    if left is None and not (request.chunked and env.get("wsgi.input_terminated")):
        return
    while left is None or left > 0:
        try:
            piece = stream.read(PIECE if left is None else min(left, PIECE))
        except Exception as e:
            # The client went away, or its chunks are broken: then it can still read the answer. Each server raises
            # errors of its own for that; gunicorn's are no OSError.
            raise MalformedRequest("The body ended before it should.") from e
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def _request(env: dict[str, Any]) -> Request:
    # HTTP_CONTENT_LENGTH is a field that a client named Content_Length.
    own = {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"}
    headers = [
        (k[5:].replace("_", "-").lower(), v) for k, v in env.items() if k.startswith("HTTP_") and k not in own
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if env.get(name):
            headers.append((name.replace("_", "-").lower(), env[name]))
    root_path = env.get("SCRIPT_NAME", "").rstrip("/")
    return Request(
        method=env["REQUEST_METHOD"],
        path=_text(root_path + env.get("PATH_INFO", "")) or "/",
        root_path=_text(root_path),
        version=env.get("SERVER_PROTOCOL", "").partition("/")[2],
        query=env.get("QUERY_STRING", ""),
        headers=headers,
        client=env.get("REMOTE_ADDR") or "-",
        detects_cut_chunks=False,
    )


def _text(path: str) -> str:
    """Return a path of the WSGI environment, which holds the bytes of UTF-8 as Latin-1."""
    return path.encode("latin-1").decode("utf-8", "replace")


def create_app(node: Node | None = None) -> falcon.App:  # type: ignore[type-arg]
    """Return the app of `node`, or of the element that ARTSTORE_CONFIG, ARTSTORE_HOME and the like describe."""
    served = App(node or open_default(), "falcon")
    app = falcon.App(media_type="application/json")
    app.add_sink(Endpoint(served), prefix=re.compile(""))  # also OPTIONS *
    atexit.register(served.close)
    return app
