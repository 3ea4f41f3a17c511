"""The security key: its USB side, and CTAP2 commands, through the engine of emulated devices."""

import hashlib
import os

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.lab.fido_host import INIT, NONCE, PING, Application, KeyHost
from tools.lab.devices import cbor, fido
from tools.lab.devices.ctap2 import AAGUID, MAX_MESSAGE, Authenticator, Status
from tools.lab.devices.ctaphid import BROADCAST, MAX_REPORTS, packets
from usbbridge.backend.base import Status as TransferStatus
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

MAKE, GET, INFO, RESET = b"\x01", b"\x02", b"\x04", b"\x07"
PARTY = "example.org"
DIGEST = hashlib.sha256(b"client data").digest()


@pytest.fixture
def host() -> KeyHost:
    return KeyHost()


@pytest.fixture
def application(host: KeyHost) -> Application:
    return Application(host)


# ---- USB


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
def test_it_is_a_hid_device_of_fidos_usage_page(speed):
    host = KeyHost(speed)
    [interface] = host.device.configuration().interfaces
    assert (interface.class_, interface.subclass, interface.protocol) == (3, 0, 0)
    assert {end.address: (end.attributes, end.packet_bytes) for end in interface.endpoints} == {
        0x81: (3, 64),
        0x01: (3, 64),
    }
    report = host.control(0x81, 6, 0x2200, 0, 255).data
    assert report.startswith(bytes.fromhex("06d0f1 0901"))
    raw = host.control(0x80, 6, 0x0200, 0, 255).data
    assert bytes((9, 0x21, 0x11, 0x01, 0, 1, 0x22, len(report), 0)) in raw


def test_hid_requests(host):
    assert host.control(0x21, 0x0A).status is TransferStatus.COMPLETED  # SET_IDLE
    assert host.control(0xA1, 0x01, 0x0100, 0, 64).status is TransferStatus.STALL
    assert host.control(0x81, 6, 0x2200, 1, 255).status is TransferStatus.STALL  # no such interface


def test_a_report_may_also_come_over_endpoint_0(host):
    [report] = packets(BROADCAST, INIT, NONCE)
    assert host.control(0x21, 0x09, 0x0200, 0, report).status is TransferStatus.COMPLETED
    answer = host.get()
    assert answer is not None
    assert answer[7:15] == NONCE


def test_an_answer_does_not_fit_into_less_than_a_report(host):
    host.put(packets(BROADCAST, INIT, NONCE)[0])
    assert host.submit(0x81, 63).done.status is TransferStatus.OVERFLOW


