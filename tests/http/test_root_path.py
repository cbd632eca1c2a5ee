"""The element below a path: links lead back to it, whoever cuts the path off."""

from __future__ import annotations

import sys
from collections.abc import Callable

from support.servers import Element

MOUNTED_WSGI = """
import sys
from wsgiref.simple_server import make_server
from artstore_falcon.app import create_app

app = create_app()

def mounted(env, start_response):
    path = env["PATH_INFO"]
    if path.startswith("/store/"):
        env |= {"SCRIPT_NAME": "/store", "PATH_INFO": path.removeprefix("/store")}
    return app(env, start_response)

make_server("127.0.0.1", int(sys.argv[1]), mounted).serve_forever()
"""
COMMANDS = {
    "starlette": [
        *(sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--port", "PORT"),
        *("--url-path-prefix", "/store", "artstore_starlette.app:create_app"),
    ],
    # `--url-path-prefix` of granian is the same for WSGI, but breaks the path of a request that is not below it, such
    # as that by which this test waits for the server.
    "falcon": [sys.executable, "-c", MOUNTED_WSGI, "PORT"],
}


def check_links(element: Element, asked: str, shown: str) -> None:
    """Check that requests below `asked` are answered with links below `shown`."""
    for n in range(2):
        made = element.ask("POST", f"{asked}/api/v1/files?filename={n}.txt", None, b"abc")
        assert made.status == 201, made
        assert made.header("location") == f"{shown}/api/v1/files/{made.json()['file_id']}"
    page = element.get(f"{asked}/api/v1/files?limit=1")
    assert (page.header("link") or "").startswith(f"<{shown}/api/v1/files?limit=1&cursor="), page
    job = element.ask("POST", f"{asked}/api/v1/maintenance/rebuild", None, b"")
    assert job.header("location") == f"{shown}/api/v1/maintenance/jobs/{job.json()['id']}"
    root = element.get(f"{asked}/").json()
    assert (root["api"], root["openapi"]) == (f"{shown}/api/v1", f"{shown}/openapi.json")
    assert element.get(f"{asked}/openapi.json").json()["servers"] == [{"url": shown or "/"}]
    assert element.get(f"{asked}/health/live").status == 200
    assert element.get(f"{asked}/docs").status == 200


def test_an_element_that_is_not_mounted_has_links_without_prefix(
    adapter: str, start: Callable[..., Element]
) -> None:
    check_links(start(adapter), "", "")


def test_links_begin_with_the_configured_root_path(adapter: str, start: Callable[..., Element]) -> None:
    """A proxy may cut the path off (`location /store/ { proxy_pass http://element/; }`) or leave it."""
    element = start(adapter, settings={"SERVER__ROOT_PATH": "/store/"})
    check_links(element, "", "/store")
    check_links(element, "/store", "/store")
    element.get("/storefront/health/live").problem(404)
    element.get("/store/store/health/live").problem(404)


def test_links_begin_with_the_prefix_of_the_server(adapter: str, start: Callable[..., Element]) -> None:
    element = start(adapter, command=COMMANDS[adapter])
    check_links(element, "/store", "/store")
