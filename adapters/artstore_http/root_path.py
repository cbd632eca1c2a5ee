"""An element below a path: behind a proxy, mounted in another app, or with a prefix that the server knows."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

from artstore_http.message import Request

_SAFE = "/~!$&'()*+,;=:@"
"""What a path may hold besides letters, digits and `._-` (RFC 3986, 3.3)."""


def cut_root_path(request: Request, configured: str) -> Request:
    """Return the request with its path below the root path, and with the root path that links begin with.

    The server names a root path (ASGI `root_path`, WSGI `SCRIPT_NAME`), and `server.root_path` the one that clients
    see. A proxy may have cut either of them already, so each is cut where the path begins with it.
    """
    if not (configured or request.root_path):
        return request
    path = request.path
    for root in dict.fromkeys((request.root_path.rstrip("/"), configured)):
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :] or "/"
    root = quote(configured or request.root_path.rstrip("/"), safe=_SAFE)
    return replace(request, path=path, root_path=root)
