"""A certificate authority of its own and a server certificate for a machine's SPICE server."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

# The names the server certificate is good for; the machines have HOST_NAME in /etc/hosts.
HOST_NAME = "vm.lab"
ADDRESSES = ("10.0.2.2", "127.0.0.1")
ORGANIZATION = "usbbridge lab"

# The server's subject the way SPICE writes one: in the certificate's order.
SUBJECT = f"O={ORGANIZATION},CN={HOST_NAME}"

LIFETIME = datetime.timedelta(days=1)


def write_certificates(folder: Path) -> None:
    """Fill an x509-dir of QEMU's -spice: ca-cert.pem, server-cert.pem, server-key.pem."""
    folder.mkdir()
    authority_key, server_key = _key(), _key()
    authority = _name("authority")
    ca = _builder(authority, authority, authority_key.public_key(), is_authority=True)
    server = _builder(_name(HOST_NAME), authority, server_key.public_key(), is_authority=False).add_extension(
        x509.SubjectAlternativeName(
            [x509.DNSName(HOST_NAME), *(x509.IPAddress(ipaddress.ip_address(text)) for text in ADDRESSES)]
        ),
        critical=False,
    )
    (folder / "ca-cert.pem").write_bytes(_signed(ca, authority_key))
    (folder / "server-cert.pem").write_bytes(_signed(server, authority_key))
    (folder / "server-key.pem").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, *, is_authority: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        # A machine's clock may be somewhat behind.
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


def _signed(builder: x509.CertificateBuilder, key: rsa.RSAPrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
