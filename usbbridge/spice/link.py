"""The link stage: from a fresh connection to a linked channel (SPICE protocol, "Link stage").

Sans-IO. Send `bytes_to_send()`, give what arrives to `receive()` and the end of the stream to `eof()`, until `done` is
set:

    client                                        server
    LinkHeader + LinkMess            ──►
                                     ◄──          LinkHeader + LinkReply (an error ends it)
    auth mechanism (u32), if both announce AUTH_SELECTION
    the mechanism's own bytes        ──►
                                     ◄──          link result (u32); after it the data stage
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from usbbridge.errors import LinkError
from usbbridge.spice.errors import (
    BadSessionError,
    LinkClosedError,
    LinkRefusedError,
    MalformedLinkError,
    NeedPlainError,
    NeedSaslError,
    NeedTlsError,
    NoSuchChannelError,
    NotSpiceError,
    VersionMismatchError,
    WrongTicketError,
)
from usbbridge.spice.framing import LINK_HEADER, MAGIC, MAJOR, LinkHeader, link_message
from usbbridge.spice.messages import (
    MAX_LINK_BYTES,
    U32,
    ChannelType,
    CommonCap,
    LinkErrorCode,
    LinkMess,
    LinkReply,
    channel_name,
)
from usbbridge.spice.ticket import check_password, encrypt_ticket

OUR_COMMON_CAPS = frozenset({CommonCap.PROTOCOL_AUTH_SELECTION, CommonCap.AUTH_SPICE, CommonCap.MINI_HEADER})

_BANNERS = (
    (b"HTTP", "HTTP (a web server)"),
    (b"<", "HTML (a web server)"),
    (b"SSH-", "SSH"),
    (b"RFB ", "RFB (a VNC display)"),
    (b"220 ", "a mail or FTP greeting"),
)
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
"TLS alert and handshake records (RFC 8446 §5.1): what a TLS port may answer to a plain link message."


class AuthMechanism(NamedTuple):
    """A way to authenticate, chosen by the capability the server announces for it."""

    cap: CommonCap
    answer: Callable[[bytes, str], bytes]
    "(public key, password) -> what follows the mechanism's number."


AUTH_MECHANISMS = (AuthMechanism(CommonCap.AUTH_SPICE, encrypt_ticket),)
"In the order of preference. SASL is a dialogue and will need more than `answer`; see `_choose`."


@dataclass(frozen=True, slots=True)
class LinkResult:
    """A linked channel: what both sides agreed on."""

    channel_type: int
    channel_id: int
    mini_header: bool
    common_caps: frozenset[int]
    "The server's."
    channel_caps: frozenset[int]
    "The server's."
    where: str = "the SPICE server"
    "What to call the server in a message."

    @property
    def channel(self) -> str:
        """What to call the channel in a message."""
        return channel_name(self.channel_type, self.channel_id)


class LinkClient:
    """Links one channel. All methods raise `LinkError` subclasses, and after one has, nothing else may be called."""

    def __init__(
        self,
        channel_type: int,
        channel_id: int,
        connection_id: int = 0,
        *,
        password: str = "",
        channel_caps: Iterable[int] = (),
        where: str = "the SPICE server",
    ) -> None:
        """Raises `PasswordTooLongError` before anything is sent."""
        check_password(password)
        self.done: LinkResult | None = None
        self.rest = b""
        "Bytes of the data stage that came with the end of the link stage; valid once `done` is set."
        self.where = where
        self._password = password
        self._channel = (channel_type, channel_id)
        self._connection_id = connection_id
        mess = LinkMess(connection_id, channel_type, channel_id, OUR_COMMON_CAPS, frozenset(channel_caps))
        self._output = link_message(mess.pack())
        self._input = bytearray()
        self._reply: LinkReply | None = None
        self.stage = "link stage"
        "What is going on, for a message about a server that stopped in the middle of it."

    def bytes_to_send(self) -> bytes:
        """What to send now, possibly nothing."""
        output, self._output = self._output, b""
        return output

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the server."""
        if self.done is not None:
            self.rest += bytes(data)
            return
        self._input += data
        if self._reply is None:
            self._take_reply()
        if self._reply is not None:
            self._take_result()

    def eof(self) -> NoReturn:
        """The server closed the connection, or reset it, which means the same here. Always raises."""
        if self._input and not MAGIC.startswith(self._input[: len(MAGIC)]) and self._reply is None:
            raise NotSpiceError(self.where, _found(bytes(self._input)))
        if self._reply is not None:
            raise LinkClosedError(self.where, "after the password was sent, without a verdict")
        if not self._input and self._channel[0] != ChannelType.MAIN:
            # spice-server has no reply for a channel that does not exist: it just closes.
            raise NoSuchChannelError(self.where, channel_name(*self._channel))
        raise LinkClosedError(self.where, "in the middle of its answer" if self._input else "without an answer")

    def _take_reply(self) -> None:
        body = self._link_body()
        if body is None:
            return
        try:
            reply = LinkReply.parse(body)
        except ValueError as error:
            raise MalformedLinkError(self.where, str(error)) from error
        if reply.error:
            raise self._refused(reply.error)
        del self._input[: LINK_HEADER.size + len(body)]
        self._output += self._choose(reply)
        self._reply = reply
        self.stage = "authentication"

    def _link_body(self) -> bytes | None:
        """The link message at the start of the input once it is all there."""
        data = self._input
        if len(data) >= len(MAGIC) and not data.startswith(MAGIC):
            if data.startswith(_TLS_RECORDS):
                raise NeedTlsError(self.where, "the port speaks TLS")
            raise NotSpiceError(self.where, _found(bytes(data)))
        if len(data) < LINK_HEADER.size:
            return None
        header = LinkHeader.parse(data)
        if header.major != MAJOR:
            raise VersionMismatchError(self.where, header.major, header.minor)
        if not LinkReply.SIZE <= header.size <= MAX_LINK_BYTES:
            raise MalformedLinkError(self.where, f"a link reply of {header.size} bytes")
        end = LINK_HEADER.size + header.size
        return bytes(data[LINK_HEADER.size : end]) if len(data) >= end else None

    def _choose(self, reply: LinkReply) -> bytes:
        """Pick the mechanism and answer with it. A server without AUTH_SELECTION expects a ticket and no choice."""
        selection = CommonCap.PROTOCOL_AUTH_SELECTION in reply.common_caps
        mechanisms = [m for m in AUTH_MECHANISMS if m.cap in reply.common_caps] if selection else AUTH_MECHANISMS[:1]
        if not mechanisms:
            if CommonCap.AUTH_SASL in reply.common_caps:
                raise NeedSaslError(self.where)
            raise MalformedLinkError(self.where, "it lets the client choose how to authenticate and offers no way")
        mechanism = mechanisms[0]
        try:
            answer = mechanism.answer(reply.public_key, self._password)
        except ValueError as error:
            raise MalformedLinkError(self.where, f"its key for the password is not usable ({error})") from error
        return (U32.pack(mechanism.cap) if selection else b"") + answer

    def _take_result(self) -> None:
        if len(self._input) < U32.size:
            return
        if self._input.startswith(MAGIC):
            self._take_refusal()
            return
        (code,) = U32.unpack_from(self._input)
        if code:
            raise self._refused(code)
        reply = self._reply
        assert reply is not None
        mini = CommonCap.MINI_HEADER in OUR_COMMON_CAPS & reply.common_caps
        self.done = LinkResult(*self._channel, mini, reply.common_caps, reply.channel_caps, self.where)
        self.rest = bytes(self._input[U32.size :])
        self._input.clear()

    def _take_refusal(self) -> None:
        """A whole link reply in the place of the link result: how spice-server rejects the choice of mechanism."""
        body = self._link_body()
        if body is not None:
            (code,) = U32.unpack_from(body)
            raise self._refused(code or LinkErrorCode.ERROR)

    def _refused(self, code: int) -> LinkError:
        where, channel = self.where, channel_name(*self._channel)
        match code:
            case LinkErrorCode.VERSION_MISMATCH:
                return VersionMismatchError(where)
            case LinkErrorCode.NEED_SECURED:
                return NeedTlsError(where, f"it takes channel {channel} over TLS only")
            case LinkErrorCode.NEED_UNSECURED:
                return NeedPlainError(where, f"it takes channel {channel} over its plain port only")
            case LinkErrorCode.PERMISSION_DENIED:
                return WrongTicketError(where, given=bool(self._password))
            case LinkErrorCode.BAD_CONNECTION_ID:
                return BadSessionError(where, self._connection_id)
            case LinkErrorCode.CHANNEL_NOT_AVAILABLE:
                return NoSuchChannelError(where, channel)
            case _:
                return LinkRefusedError(where, code, _MEANINGS.get(code, "for a reason unknown to usbbridge"))


_MEANINGS = {
    int(LinkErrorCode.ERROR): "it has trouble of its own",
    int(LinkErrorCode.INVALID_MAGIC): "it did not recognise SPICE in what it was sent",
    int(LinkErrorCode.INVALID_DATA): "it did not accept the link message or the way to authenticate",
}


def _found(data: bytes) -> str:
    """What a stream that is not SPICE looks like."""
    for start, name in _BANNERS:
        if data.startswith(start):
            return name
    return f"the bytes {data[:12].hex(' ')}"
