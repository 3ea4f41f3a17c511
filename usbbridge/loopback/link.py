"""The server's side of the SPICE link stage (SPICE protocol, "Link"), as spice-server does it; without I/O.

It is written from the protocol and from what spice-server is seen to do, not from `usbbridge.spice.link`: two
readings of one document, each the other's test. What a server does oddly is here as well, because clients have to
live with it:

- an unknown channel is no error reply: the connection is closed without a byte;
- an unknown authentication mechanism is answered by a second link reply where the client expects four bytes of result;
- the ticket is compared as a C string: what follows a NUL does not count, a missing NUL does no harm.
"""

from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct, unpack
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from usbbridge.spice.framing import LINK_HEADER, MAGIC, MAJOR, LinkHeader, link_message

MESS: Final = Struct("<IBBIII")
"connection_id, channel_type, channel_id, num_common_caps, num_channel_caps, caps_offset."
REPLY: Final = Struct("<I162sIII")
"error, pub_key, num_common_caps, num_channel_caps, caps_offset."
MAX_MESS: Final = 4096
"spice-server's own bound on a link message."
RSA_BITS: Final = 1024
"SPICE_TICKET_KEY_PAIR_LENGTH: the reply has room for exactly such a key's 162 bytes."
TICKET_BYTES: Final = RSA_BITS // 8

CAP_AUTH_SELECTION, CAP_AUTH_SPICE, CAP_AUTH_SASL, CAP_MINI_HEADER = range(4)
SERVER_COMMON_CAPS: Final = 1 << CAP_AUTH_SELECTION | 1 << CAP_AUTH_SPICE | 1 << CAP_MINI_HEADER
MECHANISM_SPICE: Final = CAP_AUTH_SPICE
"A mechanism is named by the number of its capability bit."

CHANNEL_MAIN, CHANNEL_USBREDIR = 1, 9


class LinkStatus(IntEnum):
    """Error of a link reply, and link result (SpiceLinkErr)."""

    OK = 0
    ERROR = 1
    INVALID_MAGIC = 2
    INVALID_DATA = 3
    VERSION_MISMATCH = 4
    NEED_SECURED = 5
    NEED_UNSECURED = 6
    PERMISSION_DENIED = 7
    BAD_CONNECTION_ID = 8
    CHANNEL_NOT_AVAILABLE = 9


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """What a server decides a link by."""

    password: str | None
    "The ticket; None: ticketing is off; empty: it is on but no ticket has been set, and nobody gets in."
    channels: Collection[tuple[int, int]]
    "(type, id) of what may be linked; MAIN may always be."
    channel_caps: Mapping[int, int] = field(default_factory=dict)
    "Capability word by channel type."
    sessions: Callable[[int], bool] = bool
    "Whether a connection id is a live session's."
    security_error: LinkStatus = LinkStatus.OK
    "NEED_SECURED or NEED_UNSECURED to refuse every channel on this port by."


@dataclass(frozen=True, slots=True)
class ClientLink:
    """What a client asked for, and got."""

    connection_id: int
    channel_type: int
    channel_id: int
    common_caps: int
    channel_caps: int
    "First word of each; the protocol defines no bit beyond it."

    @property
    def mini_header(self) -> bool:
        """Messages bear the 6-byte header: both sides have the capability, the server always."""
        return bool(self.common_caps >> CAP_MINI_HEADER & 1)


class _RefusedError(Exception):
    """Unwinds the conversation; whatever is to be said to the client has been put out already."""


