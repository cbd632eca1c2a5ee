"""Swagger UI 5.35.0, as npm has it (swagger-ui-dist), less its source maps; Apache-2.0, see LICENSE and NOTICE."""
