"""The server's side of SPICE's data stage, without I/O, on the two channels that a device needs: MAIN and USBREDIR.

As in spice-server, a channel is unforgiving: a message that it doesn't know, or whose body is not what it should be,
ends it (`RemoteProtocolError`), and a fault on MAIN ends the client's whole session.
"""

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import ClassVar, Final

import lz4.block

from usbbridge.errors import RemoteProtocolError
from usbbridge.loopback.link import ClientLink
from usbbridge.loopback.tasks import Buffer
from usbbridge.spice.framing import MessageWriter, header_size, parse_header

PING, PONG = 4, 3
ACK_SYNC, ACK, DISCONNECTING = 1, 2, 6
MAIN_INIT, MAIN_CHANNELS_LIST, MAIN_NAME, MAIN_UUID = 103, 104, 113, 114
MAIN_ATTACH_CHANNELS, MAIN_MOUSE_MODE_REQUEST = 104, 105
DATA, COMPRESSED_DATA = 101, 102

CAP_NAME_AND_UUID: Final = 1 << 1
MAIN_CAPS: Final = 0x0F
"Semi-seamless migration, name and uuid, agent tokens, seamless migration: what spice-server announces."
CAP_COMPRESS_LZ4: Final = 1 << 0
COMPRESSION_LZ4: Final = 1

PING_BODY: Final = Struct("<IQ")
INIT_BODY: Final = Struct("<8I")
COMPRESSED_HEAD: Final = Struct("<BI")

NET_TEST_BYTES: Final = 250 * 1024
"Padding of the third net-test ping: spice-server's NET_TEST_BYTES."
COMPRESS_OVER: Final = 1000
"Smaller payloads are never compressed: spice-server's COMPRESS_THRESHOLD."
MAX_CHUNK: Final = 65568
"spice-server takes at most this much of QEMU's bytes for one message."
MAX_BODY: Final = 16 << 20
"A client compresses what a usbredir packet holds, 1 MiB as a rule. DATA is passed on unbuffered, so has no limit."
MAX_MAIN_BODY: Final = 4096 + 11 * 2048
"spice-server's receive buffer on MAIN."
AGENT_TOKENS: Final = 10


class ServerChannel:
    """Messages in, messages out. What a channel understands is in `handlers`: by type, what takes the body."""

    max_body = MAX_BODY
    streamed: ClassVar[frozenset[int]] = frozenset()
    "Types whose body is handed on in pieces, as it comes."

    def __init__(self, link: ClientLink) -> None:
        self.link = link
        self._writer = MessageWriter(link.mini_header)
        self._header_size = header_size(link.mini_header)
        self._pending = bytearray()
        self._kind: int | None = None
        self._wanted = self._header_size
        self._streaming = 0
        self._output: list[Buffer] = []
        self.pings: dict[int, int] = {}
        "Pings that have no pong yet: id → time stamp."
        self.handlers: dict[int, Callable[[bytes], None]] = {
            PONG: self._pong,
            ACK_SYNC: lambda body: None,
            ACK: lambda body: None,
            DISCONNECTING: lambda body: None,
        }

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes from the client. Raises `RemoteProtocolError`."""
        view = memoryview(data)
        while view:
            if self._streaming:
                piece, view = view[: self._streaming], view[self._streaming :]
                self._streaming -= len(piece)
                self.stream(piece)
                continue
            missing = self._wanted - len(self._pending)
            self._pending += view[:missing]
            view = view[missing:]
            if len(self._pending) == self._wanted:
                self._complete(bytes(self._pending))

    def _complete(self, whole: bytes) -> None:
        self._pending.clear()
        if self._kind is not None:
            kind, self._kind, self._wanted = self._kind, None, self._header_size
            self._dispatch(kind, whole)
            return
        header = parse_header(self.link.mini_header, whole)
        if header.type in self.streamed:
            self._streaming = header.size
        elif header.size > self.max_body or header.sub_list:
            raise RemoteProtocolError(f"a client's message {header.type} of {header.size} bytes is too large")
        elif header.size:
            self._kind, self._wanted = header.type, header.size
        else:
            self._dispatch(header.type, b"")

    def _dispatch(self, kind: int, body: bytes) -> None:
        handler = self.handlers.get(kind)
        if handler is None:
            raise RemoteProtocolError(f"a client's message {kind} is not known on channel {self.link.channel_type}")
        handler(body)

    def stream(self, piece: memoryview) -> None:
        """A piece of a streamed message's body."""
        raise NotImplementedError

    def take_output(self) -> list[Buffer]:
        """What there is to send, once."""
        output, self._output = self._output, []
        return output

    def put(self, kind: int, *body: Buffer) -> None:
        """Put out a message."""
        self._output.append(self._writer.header(kind, sum(map(len, body))))
        self._output += body

    def ping(self, number: int, stamp: int, padding: int = 0) -> None:
        """Ask the client for a pong; `stamp` means nothing to it."""
        self.pings[number] = stamp
        self.put(PING, PING_BODY.pack(number, stamp), bytes(padding))

    def _pong(self, body: bytes) -> None:
        if len(body) != PING_BODY.size:
            raise RemoteProtocolError(f"a pong of {len(body)} bytes; the padding is not to be sent back")
        number, stamp = PING_BODY.unpack(body)
        if self.pings.pop(number, None) != stamp:
            raise RemoteProtocolError(f"pong {number} with stamp {stamp} answers no ping")


