import pytest

from tests.unit.spice.samples import decrypt, der, server_key
from usbbridge.errors import LinkError, UsageError
from usbbridge.spice.errors import PasswordTooLongError
from usbbridge.spice.messages import PUBLIC_KEY_BYTES, TICKET_BYTES
from usbbridge.spice.ticket import encrypt_ticket

KEY = der(server_key())
OTHER_KIND = KEY.replace(bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d010163"))
"An algorithm identifier that nobody knows in the place of rsaEncryption."
EVEN = KEY[:-6] + b"\x00" + KEY[-5:]


@pytest.mark.parametrize("password", ["", "secret", "pässwörd", "x" * 60])
def test_a_ticket_holds_the_password_and_a_nul(password: str) -> None:
    ticket = encrypt_ticket(KEY, password)
    assert len(ticket) == TICKET_BYTES
    assert decrypt(ticket) == password.encode() + b"\0"


def test_a_password_that_is_no_utf_8_is_carried_as_it_came() -> None:
    """Python keeps such bytes of the environment as lone surrogates."""
    assert decrypt(encrypt_ticket(KEY, b"p\xe4ss".decode("utf-8", "surrogateescape"))) == b"p\xe4ss\0"


def test_a_ticket_is_never_the_same_twice() -> None:
    assert encrypt_ticket(KEY, "secret") != encrypt_ticket(KEY, "secret")


@pytest.mark.parametrize("password", ["x" * 61, "ü" * 31])
def test_a_password_the_protocol_cannot_carry_is_refused(password: str) -> None:
    with pytest.raises(PasswordTooLongError, match=r"has 6[12] bytes; SPICE carries 60") as caught:
        encrypt_ticket(KEY, password)
    assert isinstance(caught.value, LinkError)
    assert isinstance(caught.value, UsageError)
    assert "xx" not in str(caught.value)


def test_the_key_has_the_size_of_its_field() -> None:
    assert len(KEY) == PUBLIC_KEY_BYTES
    assert KEY.startswith(bytes.fromhex("30819f300d06"))


@pytest.mark.parametrize("key", [bytes(PUBLIC_KEY_BYTES), KEY[:-1], b"", der(server_key(2048)), OTHER_KIND, EVEN])
def test_a_key_that_is_not_one_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="1024 bits"):
        encrypt_ticket(key, "secret")
