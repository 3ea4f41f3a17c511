"""Certificates for tests."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def name(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, *, days: int = 2) -> x509.CertificateBuilder:
    """A certificate that is valid for `days` from yesterday on."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(yesterday - timedelta(days=2))
        .not_valid_after(yesterday + timedelta(days=days))
    )


class Authority:
    """A CA, with the files spice-server wants in its x509-dir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.name = name("Example", "test CA")
        certificate = (
            builder(self.name, self.name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "ca-cert.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def server(self, *hosts: str, common_name: str = "vm-host", days: int = 2) -> Path:
        """Make server-cert.pem and server-key.pem for a server with these names and addresses; their folder."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        made = builder(name("Example, Inc.", common_name), self.name, key, days=days)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            made = made.add_extension(names, critical=False)
        certificate = made.sign(self.key, SHA256())
        (self.folder / "server-cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (self.folder / "server-key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        return self.folder


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