class MainServer(ServerChannel):
    """MAIN: begins the session, and says which channels there are."""

    max_body = MAX_MAIN_BODY

    def __init__(self, link: ClientLink, session_id: int, channels: Sequence[tuple[int, int]], name: str) -> None:
        super().__init__(link)
        self._channels = channels
        self.attached = False
        "The client has asked for the channel list."
        self.handlers |= {MAIN_ATTACH_CHANNELS: self._attach, MAIN_MOUSE_MODE_REQUEST: lambda body: None}
        self.put(MAIN_INIT, INIT_BODY.pack(session_id, 1, 3, 1, 0, AGENT_TOKENS, 0, 0))
        if link.channel_caps & CAP_NAME_AND_UUID:
            text = name.encode() + b"\0"
            self.put(MAIN_NAME, len(text).to_bytes(4, "little"), text)
            self.put(MAIN_UUID, session_id.to_bytes(16, "little"))
        for number, padding in ((1, 0), (2, 0), (3, NET_TEST_BYTES)):
            self.ping(number, session_id + number, padding)

    def announce(self, channels: Iterable[tuple[int, int]]) -> None:
        """CHANNELS_LIST of these (type, id); later ones hold only what is new."""
        pairs = b"".join(bytes(pair) for pair in channels)
        self.put(MAIN_CHANNELS_LIST, (len(pairs) // 2).to_bytes(4, "little"), pairs)

    def _attach(self, body: bytes) -> None:
        self.attached = True
        self.announce(reversed(self._channels))  # newest first, as spice-server


class UsbredirServer(ServerChannel):
    """USBREDIR: a usbredir byte stream in DATA and COMPRESSED_DATA messages, which mean nothing by their bounds."""

    streamed = frozenset({DATA})

    def __init__(self, link: ClientLink, receive: Callable[[bytes | memoryview], None]) -> None:
        super().__init__(link)
        self._receive = receive
        self._compress = bool(link.channel_caps & CAP_COMPRESS_LZ4)
        self.handlers[COMPRESSED_DATA] = self._inflate
        self.compressed_in = self.compressed_out = 0
        "COMPRESSED_DATA messages each way."

    def stream(self, piece: memoryview) -> None:
        """usbredir bytes as they come."""
        self._receive(piece)

    def send(self, parts: Iterable[Buffer]) -> None:
        """Put out usbredir bytes: compressed if they are many, the client can, and it pays; else as DATA."""
        whole = memoryview(b"".join(parts))
        for start in range(0, len(whole), MAX_CHUNK):
            chunk = whole[start : start + MAX_CHUNK]
            packed = self._deflate(chunk)
            if packed is None:
                self.put(DATA, chunk)
            else:
                self.compressed_out += 1
                self.put(COMPRESSED_DATA, COMPRESSED_HEAD.pack(COMPRESSION_LZ4, len(chunk)), packed)

    def _deflate(self, chunk: memoryview) -> bytes | None:
        if not self._compress or len(chunk) <= COMPRESS_OVER:
            return None
        packed: bytes = lz4.block.compress(chunk, store_size=False)
        return packed if len(packed) + COMPRESSED_HEAD.size < len(chunk) else None

    def _inflate(self, body: bytes) -> None:
        if len(body) <= COMPRESSED_HEAD.size:
            raise RemoteProtocolError(f"compressed data of {len(body)} bytes")
        kind, size = COMPRESSED_HEAD.unpack_from(body)
        if kind != COMPRESSION_LZ4 or size > MAX_BODY:
            raise RemoteProtocolError(f"compressed data of type {kind}, {size} bytes when unpacked")
        try:
            data: bytes = lz4.block.decompress(memoryview(body)[COMPRESSED_HEAD.size :], uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise RemoteProtocolError(f"compressed data is no LZ4 block of {size} bytes: {error}") from error
        if len(data) != size:
            raise RemoteProtocolError(f"compressed data became {len(data)} bytes instead of {size}")
        self.compressed_in += 1
        self._receive(data)
