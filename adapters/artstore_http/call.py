"""One request as an operation sees it: who asks for what, of which element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from artstore.errors import InvalidField
from artstore.host.boot import Node
from artstore.ids import FileId, parse_id
from artstore.kernel import Kernel
from artstore.spi import Principal
from artstore_http.message import Headers, Request, Response
from artstore_http.metrics import Metrics
from artstore_http.problems import InvalidCursor, UnknownParameter

ANONYMOUS = Principal(id="-", name="-")


@dataclass(slots=True, kw_only=True)
class Call:
    """What an operation receives. `by` is ANONYMOUS where no token is needed."""

    node: Node
    adapter: str
    metrics: Metrics
    openapi: Callable[[str], bytes]
    """Returns the OpenAPI document of the app below a root path, as JSON."""
    request: Request
    path: dict[str, str]
    by: Principal = ANONYMOUS
    allowed: frozenset[str] = field(default_factory=frozenset)

    @property
    def kernel(self) -> Kernel:
        return self.node.kernel

    @property
    def file_id(self) -> FileId:
        """Return the id in the path. Raises `InvalidField`."""
        return parse_id(self.path["file_id"])

    def link(self, path: str) -> str:
        """Return a path of ours as the client has to ask for it."""
        return self.request.root_path + path

    def check_parameters(self) -> None:
        """Raise `UnknownParameter` for a parameter that the operation does not know."""
        for name in self.request.parameters:
            if name not in self.allowed:
                known = ", ".join(sorted(self.allowed)) or "none"
                raise UnknownParameter(f"There is no parameter '{name}' here; known: {known}.")

    def parameter(self, name: str) -> str | None:
        """Return a query parameter that may come once, or None."""
        values = self.request.parameters.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise InvalidField(name, f"{name} must come once.")
        return values[0]

    def number(self, name: str, *, least: int = 0, most: int = (1 << 63) - 1) -> int | None:
        """Return a query parameter that is a whole number, or None."""
        text = self.parameter(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most):
            raise InvalidField(name, f"{name} must be a whole number from {least} to {most}.")
        return int(text)

    def page_parameters(self) -> tuple[int, str | None]:
        """Return how many items are asked for, and after which id. Raises `InvalidField`, `InvalidCursor`."""
        limit, cursor = self.number("limit", least=1, most=1000) or 100, self.parameter("cursor")
        if cursor is not None:
            try:
                parse_id(cursor)
            except InvalidField:
                raise InvalidCursor from None
        return limit, cursor


def json_response(body: bytes, status: int = 200, headers: Headers | None = None) -> Response:
    """Return an answer in JSON that no shared cache may keep."""
    return Response(
        status,
        [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *(headers or [])],
        body,
    )