class LinkServer:
    """One connection's link stage: `receive` until `closed` or `linked`; `rest` belongs to the data stage."""

    def __init__(self, policy: LinkPolicy) -> None:
        self._policy = policy
        self._pending = bytearray()
        self._output = bytearray()
        self._conversation = self._converse()
        self._wanted = next(self._conversation)
        self.linked: ClientLink | None = None
        self.closed = False
        "The connection is to be closed once the output is out."

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client, in any pieces."""
        self._pending += data
        while not (self.closed or self.linked) and len(self._pending) >= self._wanted:
            chunk = bytes(self._pending[: self._wanted])
            del self._pending[: self._wanted]
            self._advance(chunk)

    def bytes_to_send(self) -> bytes:
        """What there is to send, once."""
        output = bytes(self._output)
        self._output.clear()
        return output

    @property
    def rest(self) -> bytes:
        """What the client sent after its side of the link stage."""
        return bytes(self._pending)

    def _advance(self, chunk: bytes) -> None:
        try:
            self._wanted = self._conversation.send(chunk)
        except StopIteration as end:
            self.linked = end.value
        except _RefusedError:
            self.closed = True

    def _converse(self) -> Generator[int, bytes, ClientLink]:
        """The link stage from top to bottom; yields how many bytes come next."""
        magic = yield len(MAGIC)
        if magic != MAGIC:
            raise self._refusal(LinkStatus.INVALID_MAGIC)
        header = LinkHeader.parse(magic + (yield LINK_HEADER.size - len(MAGIC)))
        if header.major != MAJOR:
            raise self._refusal(LinkStatus.VERSION_MISMATCH) if header.major else _RefusedError
        if not MESS.size <= header.size <= MAX_MESS:
            raise self._refusal(LinkStatus.INVALID_DATA)
        link = self._parse((yield header.size))
        key = self._acknowledge(link)
        if link.common_caps >> CAP_AUTH_SELECTION & 1:
            mechanism = int.from_bytes((yield 4), "little")
            if mechanism != MECHANISM_SPICE:
                raise self._refusal(LinkStatus.INVALID_DATA)
        self._check_ticket(key, (yield TICKET_BYTES))
        self._check_session(link)
        self._output += LinkStatus.OK.to_bytes(4, "little")
        return link

    def _parse(self, mess: bytes) -> ClientLink:
        connection, kind, number, common, channel, offset = MESS.unpack_from(mess)
        end = offset + 4 * (common + channel)
        if common > 1024 or channel > 1024 or offset < MESS.size or end > len(mess):
            raise self._refusal(LinkStatus.INVALID_DATA)
        words = unpack(f"<{common + channel}I", mess[offset:end])
        return ClientLink(connection, kind, number, words[0] if common else 0, words[common] if channel else 0)

    def _acknowledge(self, link: ClientLink) -> rsa.RSAPrivateKey:
        if self._policy.security_error:
            raise self._refusal(self._policy.security_error)
        if link.channel_type != CHANNEL_MAIN and (link.channel_type, link.channel_id) not in self._policy.channels:
            raise _RefusedError
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        channel_caps = self._policy.channel_caps.get(link.channel_type, 0)
        self._reply(LinkStatus.OK, public, (SERVER_COMMON_CAPS,), (channel_caps,))
        return key

    def _check_ticket(self, key: rsa.RSAPrivateKey, encrypted: bytes) -> None:
        sha1 = hashes.SHA1()  # noqa: S303 - the protocol's choice, and sound inside OAEP
        try:
            plain = key.decrypt(encrypted, padding.OAEP(padding.MGF1(sha1), sha1, None))
        except ValueError:  # not made with this key; decrypted even if no ticket is asked for
            raise self._result(LinkStatus.PERMISSION_DENIED) from None
        ticket = self._policy.password
        if ticket is not None and (not ticket or plain.split(b"\0")[0] != ticket.encode()):
            raise self._result(LinkStatus.PERMISSION_DENIED)

    def _check_session(self, link: ClientLink) -> None:
        if link.channel_type != CHANNEL_MAIN and not self._policy.sessions(link.connection_id):
            raise self._result(LinkStatus.BAD_CONNECTION_ID)

    def _refusal(self, error: LinkStatus) -> _RefusedError:
        self._reply(error, b"", (), ())
        return _RefusedError()

    def _result(self, status: LinkStatus) -> _RefusedError:
        self._output += status.to_bytes(4, "little")
        return _RefusedError()

    def _reply(self, error: LinkStatus, key: bytes, common: tuple[int, ...], channel: tuple[int, ...]) -> None:
        caps = b"".join(word.to_bytes(4, "little") for word in common + channel)
        self._output += link_message(REPLY.pack(error, key, len(common), len(channel), REPLY.size) + caps)
