"""What every auth must do: subclass `AuthSuite` and override `auth`.

For an auth that makes no tokens itself, override `token` as well: it returns a token that the auth accepts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from artstore.errors import InvalidField, Unauthorized
from artstore.spi import API, SCOPES, TOKEN_ROLES, Auth, SupportsIssue, is_user_name

# A refused token has no effect that a caller can see, so one instance may serve every example of a property.
shared = settings(
    # Several classes inherit each property: a suite is made for that.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    deadline=None,
)


class AuthSuite:
    """The promises of `artstore.spi.Auth`, and of `SupportsIssue` if the auth makes tokens."""

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

    def test_it_names_its_contract(self, auth: Auth) -> None:
        assert auth.API == API

    def test_unknown_settings_are_refused(self, auth: Auth) -> None:
        with pytest.raises(ValidationError):
            auth.Settings.model_validate({"no_such_setting": 1})

    def test_a_token_has_a_caller(self, auth: Auth, token: str) -> None:
        who = auth.authenticate(token)
        assert is_user_name(who.id)
        assert is_user_name(who.name)
        assert who.scopes <= SCOPES

    def test_a_token_has_the_same_caller_every_time(self, auth: Auth, token: str) -> None:
        assert auth.authenticate(token) == auth.authenticate(token)

    def test_a_text_that_is_no_token_is_refused(self, auth: Auth) -> None:
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
    def test_any_other_text_is_refused_and_raises_nothing_else(self, auth: Auth, text: str) -> None:
        _refuse(auth, text)

    @shared
    @given(data=st.data())
    def test_a_changed_token_is_refused(self, auth: Auth, token: str, data: st.DataObject) -> None:
        auth.authenticate(token)
        at = data.draw(st.integers(0, len(token) - 2))
        char = data.draw(st.characters(exclude_categories=(), exclude_characters=token[at]))
        _refuse(auth, token[:at] + char + token[at + 1 :])
        _refuse(auth, token[:at] + token[at + 1 :] if token[at] != token[at + 1] else token[:at])
        _refuse(auth, token + char)

    def test_many_threads_may_call_it(self, auth: Auth, token: str) -> None:
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

    def test_close_can_be_called_twice(self, auth: Auth) -> None:
        auth.close()
        auth.close()

    @pytest.mark.parametrize("role", sorted(TOKEN_ROLES))
    def test_a_token_role_gives_its_scopes(self, auth: Auth, issuer: SupportsIssue, role: str) -> None:
        who = auth.authenticate(issuer.issue(user="petrov", roles=[role], seconds=60))
        assert who.name == "petrov"
        assert who.scopes == TOKEN_ROLES[role]

    def test_token_roles_add_up(self, auth: Auth, issuer: SupportsIssue) -> None:
        who = auth.authenticate(issuer.issue(user="petrov", roles=["reader", "nobody", "user"], seconds=60))
        assert who.scopes == TOKEN_ROLES["user"]

    @pytest.mark.parametrize("roles", [[], ["root"], ["Admin"], ["admin "], ["files:write"]])
    def test_an_unknown_token_role_gives_no_scope(
        self, auth: Auth, issuer: SupportsIssue, roles: list[str]
    ) -> None:
        assert auth.authenticate(issuer.issue(user="petrov", roles=roles, seconds=60)).scopes == frozenset()

    def test_any_user_name_is_returned(self, auth: Auth, issuer: SupportsIssue) -> None:
        for user in ("Иванов", "a_b", "李", "o'neil@example.org", "🙂" * 255):
            assert auth.authenticate(issuer.issue(user=user, roles=[], seconds=60)).name == user

    @pytest.mark.parametrize("user", ["", " ", "a\nb", "a\r", "\x1b[2J", "\x00", "\x85", "\ud800", "x" * 256])
    def test_a_user_that_could_forge_a_log_gets_no_token(self, issuer: SupportsIssue, user: str) -> None:
        with pytest.raises(InvalidField):
            issuer.issue(user=user, roles=[], seconds=60)


def _refuse(auth: Auth, token: str) -> None:
    with pytest.raises(Unauthorized) as refusal:
        auth.authenticate(token)
    sentence = refusal.value.detail
    assert sentence
    assert len(sentence) < 200, "a sentence for the caller, not a dump"
    assert len(token) < 12 or token not in sentence, "the token itself is a secret"
