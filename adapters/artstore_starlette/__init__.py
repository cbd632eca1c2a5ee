"""ASGI: Starlette in front of `artstore_http`."""