def test_who_reads_nothing_can_write_no_more(host, application):
    long = os.urandom(MAX_MESSAGE)
    for _ in range(MAX_REPORTS // len(packets(0, PING, long)) + 1):
        application.send(PING, long)
    waiting = host.submit(1, packets(application.channel, PING, b"later")[0])
    assert waiting.done is None
    while waiting.done is None:
        assert host.get() is not None
    assert waiting.done.status is TransferStatus.COMPLETED


@pytest.mark.parametrize(
    ("speed", "options"), [(Speed.SUPER, {}), (Speed.HIGH, {"touch": "no"}), (Speed.HIGH, {"x": ""})]
)
def test_a_key_that_cannot_be(speed, options):
    with pytest.raises(UsageError):
        fido.create(speed, options)


# ---- CTAP2


def make_request(**changes) -> dict:
    request = {
        1: DIGEST,
        2: {"id": PARTY, "name": "Example"},
        3: {"id": b"user", "name": "somebody"},
        4: [{"alg": -257, "type": "public-key"}, {"alg": -7, "type": "public-key"}],
    }
    return request | {int(key[1:]): value for key, value in changes.items()}


class Credential:
    """What MakeCredential has given."""

    def __init__(self, result: dict) -> None:
        self.data = result[2]
        self.id = self.data[55 : 55 + 64]
        cose = cbor.decode(self.data[55 + 64 :])
        assert (cose[1], cose[3], cose[-1]) == (2, -7, 1)
        x, y = (int.from_bytes(cose[key]) for key in (-2, -3))
        self.key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()

    def verify(self, signature: bytes, data: bytes) -> None:
        self.key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def credential(application: Application) -> Credential:
    status, result = application.command(MAKE, make_request())
    assert status == Status.OK
    return Credential(result)


def get_request(made: Credential | None = None, party: str = PARTY, **changes) -> dict:
    listed = [{"id": made.id, "type": "public-key"}] if made else []
    return {1: party, 2: DIGEST, 3: listed} | {int(key[1:]): value for key, value in changes.items()}


def test_information(application):
    status, about = application.command(INFO)
    assert status == Status.OK
    assert (about[1], about[3], about[5]) == (["FIDO_2_0"], AAGUID, MAX_MESSAGE)
    assert about[4] == {"rk": False, "up": True, "plat": False}


def test_a_credential_attests_itself(application):
    status, result = application.command(MAKE, make_request())
    assert (status, result[1], result[3]["alg"]) == (Status.OK, "packed", -7)
    made = Credential(result)
    assert made.data[:32] == hashlib.sha256(PARTY.encode()).digest()
    assert made.data[32] == 0x41  # user present, attested credential
    assert made.data[37:55] == AAGUID + b"\0\x40"
    made.verify(result[3]["sig"], made.data + DIGEST)


def test_an_assertion_is_signed_by_the_credential(application):
    made = credential(application)
    status, result = application.command(GET, get_request(made))
    assert (status, result[1]) == (Status.OK, {"id": made.id, "type": "public-key"})
    made.verify(result[3], result[2] + DIGEST)
    assert result[2][32:] == b"\x01" + (2).to_bytes(4)  # the second signature
    with pytest.raises(InvalidSignature):
        made.verify(result[3], result[2] + bytes(32))


def test_presence_is_not_claimed_where_it_was_not_asked_for(application):
    made = credential(application)
    _, result = application.command(GET, get_request(made, _5={"up": False}))
    assert result[2][32] == 0
    made.verify(result[3], result[2] + DIGEST)


def test_no_two_credentials_are_alike(application):
    first, second = credential(application), credential(application)
    assert first.id != second.id
    assert first.key.public_numbers() != second.key.public_numbers()


def test_a_key_with_the_same_serial_number_knows_its_credentials_again():
    made = credential(Application(KeyHost(serial="ONE")))
    status, result = Application(KeyHost(serial="ONE")).command(GET, get_request(made))
    assert status == Status.OK
    made.verify(result[3], result[2] + DIGEST)
    assert Application(KeyHost(serial="TWO")).command(GET, get_request(made))[0] == Status.NO_CREDENTIALS


def test_credentials_of_others_are_not_known(application):
    made = credential(application)
    assert application.command(GET, get_request(made, "other.org"))[0] == Status.NO_CREDENTIALS
    assert application.command(GET, get_request())[0] == Status.NO_CREDENTIALS
    made.id = made.id[:-1] + bytes((made.id[-1] ^ 1,))
    assert application.command(GET, get_request(made))[0] == Status.NO_CREDENTIALS


def test_after_a_reset_no_credential_is_known(application):
    made = credential(application)
    assert application.command(RESET) == (Status.OK, {})
    assert application.command(GET, get_request(made))[0] == Status.NO_CREDENTIALS


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"_4": [{"alg": -257, "type": "public-key"}]}, Status.UNSUPPORTED_ALGORITHM),
        ({"_4": {}}, Status.UNEXPECTED_TYPE),
        ({"_1": "text"}, Status.UNEXPECTED_TYPE),
        ({"_2": {"name": "x"}}, Status.MISSING_PARAMETER),
        ({"_7": {"rk": True}}, Status.UNSUPPORTED_OPTION),
        ({"_7": {"uv": True}}, Status.UNSUPPORTED_OPTION),
        ({"_7": {"up": False}}, Status.INVALID_OPTION),
        ({"_8": b""}, Status.PIN_NOT_SET),
        ({"_8": bytes(16)}, Status.PIN_AUTH_INVALID),
        ({"_5": [{"id": bytes(64), "type": "public-key"}] * 33}, Status.INVALID_PARAMETER),
    ],
)
def test_credentials_that_are_refused(application, changes, status):
    assert application.command(MAKE, make_request(**changes))[0] == status


def test_a_credential_that_is_on_the_list_of_those_to_exclude_is_not_made_again(application):
    made = credential(application)
    excluded = make_request(_5=[{"id": made.id, "type": "public-key"}])
    assert application.command(MAKE, excluded)[0] == Status.CREDENTIAL_EXCLUDED


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"\x06\xa0", Status.INVALID_COMMAND),
        (b"\xff", Status.INVALID_COMMAND),
        (MAKE, Status.MISSING_PARAMETER),
        (MAKE + b"\xa1", Status.INVALID_CBOR),
        (MAKE + b"\x80", Status.UNEXPECTED_TYPE),
        (GET + b"\xa1\x01\x02", Status.UNEXPECTED_TYPE),
    ],
)
def test_messages_that_are_no_commands(message, status):
    assert Authenticator("x").answer(message) == bytes((status,))
