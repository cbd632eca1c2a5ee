"""Parses key files as operators make them: PEM of openssl and of cert-manager (RFC 7468).

A file is used whole, or refused with the line and the name of what is in the way. So a second key is never passed over,
and a cut or commented file never becomes one with fewer keys than its operator sees.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from cryptography.x509 import Certificate, load_der_x509_certificate

from artstore_jwt.key_material import KeyMaterial
from artstore_jwt.signing_key import SigningKey, VerifyKey, signing_key

_EDGE = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----")
_PUBLIC = ("PUBLIC KEY", "RSA PUBLIC KEY")
_PRIVATE = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_CERTIFICATE = ("CERTIFICATE", "X509 CERTIFICATE")
_PARAMETERS = "EC PARAMETERS"
"""openssl writes the name of the curve before a key on it. The key repeats it."""
_PSS = bytes.fromhex("06092a864886f70d01010a")
"""DER of the algorithm RSASSA-PSS: such a key must not make signatures of another kind, and RS256 is one."""
_MAX_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of a PEM file, decoded. `line` is the number of its first line."""

    label: str
    line: int
    der: bytes

    @property
    def where(self) -> str:
        return f"{self.label} (line {self.line})"


def pem_keys(raw: bytes) -> KeyMaterial:
    """Return the public keys of a PEM file: of public keys, certificates and private keys, each key once.

    They have no `kid`: a token is verified with them whatever `kid` it carries. A certificate that issued another one
    of the file is the authority of a chain: its key signs certificates and no tokens, so it is not used. Raises
    `ValueError`, whose text follows the name of the file.
    """
    found: dict[str, VerifyKey] = {}
    certificates: list[tuple[_Block, Certificate]] = []
    for block in _blocks(raw):
        if block.label in _CERTIFICATE:
            certificates.append((block, _certificate(block)))
        elif block.label != _PARAMETERS:
            _add(found, block, _native_public_key(block))
    unused: list[str] = []
    for block, certificate in certificates:
        if any(_is_issuer(certificate, other) for _, other in certificates):
            unused.append(f"{block.where} issued another certificate of the file: it is no key for tokens")
        else:
            if certificate.public_key_algorithm_oid.dotted_string == "1.2.840.113549.1.1.10":
                raise _pss(block)
            _add(found, block, certificate.public_key())
    if not found:
        raise ValueError(f"holds no public key in PEM{_hint(raw)}")
    return KeyMaterial(tuple(found.values()), tuple(unused))


def pem_private_key(raw: bytes) -> tuple[str, SigningKey]:
    """Return the one private key of a PEM file, with its algorithm. Certificates and public keys beside it are allowed.

    Raises `ValueError`, whose text follows the name of the file.
    """
    blocks = [b for b in _blocks(raw) if b.label in _PRIVATE]
    if not blocks:
        raise ValueError(f"holds no private key in PEM{_hint(raw)}")
    if len(blocks) > 1:
        lines = " and ".join(str(b.line) for b in blocks)
        raise ValueError(f"holds {len(blocks)} private keys (lines {lines}): keep the one to sign with")
    return _fit(blocks[0], _native_private_key(blocks[0]))


def _add(found: dict[str, VerifyKey], block: _Block, native: object) -> None:
    alg, key = _fit(block, native)
    found.setdefault(key.thumbprint(), VerifyKey(None, alg, key))


def _fit(block: _Block, native: object) -> tuple[str, SigningKey]:
    try:
        return signing_key(native)
    except ValueError as e:
        raise ValueError(f"holds in {block.where} {e}") from None


def _native_public_key(block: _Block) -> object:
    if block.label in _PRIVATE:
        return _native_private_key(block).public_key()  # type: ignore[attr-defined]
    _refuse_pss(block)
    try:
        return load_der_public_key(block.der)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"holds no public key that can be read in {block.where}") from None


def _native_private_key(block: _Block) -> object:
    _refuse_pss(block)
    try:
        return load_der_private_key(block.der, password=None)
    except TypeError:
        raise _encrypted(block.label, block.line) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"holds no private key that can be read in {block.where}") from None


def _certificate(block: _Block) -> Certificate:
    try:
        certificate = load_der_x509_certificate(block.der)
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"holds no public key that can be read in {block.where}") from None
    return certificate


def _is_issuer(certificate: Certificate, other: Certificate) -> bool:
    """Return whether `certificate` issued `other`, which is another one."""
    if certificate == other or certificate.subject != other.issuer:
        return False
    try:
        other.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _refuse_pss(block: _Block) -> None:
    if _PSS in block.der[:64]:  # the algorithm stands at the beginning of a key
        raise _pss(block)


def _pss(block: _Block) -> ValueError:
    return ValueError(f"holds in {block.where} an RSA-PSS key, which must not sign with RS256")


def _encrypted(label: str, line: int) -> ValueError:
    return ValueError(f"is encrypted ({label}, line {line}): keep the key without a password")


# --- blocks -----------------------------------------------------------------------------------------------


def _blocks(raw: bytes) -> list[_Block]:
    """Return the blocks of a PEM file. Raises `ValueError` for a block that is not whole or is no key.

    Text before, between and behind blocks is a comment (openssl writes some); a line in which a block seems to begin or
    end is none, unless it begins with `#`.
    """
    blocks: list[_Block] = []
    label, begin = "", 0
    content: list[bytes] = []
    for number, line in enumerate(map(bytes.strip, _text(raw).splitlines()), 1):
        edge = _EDGE.fullmatch(line)
        if edge is None:
            if label:
                content.append(line)
            elif (b"-----BEGIN" in line or b"-----END" in line) and not line.startswith(b"#"):
                raise ValueError(f"has a line {number} that is not only the begin or end of a block")
            continue
        name = edge[2].decode()
        if (edge[1] == b"BEGIN") == bool(label) or (label and name != label):
            where = f" inside {label} (line {begin})" if label else ""
            raise ValueError(f"has an unexpected {edge[1].decode()} {name} (line {number}){where}")
        if not label:
            label, begin, content = name, number, []
            continue
        blocks.append(_decode(label, begin, content))
        label = ""
        if len(blocks) > _MAX_BLOCKS:
            raise ValueError(f"holds more than {_MAX_BLOCKS} keys and certificates")
    if label:
        raise ValueError(f"ends inside {label} (line {begin}): it was cut")
    return blocks


def _decode(label: str, line: int, content: list[bytes]) -> _Block:
    if label == "ENCRYPTED PRIVATE KEY" or any(c.startswith(b"Proc-Type:") for c in content):
        raise _encrypted(label, line)
    if label not in (*_PUBLIC, *_PRIVATE, *_CERTIFICATE, _PARAMETERS):
        raise ValueError(f"holds {label} (line {line}), which is no key or certificate for tokens")
    try:
        der = base64.b64decode(b"".join(content), validate=True)
    except binascii.Error:
        raise ValueError(f"holds no base64 in {label} (line {line})") from None
    return _Block(label, line, der)


def _text(raw: bytes) -> bytes:
    """Return the text without its byte order mark; editors of Windows write one, PowerShell in UTF-16."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace").encode()
    return raw.removeprefix(codecs.BOM_UTF8)


def _hint(raw: bytes) -> str:
    text = _text(raw).lstrip()
    if text.startswith(b"{"):
        return ": a JWK set belongs into jwks_file"
    if text.startswith((b"ssh-", b"ecdsa-")):
        return ": it is one of OpenSSH (ssh-keygen -e -m PKCS8 converts it)"
    if text.startswith(b"\x30"):
        return ": it seems to be DER (openssl converts it)"
    return ""
