"""A backend and an auth for artstore, made as a stranger would make them."""
