"""WSGI: Falcon in front of `artstore_http`."""
