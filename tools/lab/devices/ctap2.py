"""A FIDO2 authenticator without its transport: CTAP 2.1's commands on P-256 keys that nobody has to keep.

A credential's private key follows from the authenticator's secret, the relying party and the credential's own id, as in
many a cheap key: so it stores nothing, and one that is made again with the same seed knows its credentials again. There
are no discoverable credentials and there is no PIN; attestation is by the credential's own key ("packed", self).

Section numbers are those of CTAP 2.1, and of WebAuthn Level 2 where it says so.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tools.lab.devices.cbor import CborError, Key, Value, decode, encode
from usbbridge.errors import RemoteProtocolError

T = TypeVar("T")
Map = dict[Key, Value]


class Command(IntEnum):
    """First byte of a message (§6)."""

    MAKE_CREDENTIAL = 0x01
    GET_ASSERTION = 0x02
    GET_INFO = 0x04
    RESET = 0x07
    SELECTION = 0x0B


class Status(IntEnum):
    """First byte of an answer (§8.2)."""

    OK = 0x00
    INVALID_COMMAND = 0x01
    INVALID_PARAMETER = 0x02
    UNEXPECTED_TYPE = 0x11
    INVALID_CBOR = 0x12
    MISSING_PARAMETER = 0x14
    CREDENTIAL_EXCLUDED = 0x19
    UNSUPPORTED_ALGORITHM = 0x26
    UNSUPPORTED_OPTION = 0x2B
    INVALID_OPTION = 0x2C
    KEEPALIVE_CANCEL = 0x2D
    NO_CREDENTIALS = 0x2E
    PIN_AUTH_INVALID = 0x33
    PIN_NOT_SET = 0x35


TOUCHED: Final = (Command.MAKE_CREDENTIAL, Command.GET_ASSERTION, Command.RESET, Command.SELECTION)
"Commands for which the user has to touch the key."

AAGUID: Final = bytes.fromhex("757362627269646765206c6162206b31")
"Names the model of an authenticator: the letters of `usbbridge lab k1`, which no manufacturer has."
MAX_MESSAGE: Final = 7609
"What CTAPHID can carry (§11.2.4): one initial and 128 continuation packets of 64 bytes."
MAX_LIST: Final = 32
"Credentials in one allow or exclude list; each costs two HMACs."

ES256: Final = -7
"COSE algorithm: ECDSA on P-256 with SHA-256 (RFC 9053 §2.1)."
PUBLIC_KEY: Final = "public-key"
USER_PRESENT: Final = 0x01
ATTESTED: Final = 0x40
"Flags of authenticator data (WebAuthn §6.1)."
HASH_SIZE: Final = 32
NONCE_SIZE: Final = 32
CREDENTIAL_ID_SIZE: Final = NONCE_SIZE + HASH_SIZE

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"Of the group of P-256 (SEC 2 §2.4.2): private keys are 1 to one less."


class Ctap2Error(RemoteProtocolError):
    """A command that is answered with a status other than OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"CTAP2 status {status:#04x}, {status.name}")
        self.status = status


