"""A backend over any object store that has conditional puts."""
