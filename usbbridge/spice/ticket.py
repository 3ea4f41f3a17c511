"""The SPICE ticket: how a password is sent to the server (SPICE protocol, "Link stage", AUTH_SPICE).

The encryption is written out here because the alternative costs each process that links a channel 12 MB and 30 ms: a
whole cryptographic library for one modular power. There is no secret key on this side.
"""

import importlib
import os
from typing import Any

from usbbridge.spice.errors import PasswordTooLongError

MAX_PASSWORD_BYTES = 60
"SPICE_MAX_PASSWORD_LENGTH; spice-server sets no longer one, and ignores what follows a NUL."
KEY_BYTES = 128
"The server's key is an RSA one of 1024 bits: a ticket's 128 bytes have room for no other."
_KEY_HEAD = bytes.fromhex("30819f300d06092a864886f70d010101050003818d0030818902818100")
_KEY_TAIL = bytes.fromhex("0203010001")
"""What stands around the modulus in the only form that fits the field's 162 bytes: the DER of a SubjectPublicKeyInfo
with rsaEncryption, 1024 bits, and the exponent 65537 (RFC 5280 §4.1, RFC 8017 §A.1.1)."""
_EXPONENT = 65537
_HASH_BYTES = 20


def check_password(password: str) -> bytes:
    """The password as it is encrypted, NUL included. Raises `PasswordTooLongError` if the protocol cannot carry it."""
    raw = password.encode(errors="surrogateescape")  # the environment may hold bytes that are no UTF-8
    if len(raw) > MAX_PASSWORD_BYTES:
        raise PasswordTooLongError(len(raw), MAX_PASSWORD_BYTES)
    return raw + b"\0"


def encrypt_ticket(der_public_key: bytes, password: str) -> bytes:
    """The 128 bytes that prove knowledge of `password`: RSAES-OAEP with SHA-1 under the server's one-time key.

    Without a password the empty one is encrypted; a server without tickets still wants it to decrypt. Raises
    `ValueError` for a key that is not a 1024-bit RSA one, `PasswordTooLongError`.
    """
    plain = check_password(password)
    padded = _pad(plain, os.urandom(_HASH_BYTES))
    power = pow(int.from_bytes(padded), _EXPONENT, _modulus(der_public_key))
    return power.to_bytes(KEY_BYTES)


def _modulus(der_public_key: bytes) -> int:
    modulus = der_public_key.removeprefix(_KEY_HEAD).removesuffix(_KEY_TAIL)
    if len(modulus) != KEY_BYTES or len(der_public_key) != len(_KEY_HEAD) + KEY_BYTES + len(_KEY_TAIL):
        raise ValueError("it is not an RSA key of 1024 bits")
    if modulus[0] < 0x80 or not modulus[-1] & 1:  # no product of two odd primes of half its length
        raise ValueError("its modulus is not one of 1024 bits")
    return int.from_bytes(modulus)


def _pad(plain: bytes, seed: bytes) -> bytes:
    """EME-OAEP with an empty label (RFC 8017 §7.1.1). SHA-1 is the protocol's choice; OAEP does not rest on its
    collision resistance."""
    label = _sha1(b"")
    block = label + bytes(KEY_BYTES - len(plain) - 2 * _HASH_BYTES - 2) + b"\x01" + plain
    masked = _xor(block, _mask(seed, len(block)))
    return b"\0" + _xor(seed, _mask(masked, _HASH_BYTES)) + masked


def _mask(seed: bytes, length: int) -> bytes:
    """MGF1 (RFC 8017 §B.2.1)."""
    blocks = (_sha1(seed + counter.to_bytes(4)) for counter in range(-(-length // _HASH_BYTES)))
    return b"".join(blocks)[:length]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _sha1(data: bytes) -> bytes:
    digest: bytes = _implementation()(data, usedforsecurity=False).digest()
    return digest


def _implementation() -> Any:
    """SHA-1 from CPython itself where it has been built with it: hashlib would load OpenSSL, 3.4 MB, for it."""
    try:
        return importlib.import_module("_sha1").sha1
    except ImportError:
        return importlib.import_module("hashlib").sha1
