"""The SPICE ticket: how a password is sent to the server (SPICE protocol, "Link stage", AUTH_SPICE)."""

from usbbridge.spice.errors import PasswordTooLongError, TicketUnsupportedError

MAX_PASSWORD_BYTES = 60
"SPICE_MAX_PASSWORD_LENGTH; spice-server sets no longer one, and ignores what follows a NUL."
KEY_BITS = 1024
"The only key size a ticket's fixed 128 bytes have room for."


def check_password(password: str) -> bytes:
    """The password as it is encrypted, NUL included. Raises `PasswordTooLongError` if the protocol cannot carry it."""
    raw = password.encode(errors="surrogateescape")  # the environment may hold bytes that are no UTF-8
    if len(raw) > MAX_PASSWORD_BYTES:
        raise PasswordTooLongError(len(raw), MAX_PASSWORD_BYTES)
    return raw + b"\0"


def encrypt_ticket(der_public_key: bytes, password: str) -> bytes:
    """The 128 bytes that prove knowledge of `password`: RSAES-OAEP with SHA-1 under the server's one-time key.

    Without a password the empty one is encrypted; a server without tickets still wants it to decrypt. Raises
    `ValueError` for a key that is not a 1024-bit RSA one, `PasswordTooLongError`, `TicketUnsupportedError`.
    """
    plain = check_password(password)
    # Imported here: it costs 30 ms and 12 MB, and only a channel that is being linked needs it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(der_public_key)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, RSAPublicKey) or key.key_size != KEY_BITS:
        raise ValueError(f"the server's key is not an RSA key of {KEY_BITS} bits")
    try:
        # SHA-1 is the protocol's choice; OAEP does not rest on its collision resistance.
        return key.encrypt(plain, OAEP(MGF1(SHA1()), SHA1(), None))  # noqa: S303  # the protocol allows no other hash
    except (UnsupportedAlgorithm, ValueError) as error:
        raise TicketUnsupportedError(str(error)) from error
