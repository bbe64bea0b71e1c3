"""A wrong name or password is refused with what to change."""

from __future__ import annotations

import pytest
from passlib.hash import sha512_crypt

from accounts.errors import Invalid
from vms import names, passwords


@pytest.mark.parametrize("name", ["web", "web-1", "a", "1", "x" * 63, "a--b"])
def test_good_names(name: str) -> None:
    assert names.validate_name(name) == name
    assert names.validate_hostname(name) == name


@pytest.mark.parametrize(
    ("name", "code", "params"),
    [
        ("", "name.empty", {}),
        ("x" * 64, "name.too_long", {"name_limit": 63}),
        ("Web-1", "name.uppercase", {"name_better": "web-1"}),
        ("-web", "name.hyphen_at_edge", {}),
        ("web-", "name.hyphen_at_edge", {}),
        ("my web", "name.character", {"name_character": "U+0020"}),
        ("web_1", "name.character", {"name_character": "_"}),
        ("网站", "name.character", {"name_character": "网"}),
        ("web\n", "name.character", {"name_character": "U+000A"}),
        ("$(reboot)", "name.character", {"name_character": "$"}),
        ("../web", "name.character", {"name_character": "."}),
    ],
)
def test_bad_names_say_what_to_change(name: str, code: str, params: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        names.validate_name(name)
    assert (caught.value.code, caught.value.params) == (code, params)
    assert caught.value.fields == {"name": code}


def test_hostnames_may_have_dots() -> None:
    assert names.validate_hostname("web.example.org") == "web.example.org"
    for wrong in ("web..org", ".web", "web.", "w" * 60 + ".org", "web.-x"):
        with pytest.raises(Invalid):
            names.validate_hostname(wrong)


@pytest.mark.parametrize("name", ["debian", "alice", "a_b-1"])
def test_good_usernames(name: str) -> None:
    assert names.validate_username(name) == name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "username.empty"),
        ("Alice", "username.characters"),
        ("a b", "username.characters"),
        ("a:b", "username.characters"),
        ("x" * 33, "username.characters"),
        ("1st", "username.characters"),
        ("root", "username.system"),
        ("www-data", "username.system"),
        ("systemd-network", "username.system"),
    ],
)
def test_bad_usernames(name: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        names.validate_username(name)
    assert caught.value.code == code


def test_generated_passwords_are_strong_readable_and_different() -> None:
    made = {passwords.generate() for _ in range(50)}
    assert len(made) == 50
    for password in made:
        assert passwords.validate(password) == password
        assert not set("l1o0IO") & set(password)
        assert len(password.replace("-", "")) == 20


def test_hash_is_what_crypt_checks() -> None:
    hashed = passwords.hash("correct horse")
    assert hashed.startswith("$6$")
    assert sha512_crypt.verify("correct horse", hashed)
    assert passwords.hash("correct horse") != hashed  # salted


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("short", "password.short"),
        ("x" * 129, "password.long"),
        ("with\nnewline", "password.characters"),
        ("пароль-пароль", "password.characters"),
    ],
)
def test_bad_passwords(password: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        passwords.validate(password)
    assert caught.value.code == code
