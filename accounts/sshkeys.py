"""Public SSH keys as they stand in ``authorized_keys``, without options.

Wire format: RFC 4253 section 6.6 (rsa), RFC 5656 (ecdsa), RFC 8709 (ed25519), OpenSSH's
PROTOCOL.u2f (sk-). The fingerprint is the one that ``ssh-keygen -l`` prints.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from accounts.errors import Invalid

RSA_MIN_BITS = 2048
RSA_MAX_BITS = 16384  # OpenSSH's own limit
MAX_TEXT = 12_000
MAX_COMMENT = 128
_ED25519_BITS = 256
_RSA = "ssh-rsa"
_ED25519 = "ssh-ed25519"
_SK_ED25519 = "sk-ssh-ed25519@openssh.com"
_SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES = {
    "ecdsa-sha2-nistp256": (b"nistp256", ec.SECP256R1()),
    "ecdsa-sha2-nistp384": (b"nistp384", ec.SECP384R1()),
    "ecdsa-sha2-nistp521": (b"nistp521", ec.SECP521R1()),
}
TYPES = (_ED25519, *_CURVES, _RSA, _SK_ED25519, _SK_ECDSA)
_LOOKS_LIKE_TYPE = re.compile(r"^(sk-)?(ssh|ecdsa)-[a-z0-9@.\-]+$")


@dataclass(frozen=True, kw_only=True)
class ParsedKey:
    type: str
    blob: bytes
    comment: str
    fingerprint: str  # "SHA256:..."
    bits: int

    @property
    def line(self) -> str:
        """One line for ``authorized_keys``."""
        encoded = base64.b64encode(self.blob).decode()
        return f"{self.type} {encoded} {self.comment}".rstrip()


def parse(text: str) -> ParsedKey:
    """Read one public key, or raise ``Invalid`` with a ``sshkey.`` code for ``public_key``."""
    line = _single_line(text)
    kind, _, rest = line.partition(" ")
    if not kind.isascii():
        raise _invalid("sshkey.not_ascii")
    if kind not in TYPES:
        raise _wrong_type(line, kind)
    encoded, _, comment = rest.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise _invalid("sshkey.damaged") from exc
    try:
        bits = _check(kind, blob)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _invalid("sshkey.damaged") from exc
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return ParsedKey(
        type=kind,
        blob=blob,
        comment=_clean_comment(comment),
        fingerprint=f"SHA256:{digest}",
        bits=bits,
    )


def _single_line(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise _invalid("sshkey.too_long")
    if "PRIVATE KEY" in text or "PuTTY-User-Key-File" in text:
        raise _invalid("sshkey.private")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise _invalid("sshkey.empty")
    if len(lines) > 1:
        raise _invalid("sshkey.several_lines")
    return lines[0]


def _wrong_type(line: str, kind: str) -> Invalid:
    if "-cert-v01@openssh.com" in kind:
        return _invalid("sshkey.certificate")
    if _LOOKS_LIKE_TYPE.match(kind) or kind == "ssh-dss":
        return _invalid("sshkey.type", type=kind[:40])
    if any(f" {known} " in f" {line} " for known in TYPES):
        return _invalid("sshkey.options")
    return _invalid("sshkey.empty")


def _check(kind: str, blob: bytes) -> int:
    """The key's bits; ``ValueError`` where the blob is not a sound key of its type."""
    fields = _fields(blob)
    if not fields or fields[0] != kind.encode():
        raise ValueError("type and blob differ")
    if kind == _SK_ED25519:
        _expect(fields, 3)
        ed25519.Ed25519PublicKey.from_public_bytes(fields[1])
        return _ED25519_BITS
    if kind == _SK_ECDSA:
        _expect(fields, 4)
        return _curve_bits(fields[1], fields[2], b"nistp256", ec.SECP256R1())
    if kind in _CURVES:
        _expect(fields, 3)
        return _curve_bits(fields[1], fields[2], *_CURVES[kind])
    if kind == _ED25519:
        _expect(fields, 2)
        ed25519.Ed25519PublicKey.from_public_bytes(fields[1])
        return _ED25519_BITS
    _expect(fields, 3)
    return _rsa_bits(blob, fields)


def _rsa_bits(blob: bytes, fields: list[bytes]) -> int:
    # The size first: making a key object of a million bits would be slow.
    bits = int.from_bytes(fields[2], "big").bit_length()
    if bits > RSA_MAX_BITS:
        raise _invalid("sshkey.rsa_long", bits=bits, maximum=RSA_MAX_BITS)
    if bits < RSA_MIN_BITS:
        raise _invalid("sshkey.rsa_short", bits=bits, minimum=RSA_MIN_BITS)
    key = load_ssh_public_key(b"ssh-rsa " + base64.b64encode(blob))
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 - the blob is wrong, not our types
    return key.key_size


def _curve_bits(name: bytes, point: bytes, expected: bytes, curve: ec.EllipticCurve) -> int:
    if name != expected:
        raise ValueError("another curve than the type says")
    ec.EllipticCurvePublicKey.from_encoded_point(curve, point)  # also: is it on the curve
    return curve.key_size


def _fields(blob: bytes) -> list[bytes]:
    """SSH strings: each a big-endian 32-bit length and its bytes (RFC 4251 section 5)."""
    fields = []
    at = 0
    while at < len(blob):
        length = int.from_bytes(blob[at : at + 4], "big")
        end = at + 4 + length
        if at + 4 > len(blob) or end > len(blob):
            raise ValueError("truncated")
        fields.append(blob[at + 4 : end])
        at = end
    return fields


def _expect(fields: list[bytes], count: int) -> None:
    if len(fields) != count or not all(fields):
        raise ValueError("wrong number of fields")


def _clean_comment(comment: str) -> str:
    """A comment is free text; it must not break the line that it ends."""
    return "".join(char for char in comment if char.isprintable()).strip()[:MAX_COMMENT]


def _invalid(code: str, **params: str | int) -> Invalid:
    return Invalid(code, fields={"public_key": code}, **dict[str, Any](params))
