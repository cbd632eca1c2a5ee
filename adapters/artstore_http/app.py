"""The HTTP API without a server: a request becomes an exchange, which receives the body and returns the answer."""

from __future__ import annotations

import json
import logging
import re
import secrets

from artstore.errors import ArtstoreError, Forbidden, MalformedRequest, Unauthorized
from artstore.host.boot import Node
from artstore_http import matching
from artstore_http.access import AccessLine
from artstore_http.call import Call
from artstore_http.cors import answer_preflight, cors_headers
from artstore_http.message import Receiver, Request, Response
from artstore_http.metrics import Metrics
from artstore_http.openapi import document
from artstore_http.problems import BadFraming, HeaderFieldsTooLarge, NoToken, UriTooLong, problem
from artstore_http.prometheus import count
from artstore_http.root_path import cut_root_path
from artstore_http.routes import ROUTES

log = logging.getLogger("artstore.http")

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
MAX_FIELDS = 100
"""Header fields of one request."""
MAX_FIELD_BYTES = 16 << 10
"""Bytes of all header fields of one request."""
MAX_TARGET = 8 << 10
"""Bytes of path and query together."""

_HOST = re.compile(
    r"(?:\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]|[A-Za-z0-9._~%!$&'()*+;=-]+)(?::[0-9]*)?"
)  # RFC 3986, 3.2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class App:
    """One node, served. `adapter` is its name in `/api/v1/info`."""

    def __init__(self, node: Node, adapter: str) -> None:
        self.node = node
        self.adapter = adapter
        self._openapi: dict[str, bytes] = {}
        self.root_path = node.settings.server.root_path
        self.cors_origins = frozenset(node.settings.server.cors_origins)
        self.access = node.settings.log.access
        self.metrics = Metrics(node.configuration.home / "state" / "metrics")

    def begin(self, request: Request) -> Exchange:
        """Begin an exchange with the head of a request. Blocks unless `instant(request)`. Never raises."""
        return Exchange(self, request)

    def close(self) -> None:
        """Close the node, and leave the counters to the other processes. A second call has no effect."""
        self.node.close()
        self.metrics.close()

    def openapi(self, root_path: str) -> bytes:
        """Return the OpenAPI document of an element below `root_path`, as JSON."""
        if root_path not in self._openapi:
            made = document(ROUTES, root_path=root_path)
            self._openapi[root_path] = json.dumps(made, ensure_ascii=False).encode()
        return self._openapi[root_path]

    @staticmethod
    def instant(request: Request) -> bool:
        """Return whether the answer needs no thread: it blocks on nothing."""
        return request.path == "/health/live"


