"""What every auth must keep: subclass `AuthSuite` and override `auth`.

An auth that makes no tokens itself overrides `token` as well: one it accepts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from artstore.errors import Unauthorized
from artstore.spi import API, ROLES, SCOPES, Auth, SupportsIssue

# Refusing leaves no trace that a caller can see, so one instance may serve every example of a property.
shared = settings(
    # Several classes inherit each property: that is what a suite is for.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    deadline=None,
)


class AuthSuite:
    """The promises of `artstore.spi.Auth`, and of `SupportsIssue` where that is kept."""

    @pytest.fixture
    def auth(self) -> Auth:
        raise NotImplementedError("override this fixture: return the auth under test")

    @pytest.fixture
    def issuer(self, auth: Auth) -> SupportsIssue:
        if not isinstance(auth, SupportsIssue):
            pytest.skip("this auth makes no tokens itself")
        return auth

    @pytest.fixture
    def token(self, issuer: SupportsIssue) -> str:
        return issuer.issue(user="ivanov", roles=["operator"], seconds=600)

    def test_speaks_this_contract(self, auth: Auth) -> None:
        assert auth.API == API

    def test_settings_refuse_what_they_do_not_know(self, auth: Auth) -> None:
        with pytest.raises(ValidationError):
            auth.Settings.model_validate({"no_such_setting_of_anybody": 1})

    def test_tells_who_speaks(self, auth: Auth, token: str) -> None:
        who = auth.authenticate(token)
        assert who.id
        assert who.name
        assert who.scopes <= SCOPES

    def test_tells_the_same_every_time(self, auth: Auth, token: str) -> None:
        assert auth.authenticate(token) == auth.authenticate(token)

    def test_refuses_what_is_no_token(self, auth: Auth) -> None:
        for text in (
            "",
            " ",
            ".",
            "..",
            "null",
            "Bearer",
            "\x00",
            "ä",
            "\ud800",
            "." * 5000,
            "a" * (1 << 20),
        ):
            _refuse(auth, text)

    @shared
    @given(text=st.text(st.characters(exclude_categories=())))
    def test_refuses_any_text_and_raises_nothing_else(self, auth: Auth, text: str) -> None:
        _refuse(auth, text)

    @shared
    @given(data=st.data())
    def test_refuses_a_token_that_was_touched(self, auth: Auth, token: str, data: st.DataObject) -> None:
        auth.authenticate(token)
        at = data.draw(st.integers(0, len(token) - 2))
        char = data.draw(st.characters(exclude_categories=(), exclude_characters=token[at]))
        _refuse(auth, token[:at] + char + token[at + 1 :])
        _refuse(auth, token[:at] + token[at + 1 :] if token[at] != token[at + 1] else token[:at])
        _refuse(auth, token + char)

    def test_serves_many_threads(self, auth: Auth, token: str) -> None:
        expected = auth.authenticate(token)

        def once(n: int) -> bool:
            if n % 2:
                return auth.authenticate(token) == expected
            _refuse(auth, f"{token}{n}")
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(once, range(200)))

    def test_is_ready(self, auth: Auth) -> None:
        auth.check()

    def test_gives_everything_back(self, auth: Auth) -> None:
        auth.close()

    @pytest.mark.parametrize("role", sorted(ROLES))
    def test_a_role_is_its_scopes(self, auth: Auth, issuer: SupportsIssue, role: str) -> None:
        who = auth.authenticate(issuer.issue(user="petrov", roles=[role], seconds=60))
        assert who.name == "petrov"
        assert who.scopes == ROLES[role]

    def test_roles_add_up(self, auth: Auth, issuer: SupportsIssue) -> None:
        who = auth.authenticate(issuer.issue(user="petrov", roles=["reader", "nobody", "user"], seconds=60))
        assert who.scopes == ROLES["user"]

    @pytest.mark.parametrize("roles", [[], ["root"], ["Admin"], ["admin "], ["files:write"]])
    def test_an_unknown_role_may_do_nothing(
        self, auth: Auth, issuer: SupportsIssue, roles: list[str]
    ) -> None:
        assert auth.authenticate(issuer.issue(user="petrov", roles=roles, seconds=60)).scopes == frozenset()

    def test_any_name_survives(self, auth: Auth, issuer: SupportsIssue) -> None:
        for user in ("Иванов", "a_b", "李", "o'neil@example.org", "🙂" * 255):
            assert auth.authenticate(issuer.issue(user=user, roles=[], seconds=60)).name == user


def _refuse(auth: Auth, token: str) -> None:
    with pytest.raises(Unauthorized) as refusal:
        auth.authenticate(token)
    sentence = refusal.value.detail
    assert sentence
    assert len(sentence) < 200, "a sentence for the caller, not a dump"
    assert len(token) < 12 or token not in sentence, "the token itself is a secret"
