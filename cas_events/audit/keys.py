"""The Ed25519 key of a home, made on first use, and signatures. The one door to `cryptography` (extra ``audit``).

The private key is a PEM file (PKCS 8, unencrypted) that only its owner may read. Two processes that make it at once
agree on one: the file appears whole, under its name, or not at all. A public key is 32 bytes, shown as hex.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cas_events.errors import AuditExtraMissingError, AuditKeyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_NAME = "audit-key.pem"
_PUBLIC_KEY_BYTES = 32


def require_extra() -> None:
    """Say it clearly if the extra is not installed.

    Raises:
        AuditExtraMissingError: there is no `cryptography`.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise AuditExtraMissingError from None


class SigningKey:
    """A private key; made by `load_or_create`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw().hex()

    @classmethod
    def load_or_create(cls, home: Path) -> SigningKey:
        """The key of a home.

        Raises:
            AuditExtraMissingError: `cryptography` is not installed.
            AuditKeyError: the file cannot be made or read, or is no Ed25519 key.
        """
        require_extra()
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        path = home / FILE_NAME
        try:
            if not path.exists():
                _create(path)
            private = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise AuditKeyError(f"{path}: {error}; move the file away to begin with another key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise AuditKeyError(f"{path} is no Ed25519 key; move the file away to begin with another key")
        return cls(private)

    def sign(self, text: bytes) -> str:
        """The signature, hex."""
        return self._private.sign(text).hex()


def verify_signature(public_key: str, signature: str, text: bytes) -> bool:
    """Whether the holder of the key's private half signed the text; False for what is malformed."""
    require_extra()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_public_key(text: str) -> str:
    """A public key as people pass it, in the form that heads carry.

    Raises:
        AuditKeyError: it is none.
    """
    try:
        raw = bytes.fromhex(text.strip())
    except ValueError:
        raw = b""
    if len(raw) != _PUBLIC_KEY_BYTES:
        raise AuditKeyError(
            f"{text!r} is no public key: 64 hexadecimal digits, as `cas audit key` shows them"
        )
    return raw.hex()


def _create(path: Path) -> None:
    """Write a new key beside its place, and link it there unless somebody was faster."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # With mode 0600.
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        _put(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _put(beside: str, path: Path) -> None:
    """Give the file its name, unless it is taken."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return  # Somebody was faster: theirs is the key.
    except (
        OSError
    ):  # A file system without hard links; there, two that begin at once may end up with two keys.
        Path(beside).rename(path)
