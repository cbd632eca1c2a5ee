"""Authenticates bearer tokens that are JWTs, signed with RS256, ES256 or EdDSA."""