class Exchange:
    """One request and its answer.

    While `response` is None, the caller passes the body to `feed` and then calls `finish`. After an early answer the
    rest of the body is not needed. `abort` ends an exchange that cannot be answered. No method raises.
    """

    def __init__(self, app: App, request: Request) -> None:
        self._app = app
        self._request = request = cut_root_path(request, app.root_path)
        self._receiver: Receiver | None = None
        self._caller = self._route = "-"
        self._received = 0
        self.response: Response | None = None
        given = request.header("x-request-id") or ""
        self.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self._access = AccessLine(request, self.request_id)
        try:
            answer = self._open()
            if isinstance(answer, Response):
                self._answer(answer)
            else:
                self._receiver = answer
        except Exception as e:  # every error becomes an answer here, and only here
            self.fail(e)

    def _open(self) -> Response | Receiver:
        request = self._request
        _check_head(request)
        preflight = answer_preflight(request, self._app.cors_origins)
        if preflight is not None:
            return preflight
        found = matching.match(request.method, request.path)
        self._route = found.route.path
        call = Call(
            node=self._app.node,
            adapter=self._app.adapter,
            request=request,
            path=found.path,
            metrics=self._app.metrics,
            openapi=self._app.openapi,
            allowed=frozenset(found.route.parameters),
        )
        if found.route.scope is not None:
            call.by = self._app.node.auth.authenticate(_token(request))
            self._caller = call.by.name
            if found.route.scope not in call.by.scopes:
                raise Forbidden(f"This needs the scope {found.route.scope}.")
        call.check_parameters()
        return found.route.operation(call)

    def feed(self, piece: bytes) -> Response | None:
        """Receive a piece of the body. An answer that it returns ends the exchange before the end of the body."""
        self._received += len(piece)
        if self.response is None and self._receiver is not None:
            try:
                self._receiver.feed(piece)
            except Exception as e:
                return self.fail(e)
        return self.response

    def finish(self) -> Response:
        """Return the answer, after the whole body."""
        if self.response is None and self._receiver is not None:
            try:
                # A WSGI server shows a cut body in no other way.
                if self._received < (self._request.length or 0):
                    raise MalformedRequest("The body ended before it should.")
                self._answer(self._receiver.finish())
            except Exception as e:
                self.fail(e)
        if self.response is None:
            self.fail(RuntimeError("an exchange with neither answer nor receiver"))
        assert self.response is not None
        return self.response

    def collect(self) -> Response:
        """Return the answer with its body in memory, for bodies that fit into one piece."""
        response = self.finish()
        if not isinstance(response.body, bytes):
            stream = response.body
            try:
                response.body = b"".join(stream.pieces())
            except Exception as e:
                self.response = None
                return self.fail(e)
            finally:
                stream.close()
        return response

    def fail(self, error: Exception) -> Response:
        """Answer with a problem, and release what the exchange holds."""
        if not isinstance(error, ArtstoreError):
            log.error("request %s failed", self.request_id, exc_info=error)
        elif error.code in ("damaged", "unavailable", "internal"):
            log.error("request %s: %s", self.request_id, error.detail)
        self.abort(getattr(error, "detail", type(error).__name__))
        status, headers, body = problem(error, self.request_id)
        self._answer(Response(status, headers, body))
        assert self.response is not None
        return self.response

    def abort(self, reason: str = "the client went away") -> None:
        """Release what the exchange holds. It has no effect after an answer, or a second time."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.abort(reason)

    def _answer(self, response: Response) -> None:
        if isinstance(response.body, bytes) and response.status not in (204, 304):
            response.headers.append(("Content-Length", str(len(response.body))))
        response.headers.append(("X-Request-ID", self.request_id))
        response.headers += cors_headers(self._request, self._app.cors_origins)
        if self._request.method == "HEAD":
            if not isinstance(response.body, bytes):
                response.body.close()
            response.body = b""
        self.response = response
        self._count(response, self._access.duration())
        if self._app.access:
            self._access.write_after(response, self._received, self._caller)

    def _count(self, response: Response, duration: float) -> None:
        add = self._app.metrics.add
        method = self._request.method if self._request.method in _METHODS else "-"
        for name, amount in count(method, self._route, response.status, duration):
            add(name, amount)
        if self._received:
            add("artstore_received_bytes_total", self._received)
        sent = len(response.body) if isinstance(response.body, bytes) else response.body.size
        if sent:
            add("artstore_sent_bytes_total", sent)


def _check_head(request: Request) -> None:
    if (
        len(request.headers) > MAX_FIELDS
        or sum(len(n) + len(v) for n, v in request.headers) > MAX_FIELD_BYTES
    ):
        raise HeaderFieldsTooLarge(f"At most {MAX_FIELDS} header fields and {MAX_FIELD_BYTES} bytes of them.")
    if len(request.path) + len(request.query) > MAX_TARGET:
        raise UriTooLong(f"At most {MAX_TARGET} bytes of address.")
    host = request.header("host") or ""
    if not (_HOST.fullmatch(host) if host else not request.needs_host):
        raise BadFraming("A request has exactly one Host.")
    if request.chunked and request.header("content-length") is not None:
        raise BadFraming("Content-Length and Transfer-Encoding contradict each other.")
    if (request.header("transfer-encoding") or "chunked").strip().lower() != "chunked":
        raise BadFraming("Transfer-Encoding can only be chunked: send the bytes of the file as they are.")


def _token(request: Request) -> str:
    header = request.header("authorization")
    if header is None:
        raise NoToken
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or "," in token or " " in token or not token.isascii():
        raise Unauthorized("Authorization must be: Bearer TOKEN.")
    return token
