"""The recipes of docs/identity-providers.md: each with tokens of the shape that the identity provider documents."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import RSAKey

from artstore.errors import Unauthorized
from artstore.spi import TOKEN_ROLES, Context
from artstore_jwt.auth import MAX_TOKEN, JwtAuth

NOW = 1_800_000_000
KEY = RSAKey.generate_key(2048, parameters={"kid": "k1"})
PAGE = Path(__file__).parents[3] / "docs" / "identity-providers.md"
HOME = "https://id.example.org"


def recipes() -> dict[str, dict[str, Any]]:
    """Return the settings of each section of the page, as an operator copies them."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for head, body in zip(parts[1::2], parts[2::2], strict=True):
        block = re.search(r"^```toml\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
        if block:
            found[head] = tomllib.loads(block[1])["auth"]["jwt"]
    return found


def times(**claims: Any) -> dict[str, Any]:
    return {"iat": NOW, "exp": NOW + 300} | claims


KEYCLOAK = times(
    jti="onrtac:5d2c", iss="https://id.example.org/realms/acme", aud=["artstore", "account"], sub="f1c4-64e",
    typ="Bearer", azp="web", sid="4c0a", acr="1", auth_time=NOW, allowed_origins=["/*"],
    realm_access={"roles": ["default-roles-acme", "offline_access", "uma_authorization", "admin"]},
    resource_access={"artstore": {"roles": ["operator"]},
                     "account": {"roles": ["manage-account", "view-profile"]}},
    scope="openid profile email", email_verified=True, name="Ada Lovelace", preferred_username="ada",
    given_name="Ada", family_name="Lovelace", email="ada@example.org",
)  # fmt: skip
AUTHENTIK = times(
    iss="https://id.example.org/application/o/artstore/", sub="8d1f0", aud="artstore", auth_time=NOW,
    acr="goauthentik.io/providers/oauth2/default", amr=["pwd", "mfa"], nonce="n-0S6", sid="3f9c", email="a@example.org",
    email_verified=True, name="Ada Lovelace", given_name="Ada Lovelace", preferred_username="ada", nickname="ada",
    groups=["authentik Admins", "storage operators"], azp="artstore", uid="Jd8fKs",
)  # fmt: skip
AUTH0 = times(
    iss="https://acme.eu.auth0.com/", sub="auth0|6553da60", azp="K1AUPhZq", gty="password",
    aud=["https://files.example.org", "https://acme.eu.auth0.com/userinfo"],
    scope="openid profile files:read", permissions=["files:read", "files:write", "read:patients"],
)  # fmt: skip
AUTH0_ROLES = AUTH0 | {
    "permissions": [],
    "scope": "openid",
    "https://files.example.org/roles": ["operator", "x"],
}
OKTA = times(
    ver=1, jti="AT.0mP4", iss="https://acme.okta.com/oauth2/default", aud="api://artstore", cid="0oa1", uid="00u1",
    scp=["openid", "files:read", "files:write"], auth_time=NOW, sub="ada@example.org",
    groups=["Everyone", "Storage operators"],
)  # fmt: skip
TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA = times(
    aud="66666666-7777-8888-9999-000000000000", iss=f"https://login.microsoftonline.com/{TENANT}/v2.0", nbf=NOW,
    aio="AUQAu/8", azp="web-guid", azpacr="0", name="Ada Lovelace", oid="o-1", preferred_username="ada@example.org",
    rh="0.AT8", scp="Files.Access", roles=["Storage.Operator"], sub="pairwise", tid=TENANT, uti="z1", ver="2.0",
    groups=[f"{n:08x}-0000-0000-0000-000000000000" for n in range(200)], wids=["b79fbf4d"],
)  # fmt: skip
ENTRA_APP = {k: v for k, v in ENTRA.items() if k not in ("scp", "groups", "name", "preferred_username")} | {
    "azpacr": "1", "roles": ["Storage.Reader"], "idtyp": "app",
}  # fmt: skip

TOKENS = [
    ("Keycloak", {"typ": "JWT"}, KEYCLOAK, "operator", "Ada Lovelace"),
    ("Authentik", {"typ": "JWT"}, AUTHENTIK, "operator", "Ada Lovelace"),
    ("Auth0", {"typ": "JWT"}, AUTH0, "user", "auth0|6553da60"),
    (
        "Auth0",
        {"typ": "at+jwt"},
        AUTH0_ROLES | {"client_id": "K1", "azp": None},
        "operator",
        "auth0|6553da60",
    ),
    ("Okta", {}, OKTA, "operator", "ada@example.org"),
    ("Entra ID", {"typ": "JWT", "x5t": "z1"}, ENTRA, "operator", "Ada Lovelace"),
    ("Entra ID", {"typ": "JWT"}, ENTRA_APP, "reader", "pairwise"),
]
ID_TOKENS = [
    (
        "Keycloak",
        {k: v for k, v in KEYCLOAK.items() if k not in ("scope", "typ")} | {"typ": "ID", "at_hash": "x"},
    ),
    (
        "Keycloak",
        {k: v for k, v in KEYCLOAK.items() if k not in ("scope", "typ")},
    ),  # azp, as an older version
    ("Keycloak", KEYCLOAK | {"typ": "Refresh"}),
    ("Keycloak", KEYCLOAK | {"typ": "DPoP"}),
    ("Authentik", {k: v for k, v in AUTHENTIK.items() if k not in ("azp", "uid")}),
    ("Authentik", AUTHENTIK | {"at_hash": "x"}),
    ("Auth0", {k: v for k, v in AUTH0_ROLES.items() if k not in ("scope", "azp", "gty")} | {"nonce": "n"}),
    ("Okta", {k: v for k, v in OKTA.items() if k not in ("scp", "cid", "uid")} | {"at_hash": "x", "amr": ["pwd"]}),
    ("Okta", {k: v for k, v in OKTA.items() if k not in ("scp", "cid", "uid")} | {"nonce": "x"}),
    ("Entra ID", {k: v for k, v in ENTRA.items() if k not in ("scp", "azp", "azpacr")} | {"nonce": "678910"}),
    ("Entra ID", {k: v for k, v in ENTRA.items() if k not in ("scp", "azp", "azpacr")} | {"c_hash": "x"}),
]  # fmt: skip


def sign(claims: dict[str, Any], header: dict[str, Any]) -> str:
    kept = json.dumps({name: value for name, value in claims.items() if value is not None})
    return jws.serialize_compact({"alg": "RS256", "kid": "k1"} | header, kept, KEY, algorithms=["RS256"])


@pytest.fixture
def build(tmp_path: Path) -> Any:
    keys = tmp_path / "jwks.json"
    # As the five publish them: with a certificate, and Keycloak with a key for encryption beside it.
    public = KEY.as_dict(private=False) | {"use": "sig", "x5c": ["MIIC"], "x5t": "abc"}
    keys.write_text(json.dumps({"keys": [public | {"use": "enc", "alg": "RSA-OAEP", "kid": "k2"}, public]}))

    def build(recipe: dict[str, Any]) -> JwtAuth:
        settings = {k: v for k, v in recipe.items() if k != "jwks_url"} | {"jwks_file": keys}
        context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
        return JwtAuth(JwtAuth.Settings(**settings), context, clock=lambda: NOW + 1.0)

    return build


@pytest.mark.parametrize(("provider", "header", "claims", "role", "name"), TOKENS)
def test_the_recipe_accepts_the_documented_access_token(
    build: Any, provider: str, header: dict[str, Any], claims: dict[str, Any], role: str, name: str
) -> None:
    token = sign(claims, header)
    assert len(token) <= MAX_TOKEN
    who = build(recipes()[provider]).authenticate(token)
    assert (who.id, who.name, who.scopes) == (claims["sub"], name, TOKEN_ROLES[role])


@pytest.mark.parametrize(("provider", "claims"), ID_TOKENS)
def test_the_recipe_refuses_the_other_tokens_of_the_provider(
    build: Any, provider: str, claims: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized, match=r"another type|id token"):
        build(recipes()[provider]).authenticate(sign(claims, {"typ": "JWT"}))


@pytest.mark.parametrize(("provider", "header", "claims", "role", "name"), TOKENS)
def test_the_recipe_refuses_tokens_for_others(
    build: Any, provider: str, header: dict[str, Any], claims: dict[str, Any], role: str, name: str
) -> None:
    auth = build(recipes()[provider])
    for change in ({"aud": "other"}, {"aud": ["account"]}, {"aud": None}):
        with pytest.raises(Unauthorized, match="audience"):
            auth.authenticate(sign(claims | change, header))
    for change in ({"iss": claims["iss"] + "x"}, {"iss": None}, {"iss": [claims["iss"]]}):
        with pytest.raises(Unauthorized, match="issuer"):
            auth.authenticate(sign(claims | change, header))


def test_each_recipe_is_tested_and_names_its_issuer_audience_and_keys() -> None:
    assert set(recipes()) == {provider for provider, *_ in TOKENS} == {p for p, _ in ID_TOKENS}
    for recipe in recipes().values():
        assert recipe.keys() >= {"jwks_url", "issuer", "audience"}
        JwtAuth.Settings(**recipe)
