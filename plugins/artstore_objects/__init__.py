"""A backend over any object store with conditional puts: implement `ObjectStore` and subclass `ObjectBackend`."""
