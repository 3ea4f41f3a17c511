"""TLS for a SPICE connection: the certificate is verified, always.

Loaded only when a target asks for TLS: OpenSSL takes 4 MB of each process that has it.
"""

import socket
import ssl

from usbbridge.errors import UsageError
from usbbridge.spice.errors import (
    NotTlsError,
    SilentServerError,
    TlsError,
    UntrustedCertificateError,
    WrongHostError,
    WrongSubjectError,
)
from usbbridge.spice.secure import SecureSocket
from usbbridge.spice.sockets import Deadline, TlsOptions
from usbbridge.spice.subject import Subject, certificate_subject, format_subject, parse_subject

_HOST_MISMATCH = frozenset({62, 64})
"X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (x509_vfy.h)."
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"What OpenSSL calls bytes that are no TLS record."


class Verifier:
    """Makes a connection secure, by TLS 1.2 or later, and proves whose it is."""

    def __init__(self, options: TlsOptions, where: str, host: str) -> None:
        """Raises `UsageError` for a CA file or a subject that cannot be used."""
        self._where = where
        self._host = host.partition("%")[0]  # no IPv6 zone in a certificate (RFC 6874 §1)
        self._subject_text = options.host_subject
        self._subject: Subject | None = None if options.host_subject is None else parse_subject(options.host_subject)
        # PROTOCOL_TLS_CLIENT verifies the chain and the host's name unless told otherwise.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.options |= ssl.OP_NO_RENEGOTIATION  # sending would have to wait for what is received
        self._context.check_hostname = self._subject is None
        self._trust(options.ca_file)

    def _trust(self, ca_file: str | None) -> None:
        if ca_file is None:
            self._context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            return
        try:
            self._context.load_verify_locations(ca_file)
        except (OSError, ValueError) as error:
            reason = "it has no PEM certificate in it" if isinstance(error, ssl.SSLError) else str(error)
            raise UsageError(f"The CA file {ca_file!r} cannot be used: {reason}") from error

    def secure(self, sock: socket.socket, deadline: Deadline) -> SecureSocket:
        """The TLS connection over `sock`, which it takes over. Raises `TlsError` subclasses, `SilentServerError`."""
        secure = SecureSocket(sock, self._context, self._host)
        try:
            self._shake_hands(secure, deadline)
            self._check_subject(secure)
        except BaseException:
            secure.close()
            raise
        return secure

    def _shake_hands(self, secure: SecureSocket, deadline: Deadline) -> None:
        try:
            secure.handshake(deadline)
        except TimeoutError as error:
            raise SilentServerError(self._where, deadline.seconds, "TLS handshake") from error
        except ssl.SSLCertVerificationError as error:
            raise self._unverified(error) from error
        except ssl.SSLError as error:
            if error.reason in _NOT_TLS:
                raise NotTlsError(self._where) from error
            raise TlsError(self._where, tls_reason(error)) from error
        except OSError as error:
            raise TlsError(self._where, "it closed the connection during the TLS handshake") from error

    def _unverified(self, error: ssl.SSLCertVerificationError) -> TlsError:
        if error.verify_code in _HOST_MISMATCH:
            return WrongHostError(self._where, self._host, error.verify_message)
        return UntrustedCertificateError(self._where, error.verify_message)

    def _check_subject(self, secure: SecureSocket) -> None:
        if self._subject is None:
            return
        try:
            found = certificate_subject(secure.certificate())
        except ValueError as error:
            raise UntrustedCertificateError(self._where, "its subject cannot be read") from error
        if found != self._subject:
            raise WrongSubjectError(self._where, self._subject_text or "", format_subject(found))


def tls_reason(error: ssl.SSLError) -> str:
    """What OpenSSL has to say, in words."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # which of them, depends on Python's version
        return "it closed the connection during the TLS handshake"
    return (error.reason or str(error)).lower().replace("_", " ")
