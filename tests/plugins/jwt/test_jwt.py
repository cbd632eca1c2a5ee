"""The auth `jwt`: which tokens it accepts, and what their claims mean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import ValidationError

from artstore.errors import ConfigError, InvalidField, Unauthorized
from artstore.spi import TOKEN_ROLES, Context, SupportsIssue
from artstore_jwt.auth import MAX_TOKEN, VERIFIED_LIMIT, JwtAuth

NOW = 1_800_000_000.0
KEY = RSAKey.generate_key(2048)
OTHER = RSAKey.generate_key(2048)
NOWHERE = Path("/nonexistent")


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


def b64(raw):
    if isinstance(raw, dict | list):
        raw = json.dumps(raw).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload, header=None, key=KEY, alg="RS256"):
    """Return a token with exactly these bytes, also when they are no JSON."""
    head = b64({"alg": "RS256"} if header is None else header)
    text = f"{head}.{b64(payload)}".encode()
    algorithm = jws.JWSRegistry.algorithms[alg]
    return f"{text.decode()}.{b64(algorithm.sign(text, key))}"


def claims(**changes):
    all_ = {"sub": "u-1", "exp": NOW + 600} | changes
    return {k: v for k, v in all_.items() if v is not ...}


@pytest.fixture
def context(tmp_path):
    return Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")


@pytest.fixture
def public(tmp_path):
    path = tmp_path / "public.pem"
    path.write_bytes(KEY.as_pem(private=False))
    return path


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def build(public, context, clock):
    def build(**changes):
        return JwtAuth(JwtAuth.Settings(**({"public_key_file": public} | changes)), context, clock=clock)

    return build


@pytest.fixture
def auth(build):
    return build()


def refused(auth, token, *words):
    with pytest.raises(Unauthorized) as refusal:
        auth.authenticate(token)
    for word in words:
        assert word in refusal.value.detail
    assert token not in refusal.value.detail


# --- form and algorithm -----------------------------------------------------------------------------------


def test_accepts_a_valid_token(auth):
    who = auth.authenticate(signed(claims(name="Ivanov", role="user")))
    assert (who.id, who.name, who.scopes) == ("u-1", "Ivanov", TOKEN_ROLES["user"])


def test_refuses_the_algorithm_none(auth):
    for alg in ("none", "None", "NONE", "nOnE"):
        refused(auth, f"{b64({'alg': alg})}.{b64(claims(role='admin'))}.", "algorithm")
        refused(auth, f"{b64({'alg': alg})}.{b64(claims(role='admin'))}.AAAA", "algorithm")
    refused(auth, f"{b64({'alg': 'RS256'})}.{b64(claims(role='admin'))}.", "signature")


def test_refuses_hmac_with_the_public_key_as_its_secret(auth, public):
    for alg in ("HS256", "RS256"):
        text = f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(claims(role='admin'))}"
        for secret in (public.read_bytes(), public.read_bytes().strip(), KEY.as_der(private=False)):
            refused(auth, f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}")


@pytest.mark.parametrize("alg", ["RS384", "RS512", "PS256", "PS384"])
def test_refuses_other_rsa_algorithms_with_the_right_key(auth, alg):
    refused(auth, signed(claims(), {"alg": alg}, alg=alg), "algorithm")
    refused(auth, signed(claims(), {"alg": "RS256"}, alg=alg), "signature")


def test_refuses_elliptic_curves(auth):
    key = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))
    refused(auth, signed(claims(), {"alg": "ES256"}, key, "ES256"), "algorithm")


EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")
KINDS = {"RS256": KEY, "ES256": EC, "EdDSA": ED}


@pytest.fixture
def of_all_kinds(build, tmp_path):
    """An auth whose set has a key of each kind: `kid` is the algorithm."""
    path = tmp_path / "jwks.json"
    path.write_text(
        json.dumps({"keys": [k.as_dict(private=False) | {"kid": alg} for alg, k in KINDS.items()]})
    )
    return build(public_key_file=None, jwks_file=path)


@pytest.mark.parametrize("alg", list(KINDS))
def test_a_key_of_each_kind_verifies_its_algorithm(of_all_kinds, alg):
    for header in ({"alg": alg, "kid": alg}, {"alg": alg}):
        assert of_all_kinds.authenticate(signed(claims(), header, KINDS[alg], alg)).id == "u-1"
    for other in KINDS:
        if other != alg:  # a header that names another algorithm or another key than the one that signed
            refused(of_all_kinds, signed(claims(), {"alg": other, "kid": alg}, KINDS[alg], alg), "kid")
            refused(of_all_kinds, signed(claims(), {"alg": other}, KINDS[alg], alg), "signature")
            refused(of_all_kinds, signed(claims(), {"alg": alg, "kid": other}, KINDS[alg], alg), "kid")


@pytest.mark.parametrize(
    "alg", ["HS256", "HS384", "HS512", "none", "PS256", "RS512", "ES384", "ES256K", "Ed25519", "Ed448"]
)
def test_an_algorithm_that_is_not_ours_is_refused_whatever_the_key(of_all_kinds, alg):
    for kid in (*KINDS, None):
        text = f"{b64({'alg': alg, 'kid': kid})}.{b64(claims(role='admin'))}"
        for key in KINDS.values():
            for secret in (key.as_pem(private=False), key.as_der(private=False), b""):
                refused(
                    of_all_kinds,
                    f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}",
                    "algorithm",
                )
        refused(of_all_kinds, f"{text}.", "algorithm")


@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
def test_a_signature_of_a_wrong_form_is_refused(of_all_kinds, alg):
    head, body, right = signed(claims(), {"alg": alg}, KINDS[alg], alg).split(".")
    raw = base64.urlsafe_b64decode(right + "==")
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    zero, one = bytes(32), bytes(31) + b"\x01"
    for wrong in (
        b"", raw[:-1], raw + b"\0", raw[::-1], zero + zero, zero + one, one + zero, b"\xff" * 64,
        encode_dss_signature(r, s), bytes(64), raw * 2,
    ):  # fmt: skip
        refused(of_all_kinds, f"{head}.{body}.{b64(wrong)}", "signature" if wrong else "")
    other = {"ES256": ECKey.generate_key("P-256"), "EdDSA": OKPKey.generate_key("Ed25519")}[alg]
    refused(of_all_kinds, signed(claims(), {"alg": alg}, other, alg), "signature")


def test_eddsa_warns_nobody_at_each_token(of_all_kinds, recwarn):
    """The library warns of the name `EdDSA` (RFC 9864), and a warning for each request would fill a log."""
    token = signed(claims(), {"alg": "EdDSA"}, ED, "EdDSA")
    of_all_kinds.authenticate(token)
    assert [w for w in recwarn if "EdDSA" in str(w.message)] == []


@pytest.mark.parametrize("alg", [..., None, 1, [], ["RS256"], {"a": 1}, "", "rs256", "RS256 "])
def test_refuses_unknown_algorithms(auth, alg):
    refused(auth, signed(claims(), {} if alg is ... else {"alg": alg}), "algorithm")


def test_refuses_keys_that_the_token_brings_along(auth):
    public = OTHER.as_dict(private=False)
    for extra in ({"jwk": public}, {"jku": "http://127.0.0.1:9/"}, {"x5u": "http://127.0.0.1:9/"}):
        refused(auth, signed(claims(), {"alg": "RS256"} | extra, OTHER), "signature")


def test_refuses_a_signature_of_another_key_or_text(auth):
    refused(auth, signed(claims(), key=OTHER), "signature")
    mine, theirs = signed(claims()).split("."), signed(claims(role="admin"), key=OTHER).split(".")
    refused(auth, ".".join((*theirs[:2], mine[2])), "signature")
    refused(auth, ".".join((theirs[0], theirs[1], "")), "signature")
    refused(auth, ".".join((*mine[:2], mine[2][:-4])), "signature")


def test_refuses_another_encoding_of_the_same_token(auth):
    token = signed(claims())
    auth.authenticate(token)
    head, body, signature = token.split(".")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for bits in range(1, 16):  # the last letter of 256 encoded bytes has four unused bits
        twin = letters[letters.index(signature[-1]) ^ bits]
        refused(auth, f"{head}.{body}.{signature[:-1]}{twin}", "signature")
    for text in (token + "=", token + "\n", " " + token, token.replace(".", ". "), token + "."):
        refused(auth, text, "not a JWT")


@pytest.mark.parametrize(
    "extra", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}]
)
def test_refuses_critical_extensions(auth, extra):
    refused(auth, signed(claims(), {"alg": "RS256"} | extra), "crit")


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"]
)
def test_accepts_types_of_access_tokens(auth, typ):
    assert auth.authenticate(signed(claims(), {"alg": "RS256", "typ": typ})).id == "u-1"


@pytest.mark.parametrize("typ", ["refresh", "rt+jwt", "logout+jwt", "dpop+jwt", "JOSE", "", None, 1, ["JWT"]])
def test_refuses_other_types(auth, typ):
    refused(auth, signed(claims(), {"alg": "RS256", "typ": typ}), "type")


def test_ignores_unknown_header_fields(auth):
    header = {"alg": "RS256", "x5t": "abc", "nonce": "n", "x5c": ["A" * 1200], "kid": "theirs"}
    assert auth.authenticate(signed(claims(), header)).id == "u-1"
    refused(auth, signed(claims(), {"alg": "RS256", "kid": 7}), "kid")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b'"sub"', b"{", b"\xff\xfe", b"{}x", b"[" * 4000,
        b'{"sub":"a","sub":"b","exp":1900000000}', b'{"sub":"a","exp":NaN}', b'{"sub":"a","exp":Infinity}',
        b'{"sub":"a","exp":' + b"9" * 5000 + b"}", '{"sub":"a","exp":1900000000}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_refuses_payloads_that_are_no_strict_json_object(auth, payload):
    if payload:
        refused(auth, signed(payload), "not a JWT")
    else:
        refused(auth, f"{b64({'alg': 'RS256'})}..AAAA", "not a JWT")


@pytest.mark.parametrize(
    "header", [b"null", b"[]", b"[" * 4000, b'{"alg":"none","alg":"RS256"}', b"\xff", b"{"]
)
def test_refuses_headers_that_are_no_strict_json_object(auth, header):
    refused(auth, signed(claims(), header), "not a JWT")


def test_refuses_long_tokens_before_any_work(auth):
    token = signed(claims(pad="x" * MAX_TOKEN))
    refused(auth, token, "longer")
    auth.authenticate(signed(claims(pad="x" * 5000)))


# --- time and audience ------------------------------------------------------------------------------------


def test_exp_has_no_leeway(auth, clock):
    token = signed(claims(exp=NOW + 10.5))
    clock.now = NOW + 10.4
    auth.authenticate(token)
    clock.now = NOW + 10.5
    refused(auth, token, "expired")
    refused(auth, signed(claims(exp=NOW)), "expired")
    refused(auth, signed(claims(exp=0)), "expired")


@pytest.mark.parametrize(
    "exp", [..., None, True, False, "1900000000", [], {}, -1, NOW * 1000, 10**400, -(10**400), 1e308]
)
def test_exp_is_required_and_has_to_be_a_time(auth, exp):
    refused(auth, signed(claims(exp=exp)), "exp")


def test_refuses_an_exp_too_large_for_a_float(auth):
    refused(auth, signed(b'{"sub":"a","exp":1e999}'), "exp")
    refused(auth, signed(b'{"sub":"a","exp":-1e999}'), "exp")


def test_nbf_is_honoured_with_leeway(build, clock):
    token = signed(claims(nbf=NOW + 5))
    build().authenticate(token)
    strict = build(leeway=0)
    refused(strict, token, "not valid yet")
    clock.now = NOW + 5
    strict.authenticate(token)
    clock.now = NOW + 4
    refused(strict, token, "not valid yet")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("value", [True, "1", [], -1, 10**400])
def test_nbf_and_iat_have_to_be_times(auth, claim, value):
    refused(auth, signed(claims(**{claim: value})), claim)


def test_iat_in_the_far_future_is_refused(auth):
    auth.authenticate(signed(claims(iat=NOW + 64)))
    refused(auth, signed(claims(iat=NOW + 66)), "iat")


def test_refuses_another_issuer(build):
    auth = build(issuer="https://id.example.org/")
    auth.authenticate(signed(claims(iss="https://id.example.org/")))
    for iss in (..., None, "https://id.example.org", ["https://id.example.org/"], 1, ""):
        refused(auth, signed(claims(iss=iss)), "issuer")


def test_refuses_another_audience(build):
    auth = build(audience="store")
    auth.authenticate(signed(claims(aud="store")))
    auth.authenticate(signed(claims(aud=["account", "store"])))
    for aud in (..., None, "Store", "stores", [], ["account"], {"store": 1}, 1, [["store"]]):
        refused(auth, signed(claims(aud=aud)), "audience")


def test_any_issuer_and_audience_without_a_setting(auth):
    auth.authenticate(signed(claims(iss=1, aud={"what": "ever"})))


# --- caller and scopes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sub",
    [..., None, "", " ", 1, True, ["a"], {"a": 1}, "a\nb", "a\x00", "a\x7f", "\x85", "\ud800", "x" * 256],
)
def test_sub_is_required_and_has_no_control_characters(auth, sub):
    refused(auth, signed(claims(sub=sub)), "sub")


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        ({"name": "A", "preferred_username": "b", "username": "c"}, "A"),
        ({"preferred_username": "b", "username": "c"}, "b"),
        ({"username": "c"}, "c"),
        ({}, "u-1"),
        ({"name": "", "preferred_username": 7, "username": "c"}, "c"),
        ({"name": "a\nb", "preferred_username": "x" * 256, "username": "\ud800"}, "u-1"),
        ({"name": "pic\u202egpj"}, "u-1"),
        ({"name": "x" * 255}, "x" * 255),
        ({"name": "Иван Петров"}, "Иван Петров"),
    ],
)
def test_the_name_of_the_caller(auth, given_names, expected):
    who = auth.authenticate(signed(claims(**given_names)))
    assert (who.id, who.name) == ("u-1", expected)


@pytest.mark.parametrize(
    ("rights", "scopes"),
    [
        ({}, set()),
        ({"role": "reader"}, {"files:read"}),
        ({"roles": ["reader", "offline_access", "user"]}, {"files:read", "files:write"}),
        ({"roles": "reader user"}, {"files:read", "files:write"}),
        ({"role": "reader user"}, set()),
        ({"role": "Admin"}, set()),
        ({"role": "root", "roles": ["superuser"]}, set()),
        ({"scope": "openid files:read profile files:*"}, {"files:read"}),
        ({"scopes": ["files:delete", "everything"]}, {"files:delete"}),
        (
            {"scope": "files:read", "scopes": ["storage:read"], "role": "user"},
            {"files:read", "files:write", "storage:read"},
        ),
        ({"scope": "admin"}, set()),
        ({"roles": []}, set()),
        ({"realm_access": {"roles": ["admin"]}, "groups": ["admin"]}, set()),
        ({"role": ["reader", "nobody"]}, {"files:read"}),
        ({"role": ["reader user"]}, set()),
        ({"roles": "reader"}, {"files:read"}),
        ({"scope": ["openid", "files:read"]}, {"files:read"}),
        ({"scope": ["openid files:read"]}, set()),
        ({"scopes": "files:read files:delete"}, {"files:read", "files:delete"}),
        ({"role": None, "roles": None, "scope": None, "scopes": None}, set()),
        ({"role": "", "roles": "", "scope": "", "scopes": []}, set()),
        ({"role": "files:read", "scope": "reader"}, set()),
    ],
)  # fmt: skip
def test_scopes_follow_from_roles_and_scopes(auth, rights, scopes):
    assert auth.authenticate(signed(claims(**rights))).scopes == scopes


ELSEWHERE = {
    "role_claims": (
        "realm_access.roles",
        r"resource_access.my\.app.roles",
        "groups",
        "https://x.org/a.b/roles",
        "scp",
    ),
    "scope_claims": ("permissions",),
    "role_map": {"Storage Ops": ("operator",), "both": ("reader", "user"), "admin": (), "other": ("user",)},
}
WORDS = {
    "reader": {"files:read"},
    "user": {"files:read", "files:write"},
    "operator": set(TOKEN_ROLES["operator"]),
}


@pytest.mark.parametrize(
    ("rights", "scopes"),
    [
        ({"realm_access": {"roles": ["reader", "default-roles"]}}, WORDS["reader"]),
        ({"realm_access": {"roles": "reader user"}}, WORDS["user"]),
        ({"realm_access.roles": ["reader"]}, set()),
        ({"resource_access": {"my.app": {"roles": ["user"]}, "other": {"roles": ["operator"]}}}, WORDS["user"]),
        ({"resource_access": {"my": {"app": {"roles": ["user"]}}}}, set()),
        ({"resource_access": {"my.app": None}}, set()),
        ({"resource_access": None, "realm_access": {}}, set()),
        ({"groups": "reader"}, WORDS["reader"]),
        ({"groups": "reader of books"}, set()),
        ({"groups": "Storage Ops"}, WORDS["operator"]),
        ({"groups": ["Storage Ops", "/Storage Ops"]}, WORDS["operator"]),
        ({"groups": "both"}, WORDS["user"]),
        ({"groups": ["admin"]}, set()),
        ({"https://x.org/a.b/roles": ["reader"]}, WORDS["reader"]),
        ({"https://x": {"org/a": {"b/roles": ["reader"]}}}, set()),
        ({"scp": "openid other"}, WORDS["user"]),
        ({"permissions": ["files:read", "read:patients"]}, WORDS["reader"]),
        ({"role": "operator", "roles": ["operator"], "scope": "files:read", "scopes": ["files:read"]}, set()),
    ],
)  # fmt: skip
def test_roles_lie_where_the_settings_say_and_mean_what_they_say(build, rights, scopes):
    assert build(**ELSEWHERE).authenticate(signed(claims(**rights))).scopes == scopes


@pytest.mark.parametrize(
    ("rights", "place"),
    [
        ({"realm_access": "roles"}, "realm_access"),
        ({"realm_access": ["roles"]}, "realm_access"),
        ({"realm_access": {"roles": {"admin": 1}}}, "realm_access.roles"),
        ({"resource_access": {"my.app": [1]}}, "resource_access.my.app"),
        ({"groups": [{"name": "reader"}]}, "groups"),
        ({"groups": True}, "groups"),
        ({"permissions": {"files:read": True}}, "permissions"),
    ],
)
def test_roles_of_a_wrong_type_are_refused_by_name(build, rights, place):
    refused(build(**ELSEWHERE), signed(claims(**rights)), f"token's {place} must be")


@pytest.mark.parametrize(
    "given",
    [
        {"role_claims": [""]}, {"role_claims": ["a..b"]}, {"role_claims": [".a"]}, {"role_claims": [7]},
        {"scope_claims": ["a."]}, {"role_claims": [".".join("abcdefghi")]}, {"role_claims": ["a"] * 33},
        {"role_map": {"x": "root"}}, {"role_map": {"x": ["reader", "Admin"]}}, {"role_map": {"x": 1}},
        {"role_map": "x"}, {"role_claims": "[1"},
    ],
)  # fmt: skip
def test_a_place_or_a_role_that_does_not_exist_is_no_setting(given):
    with pytest.raises(ValidationError):
        JwtAuth.Settings(**given)


def test_the_environment_sets_places_and_roles_as_text():
    given = JwtAuth.Settings(
        role_claims='["groups", "a.b"]', scope_claims="scp", role_map='{"ops": "operator"}'
    )
    assert (given.role_claims, given.scope_claims) == (("groups", "a.b"), ("scp",))
    assert given.role_map == {"ops": ("operator",)}


def test_issued_tokens_have_their_roles_where_they_are_looked_for(build, tmp_path):
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    for places in (["groups", "roles"], ["role"], ["realm_access.roles"], ["sub", "https://x.org/roles"]):
        auth = build(private_key_file=private, role_claims=places)
        token = auth.issue(user="a", roles=["operator"], seconds=60)
        assert auth.authenticate(token).scopes == TOKEN_ROLES["operator"]
    for places in ([], ["sub"]):
        auth = build(private_key_file=private, role_claims=places)
        with pytest.raises(ConfigError, match="have no place"):
            auth.issue(user="a", roles=["operator"], seconds=60)
        assert auth.authenticate(auth.issue(user="a", roles=[], seconds=60)).id == "a"


@pytest.mark.parametrize("claim", ["role", "roles", "scope", "scopes"])
@pytest.mark.parametrize("value", [1, True, 0.5, {"admin": True}, [1], [["admin"]], [None]])
def test_refuses_roles_and_scopes_of_a_wrong_type(auth, claim, value):
    refused(auth, signed(claims(**{claim: value})), claim)


@pytest.mark.parametrize(
    "use",
    [
        {"typ": "Refresh"}, {"typ": "ID"}, {"typ": "Offline"}, {"typ": "Logout"}, {"typ": ""}, {"typ": None},
        {"token_type": "refresh"}, {"token_use": "id"}, {"token_use": 1}, {"token_type": "REFRESH_TOKEN"},
        {"type": "refresh"}, {"type": "id_token"},
    ],
)  # fmt: skip
def test_refuses_tokens_for_other_uses(auth, use):
    refused(auth, signed(claims(role="admin", **use)), "type")


@pytest.mark.parametrize(
    "marks",
    [
        {"nonce": "n"}, {"at_hash": "x"}, {"c_hash": "x"}, {"azp": "app"}, {"azp": "app", "nonce": "n"},
        {"nonce": "n", "scope": "openid"}, {"at_hash": "x", "scope": "openid"}, {"azp": "app", "scope": None},
        {"azp": "app", "roles": ["admin"], "groups": ["a"]}, {"c_hash": "x", "azp": "app", "uid": "u"},
        {"typ": "JWT", "nonce": "n"}, {"token_type": "jwt", "at_hash": "x"}, {"nonce": "", "type": "service"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}, "scope": "openid"},
    ],
)  # fmt: skip
def test_id_tokens_without_a_type_are_refused(auth, marks):
    for header in ({"alg": "RS256"}, {"alg": "RS256", "typ": "JWT"}):
        refused(auth, signed(claims(role="admin", **marks), header), "id token")


@pytest.mark.parametrize(
    "marks",
    [
        {"azp": "app", "scope": "files:read"}, {"azp": "app", "scp": ["a"]}, {"azp": "app", "scopes": ""},
        {"azp": "app", "uid": "u"}, {"azp": "app", "uid": "u", "nonce": "n"},
        {"azp": "app", "nonce": "n", "scope": "a"},
        {"azp": "app", "idtyp": "app"}, {"azp": "app", "azpacr": "1"}, {"azp": "app", "gty": "client-credentials"},
        {"typ": "Bearer", "azp": "app", "nonce": "n"}, {"token_use": "access", "at_hash": "x"},
        {"nonce": None, "at_hash": None, "azp": None}, {"auth_time": NOW, "acr": "1", "sid": "s", "amr": ["pwd"]},
    ],
)  # fmt: skip
def test_access_tokens_with_claims_of_id_tokens_are_accepted(auth, marks):
    auth.authenticate(signed(claims(**marks)))


def test_the_type_in_the_header_makes_an_access_token(auth):
    marks = {"nonce": "n", "at_hash": "x", "azp": "app"}
    auth.authenticate(signed(claims(**marks), {"alg": "RS256", "typ": "at+jwt"}))
    refused(auth, signed(claims(typ="ID", **marks), {"alg": "RS256", "typ": "at+jwt"}), "another type")


@pytest.mark.parametrize(
    "use",
    [
        {"typ": "Bearer"},
        {"token_type": "access"},
        {"token_use": "access"},
        {"type": "service", "scope": ""},
        {"type": 1, "scope": "openid"},
    ],
)
def test_accepts_other_words_for_an_access_token(auth, use):
    auth.authenticate(signed(claims(azp="app", session_state="s", acr="1", **use)))


# --- remembered tokens -----------------------------------------------------------------------------------------------


def test_a_verified_token_is_not_verified_again(auth):
    token = signed(claims())
    assert auth.authenticate(token) is auth.authenticate(token)


def test_a_remembered_token_expires(auth, clock):
    token = signed(claims(exp=NOW + 5))
    auth.authenticate(token)
    clock.now = NOW + 5
    refused(auth, token, "expired")
    refused(auth, token, "expired")


def test_a_remembered_token_is_refused_after_a_change_of_keys(auth, public):
    token = signed(claims())
    auth.authenticate(token)
    public.write_bytes(OTHER.as_pem(private=False))
    refused(auth, token, "signature")


def test_the_number_of_remembered_tokens_is_limited(auth, monkeypatch):
    monkeypatch.setattr("artstore_jwt.auth.VERIFIED_LIMIT", 3)
    tokens = [signed(claims(jti=n)) for n in range(5)]
    first = [auth.authenticate(t) for t in tokens]
    assert len(auth._verified) == 3
    assert auth.authenticate(tokens[4]) is first[4]
    assert auth.authenticate(tokens[0]) is not first[0]
    assert VERIFIED_LIMIT == 10_000


# --- fuzz -------------------------------------------------------------------------------------------------

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
words = "sub exp nbf iat iss aud name preferred_username username role roles scope scopes"
words += " typ type token_use nonce azp uid"
names = st.sampled_from(words.split(" "))


@shared
@given(
    payload=st.dictionaries(names, values),
    header=st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x5c", "b64"]), values),
)
def test_signed_random_claims_are_refused_or_valid(auth, payload, header):
    for head, body in (
        (header, claims()),
        ({"alg": "RS256"}, claims() | payload),
        ({"alg": "RS256"} | header, payload),
    ):
        try:
            who = auth.authenticate(signed(body, head))
        except Unauthorized:
            continue
        assert who.scopes <= TOKEN_ROLES["admin"]
        assert 0 < len(who.name) <= 255


@shared
@given(head=st.binary(max_size=60), body=st.binary(max_size=60))
def test_signed_random_bytes_are_refused(auth, head, body):
    refused(auth, signed(body))
    refused(auth, signed(claims(), head))


@shared
@given(parts=st.lists(st.binary(max_size=40).map(b64), max_size=5))
def test_random_text_with_dots_is_refused(auth, parts):
    with pytest.raises(Unauthorized):
        auth.authenticate(".".join(parts))


# --- issuing ----------------------------------------------------------------------------------------------


def test_issued_tokens_are_accepted(build, tmp_path):
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    auth = build(private_key_file=private, issuer="me", audience="store")
    assert isinstance(auth, SupportsIssue)
    token = auth.issue(user="ivanov", roles=("operator",), seconds=60)
    who = auth.authenticate(token)
    assert (who.id, who.name, who.scopes) == ("ivanov", "ivanov", TOKEN_ROLES["operator"])
    head, body = (json.loads(base64.urlsafe_b64decode(p + "==")) for p in token.split(".")[:2])
    assert head == {"alg": "RS256", "typ": "JWT", "kid": KEY.thumbprint()}
    jti = body.pop("jti")
    assert (
        jti
        != json.loads(
            base64.urlsafe_b64decode(auth.issue(user="a", roles=[], seconds=1).split(".")[1] + "==")
        )["jti"]
    )
    assert body == {
        "sub": "ivanov", "name": "ivanov", "roles": ["operator"],
        "iat": NOW, "exp": NOW + 60, "iss": "me", "aud": "store",
    }  # fmt: skip


def test_a_token_for_one_second_is_valid_for_one_second(build, tmp_path, clock):
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    auth = build(private_key_file=private)
    clock.now = NOW + 0.999
    token = auth.issue(user="a", roles=[], seconds=1)
    clock.now += 0.999
    auth.authenticate(token)
    clock.now = NOW + 2
    refused(auth, token, "expired")


def test_refuses_to_issue_for_invalid_users_roles_and_times(build, tmp_path):
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    auth = build(private_key_file=private)
    for user in ("", "a\nb", "x" * 256, "\ud800"):
        with pytest.raises(InvalidField, match="user"):
            auth.issue(user=user, roles=[], seconds=1)
    for seconds in (0, -1, 10**12):
        with pytest.raises(InvalidField, match="token is valid"):
            auth.issue(user="a", roles=[], seconds=seconds)
    with pytest.raises(InvalidField, match="role"):
        auth.issue(user="a", roles=["\ud800"], seconds=1)


def test_cannot_issue_without_a_private_key(auth):
    with pytest.raises(ConfigError, match="private_key_file"):
        auth.issue(user="a", roles=[], seconds=1)


def test_cannot_issue_with_the_private_key_of_another_pair(build, tmp_path):
    private = tmp_path / "private.pem"
    auth = build(private_key_file=private)
    with pytest.raises(ConfigError, match="cannot be read"):
        auth.issue(user="a", roles=[], seconds=1)
    private.write_bytes(OTHER.as_pem(private=True))
    with pytest.raises(ConfigError, match="would be refused"):
        auth.issue(user="a", roles=[], seconds=1)


def test_expiry_by_the_real_clock(public, context, tmp_path):
    private = tmp_path / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    auth = JwtAuth(JwtAuth.Settings(private_key_file=private), context)
    assert auth.authenticate(auth.issue(user="a", roles=[], seconds=60)).id == "a"
    refused(auth, signed(claims(exp=time.time() - 1)), "expired")
