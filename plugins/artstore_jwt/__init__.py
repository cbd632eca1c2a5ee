"""Bearer tokens: JWT, RS256."""
