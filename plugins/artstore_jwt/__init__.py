"""Authenticates bearer tokens that are JWTs, signed with RS256."""
