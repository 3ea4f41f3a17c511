"""The USBREDIR channel: a byte stream both ways, in DATA and COMPRESSED_DATA messages (SPICE protocol, "Spicevmc").

Message boundaries mean nothing to the stream. Sending is the caller's: `frame(size)`, then `size` bytes of the stream;
or what `compress()` made of them.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from usbbridge.errors import LocalProtocolError
from usbbridge.spice.channel import Channel, Handler
from usbbridge.spice.errors import CompressedDataError
from usbbridge.spice.framing import MINI_HEADER
from usbbridge.spice.link import LinkResult
from usbbridge.spice.messages import COMPRESSED_DATA, CompressionType, SpicevmcCap, SpicevmcMessage
from usbbridge.spice.reader import Receiver, Rule

Compression = Literal["auto", "never", "always"]

COMPRESS_ABOVE = 1000
"Payloads up to this size are never compressed, by either side (spicevmc's COMPRESS_THRESHOLD)."
MAX_UNCOMPRESSED = 1024 * 1024
"What a COMPRESSED_DATA may become: 16 times what spice-server puts into one (64 KiB + 32). Allocated for each."
MAX_FRAME = 16 * 1024 * 1024
"A DATA message of ours: far above one transfer; the server allocates what the header says."
AUTO_GAIN = 8
"`auto` compresses on while at least an eighth is saved; less is not worth the other side's time."
BOTH_SIDES = 1.5
"What packing and unpacking take together, in units of what packing takes: LZ4 unpacks twice as fast."
UNKNOWN_RATE = 125e6
"Bytes a second of a connection that does not tell: a gigabit Ethernet's."
AUTO_FIRST_PAUSE = 64 * 1024
AUTO_LAST_PAUSE = 16 * 1024 * 1024
"""`auto` lets so many bytes pass after data that was not worth it, doubling from the first to the last: a film or an
encrypted disk costs one try in 16 MiB, and a disk that turns compressible is noticed within as much."""

_DATA = int(SpicevmcMessage.DATA)
_pack_mini = MINI_HEADER.pack


def usbredir_caps(compression: Compression) -> frozenset[SpicevmcCap]:
    """What to announce when a USBREDIR channel is linked; with `never` the server does not compress either."""
    return frozenset() if compression == "never" else frozenset({SpicevmcCap.DATA_COMPRESS_LZ4})


class UsbredirChannel(Channel):
    """One USBREDIR channel, whose incoming byte stream goes to `inner`.

    While the VM is paused the server stops reading DATA, but not COMPRESSED_DATA, which it queues without limit; what
    is sent must be bounded by the sender.
    """

    def __init__(
        self,
        link: LinkResult,
        inner: Receiver,
        *,
        compression: Compression = "auto",
        unix_socket: bool = False,
        link_rate: Callable[[], float] = float,
        clock: Callable[[], float] = float,
        handler: Handler | None = None,
    ) -> None:
        """`link_rate` tells what the connection carries, in bytes a second, 0 if that is not known; `clock` gives
        seconds, without which compressing takes no time."""
        self._inner, self._link_rate, self._clock = inner, link_rate, clock
        super().__init__(link, handler, stream=inner, stream_type=SpicevmcMessage.DATA)
        agreed = SpicevmcCap.DATA_COMPRESS_LZ4 in link.channel_caps
        self._compresses = compression != "never" and agreed and not unix_socket
        self._learns = compression == "auto"
        self._pause = 0
        "Bytes still to pass before `auto` tries again."
        self._next_pause = AUTO_FIRST_PAUSE

    def rules(self) -> dict[int, Rule]:
        most = COMPRESSED_DATA.size + MAX_UNCOMPRESSED
        return super().rules() | {
            SpicevmcMessage.COMPRESSED_DATA: Rule(COMPRESSED_DATA.size, most, most, self._compressed_data)
        }

    def frame(self, size: int) -> bytes:
        """The header of a DATA message with `size` bytes of the stream, which the caller sends right after it."""
        if not 0 < size <= MAX_FRAME:
            raise LocalProtocolError(f"A DATA message of {size} bytes; 1 to {MAX_FRAME} are allowed")
        return _pack_mini(_DATA, size) if self._mini else self._writer.header(_DATA, size)

    def compress(self, parts: Sequence[bytes | bytearray | memoryview], size: int) -> bytes | None:
        """A whole COMPRESSED_DATA message with the `size` bytes of `parts`, or None if they should go as DATA.

        The protocol's rule: more than `COMPRESS_ABOVE` bytes, a peer that can, no UNIX socket, and it gets smaller.
        """
        if size <= COMPRESS_ABOVE or not self._compresses or size > MAX_UNCOMPRESSED:
            return None
        if self._pause > 0:
            self._pause -= size
            return None
        # Imported here: a device that never sends much does not need it.
        from lz4.block import compress

        began = self._clock()
        packed: bytes = compress(parts[0] if len(parts) == 1 else b"".join(parts), store_size=False)
        smaller = COMPRESSED_DATA.size + len(packed)
        if self._learns:
            self._learn(size - smaller, size, self._clock() - began)
        if smaller >= size:
            return None
        head = self._writer.header(SpicevmcMessage.COMPRESSED_DATA, smaller)
        return b"".join((head, COMPRESSED_DATA.pack(CompressionType.LZ4, size), packed))

    def _learn(self, saved: int, size: int, seconds: float) -> None:
        """Whether it paid: much was saved, and the connection would have taken longer for that."""
        rate = self._link_rate() or UNKNOWN_RATE
        if saved * AUTO_GAIN >= size and saved >= seconds * BOTH_SIDES * rate:
            self._next_pause = AUTO_FIRST_PAUSE
        else:
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, AUTO_LAST_PAUSE)

    def _compressed_data(self, body: memoryview) -> None:
        type_, size = COMPRESSED_DATA.unpack_from(body)
        if type_ != CompressionType.LZ4:
            raise CompressedDataError(f"its compression type is {type_}; LZ4, {CompressionType.LZ4:d}, was agreed on")
        if not 0 < size <= MAX_UNCOMPRESSED:
            raise CompressedDataError(f"it is to become {size} bytes; 1 to {MAX_UNCOMPRESSED} are allowed")
        from lz4.block import LZ4BlockError, decompress

        try:
            data: bytes = decompress(body[COMPRESSED_DATA.size :], uncompressed_size=size)
        except LZ4BlockError as error:
            raise CompressedDataError(f"it cannot be unpacked into the {size} bytes it is to become") from error
        if len(data) != size:
            raise CompressedDataError(f"it became {len(data)} bytes instead of {size}")
        self._inner.feed(memoryview(data))
