import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.unit.spice.pki import builder
from tests.unit.spice.samples import server_key
from usbbridge.errors import UsageError
from usbbridge.spice.subject import certificate_subject, format_subject, parse_subject

RDN = x509.RelativeDistinguishedName
O = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, Inc.")  # noqa: E741  # the attribute's own name
CN = x509.NameAttribute(NameOID.COMMON_NAME, "vm-host")


def certificate(*rdns: x509.RelativeDistinguishedName) -> bytes:
    name, key = x509.Name(rdns), server_key(2048)
    return builder(name, name, key).sign(key, SHA256()).public_bytes(Encoding.DER)


def test_a_certificate_has_the_subject_it_was_made_with() -> None:
    assert certificate_subject(certificate(RDN([O]), RDN([CN]))) == parse_subject(r"O=Example\, Inc.,CN=vm-host")


@pytest.mark.parametrize(
    "text",
    [
        "CN=vm-host",
        r"CN=vm-host,O=Example\, Inc.",
        "O=Example,CN=vm-host",
        r"O=Example\, Inc.,CN=VM-HOST",
        r"O=Example\, Inc.,CN=vm-host,CN=vm-host",
        r"O=Example\, Inc.,OU=vm-host",
    ],
)
def test_any_difference_counts(text: str) -> None:
    assert certificate_subject(certificate(RDN([O]), RDN([CN]))) != parse_subject(text)


def test_attributes_of_one_rdn_are_not_those_of_two() -> None:
    assert certificate_subject(certificate(RDN([O, CN]))) != parse_subject(r"O=Example\, Inc.,CN=vm-host")


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("CN=vm", (("2.5.4.3", "vm"),)),
        ("cn=vm, o=x", (("2.5.4.3", "vm"), ("2.5.4.10", "x"))),
        ("C=DE,emailAddress=a@b", (("2.5.4.6", "DE"), ("1.2.840.113549.1.9.1", "a@b"))),
        ("2.5.4.3=vm", (("2.5.4.3", "vm"),)),
        ("CN=a=b", (("2.5.4.3", "a=b"),)),
        (r"CN=a\,b\\c\d", (("2.5.4.3", r"a,b\cd"),)),
        ("CN= vm ", (("2.5.4.3", " vm "),)),
    ],
)
def test_what_a_text_means(text: str, subject: tuple[tuple[str, str], ...]) -> None:
    assert parse_subject(text) == subject
    assert parse_subject(format_subject(subject)) == subject


@pytest.mark.parametrize("text", ["", "vm-host", "CN", "CN=", "=vm", "CN=vm,", "CN=vm,,O=x", "XY=vm"])
def test_a_text_that_is_no_subject(text: str) -> None:
    with pytest.raises(UsageError, match="not a certificate subject"):
        parse_subject(text)


def test_bytes_that_are_no_certificate() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # what cryptography says differs between its versions
        certificate_subject(b"")
