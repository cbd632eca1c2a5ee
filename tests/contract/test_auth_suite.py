"""The shipped auth and the one for tests keep what every auth must."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey

from artstore.spi import Auth, Context, Principal
from artstore.testing.auth import AuthSuite
from artstore.testing.memory_auth import StaticAuth
from artstore_jwt.auth import JwtAuth


@pytest.fixture(scope="session")
def key() -> RSAKey:
    return RSAKey.generate_key(2048, auto_kid=True)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")


class TestStatic(AuthSuite):
    @pytest.fixture
    def auth(self) -> Auth:
        return StaticAuth()


class TestStaticWithoutIssue(AuthSuite):
    @pytest.fixture
    def auth(self) -> Auth:
        return StaticAuth(tokens={"a-token-by-heart": Principal(id="1", name="ivanov")})

    @pytest.fixture
    def token(self) -> str:
        return "a-token-by-heart"


class TestJwtByPrivateKey(AuthSuite):
    @pytest.fixture
    def auth(self, tmp_path: Path, context: Context, key: RSAKey) -> Auth:
        private = tmp_path / "private.pem"
        private.write_bytes(key.as_pem(private=True))
        return JwtAuth(JwtAuth.Settings(private_key_file=private), context)


class TestJwtByJwks(AuthSuite):
    @pytest.fixture
    def auth(self, tmp_path: Path, context: Context, key: RSAKey) -> Auth:
        private, jwks = tmp_path / "private.pem", tmp_path / "jwks.json"
        private.write_bytes(key.as_pem(private=True))
        jwks.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
        settings = JwtAuth.Settings(private_key_file=private, jwks_file=jwks, issuer="here", audience="store")
        return JwtAuth(settings, context)
