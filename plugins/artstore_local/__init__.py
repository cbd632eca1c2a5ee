"""The local disk: durable by `os`, three fsyncs an upload, nothing ever seen half-written."""
