"""A backend and an auth for artstore, as an author outside of this project would write them."""
