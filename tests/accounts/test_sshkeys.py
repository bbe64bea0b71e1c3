"""Keys as people paste them: real ones by ssh-keygen, and everything that is not one."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from accounts import services, sshkeys
from accounts.errors import Invalid
from accounts.models import AuditEntry, SSHKey, User

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDa/2SzFy8zhTYtfB9j7pj47nYbFbAz+oMyXqsppCm9w me@here"


def make(tmp_path: Path, *options: str) -> tuple[str, str]:
    """A public key, and its fingerprint as ``ssh-keygen -l`` prints it."""
    path = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-C", "me@here", "-f", str(path), *options], check=True
    )
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{path}.pub"], check=True, capture_output=True, text=True
    ).stdout.split()
    return Path(f"{path}.pub").read_text(), f"{told[0]} {told[1]}"


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"),
        ("-t", "ecdsa", "-b", "256"),
        ("-t", "ecdsa", "-b", "384"),
        ("-t", "ecdsa", "-b", "521"),
        ("-t", "rsa", "-b", "2048"),
        ("-t", "rsa", "-b", "3072"),
    ],
)
def test_real_keys(options: tuple[str, ...], tmp_path: Path) -> None:
    text, told = make(tmp_path, *options)
    key = sshkeys.parse(text)
    assert f"{key.bits} {key.fingerprint}" == told
    assert key.line == text.strip()
    assert key.comment == "me@here"


def ssh_string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def test_security_key() -> None:
    blob = (
        ssh_string(b"sk-ssh-ed25519@openssh.com")
        + ssh_string(base64.b64decode(ED25519.split()[1])[-32:])
        + ssh_string(b"ssh:")
    )
    key = sshkeys.parse(f"sk-ssh-ed25519@openssh.com {base64.b64encode(blob).decode()}")
    assert key.bits == 256
    assert key.comment == ""


def code(text: str) -> str:
    with pytest.raises(Invalid) as caught:
        sshkeys.parse(text)
    assert caught.value.fields == {"public_key": caught.value.code}
    return caught.value.code


def test_private_key(tmp_path: Path) -> None:
    make(tmp_path, "-t", "ed25519")
    assert code((tmp_path / "key").read_text()) == "sshkey.private"


def test_short_rsa(tmp_path: Path) -> None:
    text, _ = make(tmp_path, "-t", "rsa", "-b", "1024")
    with pytest.raises(Invalid) as caught:
        sshkeys.parse(text)
    assert caught.value.code == "sshkey.rsa_short"
    assert caught.value.params["bits"] == 1024


def test_huge_rsa_is_refused_before_it_is_computed_with() -> None:
    blob = ssh_string(b"ssh-rsa") + ssh_string(b"\x01\x00\x01") + ssh_string(b"\x7f" * 4096)
    assert code(f"ssh-rsa {base64.b64encode(blob).decode()}") == "sshkey.rsa_long"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "sshkey.empty"),
        ("   \n ", "sshkey.empty"),
        ("hello", "sshkey.empty"),
        (f"{ED25519}\n{ED25519}", "sshkey.several_lines"),
        (f'command="rm -rf /" {ED25519}', "sshkey.options"),
        (f"no-pty,from=10.0.0.1 {ED25519}", "sshkey.options"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAP", "sshkey.type"),
        ("ssh-ed448 AAAA", "sshkey.type"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "sshkey.certificate"),
        ("ssh-ed25519 AAAA", "sshkey.damaged"),
        ("ssh-ed25519", "sshkey.damaged"),
        ("ssh-ed25519 %%%%", "sshkey.damaged"),
        (ED25519.replace("ssh-ed25519 ", "ssh-rsa "), "sshkey.damaged"),
        (ED25519[:60], "sshkey.damaged"),
        ("ssh-ed25519 ÄÖÜ", "sshkey.damaged"),
        ("ѕsh-ed25519 AAAA", "sshkey.not_ascii"),
        ("x" * 20_000, "sshkey.too_long"),
        ("PuTTY-User-Key-File-3: ssh-ed25519", "sshkey.private"),
    ],
)
def test_what_is_no_key(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_comment_cannot_break_the_line() -> None:
    key = sshkeys.parse(f"{ED25519}\x00\x1b[31mevil")
    assert key.line.isprintable()
    assert "\n" not in key.line


def test_add_and_remove(owner: User) -> None:
    row = services.add_ssh_key(owner, "", ED25519)
    assert row.name == "me@here"
    with pytest.raises(Invalid) as caught:
        services.add_ssh_key(owner, "again", ED25519 + " copy")
    assert caught.value.fields == {"public_key": "sshkey.duplicate"}
    services.remove_ssh_key(owner, row.pk)
    assert not SSHKey.objects.exists()
    assert list(
        AuditEntry.objects.filter(verb__startswith="sshkey").values_list("verb", flat=True)
    ) == ["sshkey.remove", "sshkey.add"]