class Authenticator:
    """Answers one message at a time."""

    def __init__(self, seed: str) -> None:
        self._secret = hashlib.sha256(b"usbbridge lab authenticator\0" + seed.encode()).digest()
        self._counter = 0
        self._commands: dict[int, Callable[[Map], Map | None]] = {
            Command.MAKE_CREDENTIAL: self._make_credential,
            Command.GET_ASSERTION: self._get_assertion,
            Command.GET_INFO: _get_info,
            Command.RESET: self._reset,
            Command.SELECTION: lambda request: None,
        }

    def answer(self, message: bytes) -> bytes:
        """The answer to a message of at least one byte: a status and, if that is OK, what the command gives."""
        command = self._commands.get(message[0])
        if command is None:
            return bytes((Status.INVALID_COMMAND,))
        try:
            request = decode(message[1:]) if len(message) > 1 else {}
            result = command(_typed(request, dict))
        except CborError:
            return bytes((Status.INVALID_CBOR,))
        except Ctap2Error as error:
            return bytes((error.status,))
        return bytes((Status.OK,)) + (encode(result) if result is not None else b"")

    def _make_credential(self, request: Map) -> Map:
        """§6.1."""
        client_data_hash = _field(request, 1, bytes)
        party = _hash(_field(_field(request, 2, dict), "id", str))
        _field(_field(request, 3, dict), "id", bytes)
        if not any(_is_es256(_typed(one, dict)) for one in _field(request, 4, list)):
            raise Ctap2Error(Status.UNSUPPORTED_ALGORITHM)
        _check_options(_field(request, 7, dict, {}), presence_optional=False)
        _check_pin(request, 8)
        if self._known(party, _field(request, 5, list, [])):
            raise Ctap2Error(Status.CREDENTIAL_EXCLUDED)
        credential_id = self._new_id(party)
        key = self._private_key(party, credential_id)
        attested = AAGUID + struct.pack(">H", len(credential_id)) + credential_id + _cose(key.public_key())
        data = self._authenticator_data(party, USER_PRESENT | ATTESTED) + attested
        return {1: "packed", 2: data, 3: {"alg": ES256, "sig": _sign(key, data + client_data_hash)}}

    def _get_assertion(self, request: Map) -> Map:
        """§6.2."""
        party = _hash(_field(request, 1, str))
        client_data_hash = _field(request, 2, bytes)
        options = _field(request, 5, dict, {})
        _check_options(options, presence_optional=True)
        _check_pin(request, 6)
        known = self._known(party, _field(request, 3, list, []))
        if not known:
            raise Ctap2Error(Status.NO_CREDENTIALS)
        flags = 0 if options.get("up") is False else USER_PRESENT
        data = self._authenticator_data(party, flags)
        signature = _sign(self._private_key(party, known[0]), data + client_data_hash)
        return {1: {"id": known[0], "type": PUBLIC_KEY}, 2: data, 3: signature}

    def _reset(self, request: Map) -> None:
        """§6.6: with another secret, what was made before is unknown."""
        self._secret, self._counter = os.urandom(HASH_SIZE), 0

    # ---- credentials

    def _mac(self, purpose: bytes, party: bytes, nonce: bytes) -> bytes:
        return hmac.digest(self._secret, purpose + party + nonce, "sha256")

    def _new_id(self, party: bytes) -> bytes:
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._mac(b"id", party, nonce)

    def _known(self, party: bytes, descriptors: list[Value]) -> list[bytes]:
        """Ids in the list that this authenticator has made for this relying party."""
        if len(descriptors) > MAX_LIST:
            raise Ctap2Error(Status.INVALID_PARAMETER)
        ids = [_field(_typed(one, dict), "id", bytes) for one in descriptors]
        return [one for one in ids if hmac.compare_digest(one[NONCE_SIZE:], self._mac(b"id", party, one[:NONCE_SIZE]))]

    def _private_key(self, party: bytes, credential_id: bytes) -> ec.EllipticCurvePrivateKey:
        number = int.from_bytes(self._mac(b"key", party, credential_id))
        return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())

    def _authenticator_data(self, party: bytes, flags: int) -> bytes:
        """The part before attested credential data (WebAuthn §6.1)."""
        self._counter += 1
        return party + struct.pack(">BI", flags, self._counter)


def _get_info(request: Map) -> Map:
    """§6.4."""
    return {
        1: ["FIDO_2_0"],
        3: AAGUID,
        4: {"rk": False, "up": True, "plat": False},
        5: MAX_MESSAGE,
        7: MAX_LIST,
        8: CREDENTIAL_ID_SIZE,
        9: ["usb"],
        10: [{"alg": ES256, "type": PUBLIC_KEY}],
    }


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _typed(value: Value, kind: type[T]) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise Ctap2Error(Status.UNEXPECTED_TYPE)
    return value


def _field(request: Map, key: Key, kind: type[T], default: T | None = None) -> T:
    """A member of a map; without a default it must be there."""
    if key in request:
        return _typed(request[key], kind)
    if default is None:
        raise Ctap2Error(Status.MISSING_PARAMETER)
    return default


def _is_es256(parameters: Map) -> bool:
    return _field(parameters, "alg", int) == ES256 and _field(parameters, "type", str) == PUBLIC_KEY


def _check_options(options: Map, *, presence_optional: bool) -> None:
    """No credential is discoverable, no user is verified, and to make one the user has to be there (§6.1.2 step 5)."""
    if options.get("rk") or options.get("uv"):
        raise Ctap2Error(Status.UNSUPPORTED_OPTION)
    if options.get("up") is False and not presence_optional:
        raise Ctap2Error(Status.INVALID_OPTION)


def _check_pin(request: Map, key: int) -> None:
    """An empty parameter is a platform that asks for a touch to find out which key the user means (§6.1.2 step 1)."""
    if key in request:
        raise Ctap2Error(Status.PIN_AUTH_INVALID if _field(request, key, bytes) else Status.PIN_NOT_SET)


def _cose(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as COSE_Key (RFC 9053 §7.1.1): type EC2, algorithm, curve P-256, x and y."""
    numbers = key.public_numbers()
    return encode({1: 2, 3: ES256, -1: 1, -2: numbers.x.to_bytes(HASH_SIZE), -3: numbers.y.to_bytes(HASH_SIZE)})


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))
