"""One usbredir connection, either role, without input and output of its own.

    codec = Codec(Role.HOST, ALL_CAPS, "usbbridge 0.1.0", sink)
    send(codec.hello())                           # first of all
    n = sock.recv_into(codec.buffer())            # and then, as often as bytes come:
    codec.received(n)                             # -> sink.packet(...), sink.bulk(...), ...
    send(codec.encode(ConfigurationStatus(0, 1), packet_id))
    send(codec.bulk_header(packet_id, 0x81, 0, 512, 0, 512), data)
"""

from collections.abc import Callable

from usbbridge.usbredir.decoder import Decoder
from usbbridge.usbredir.encoder import Encoder
from usbbridge.usbredir.proto import DEFAULT_MAX_PAYLOAD, MAX_TRANSFER, Cap, Role
from usbbridge.usbredir.sink import Sink
from usbbridge.usbredir.state import Session, State

__all__ = ["Codec", "Sink"]


class Codec:
    """A connection: what `Decoder` receives and `Encoder` sends over one `Session`.

    `received` and `feed` raise `PeerViolationError` for the first rule that the peer breaks; then the codec is closed
    for good, both ways, and anything more raises `ConnectionClosedError`. What encodes raises `IllegalPacketError` for
    what may not be sent, and then nothing has changed.

    Of what it receives it holds at most `WINDOW` bytes and one payload: `max_payload`, or `MAX_FILTER_BYTES` of filter.
    `max_payload` limits what a packet may carry, not what one may ask for: the `length` of a bulk request without
    payload is only known to be at most `MAX_TRANSFER`.
    """

    # The two halves' methods are the codec's own attributes, so that a call costs no second frame. For what they take
    # and do, see `Decoder` and `Encoder`.
    buffer: Callable[[], memoryview]
    received: Callable[[int], None]
    feed: Callable[[bytes | bytearray | memoryview], None]

    def __init__(
        self, role: Role, caps: Cap, version: str, sink: Sink, *, max_payload: int = DEFAULT_MAX_PAYLOAD
    ) -> None:
        """`version` names us to the peer: at most 63 printable ASCII characters. `max_payload` is in bytes."""
        if not 0 <= max_payload <= MAX_TRANSFER:
            raise ValueError(f"max_payload is {max_payload}, not 0 to {MAX_TRANSFER}")
        self._session = Session(role, caps)
        encoder = Encoder(self._session, version)
        decoder = Decoder(self._session, sink, max_payload, encoder.agreed)
        self.buffer, self.received, self.feed = decoder.buffer, decoder.received, decoder.feed
        self.hello, self.encode = encoder.hello, encoder.encode
        self.control_header, self.bulk_header = encoder.control_header, encoder.bulk_header
        self.interrupt_header, self.iso_header = encoder.interrupt_header, encoder.iso_header
        self.buffered_bulk_header = encoder.buffered_bulk_header

    @property
    def peer_caps(self) -> Cap | None:
        """What the peer's hello said; None until it has come."""
        return self._session.peer_caps

    @property
    def negotiated(self) -> Cap:
        """The capabilities that both ends have; none until the peer's hello has come."""
        return self._session.negotiated

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._session.state

    def close(self) -> None:
        """End the session for good, for instance because the connection below has ended."""
        self._session.close()
