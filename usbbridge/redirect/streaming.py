"""Everything of a device that runs without being asked for each time, and the guest's packets that start and stop it:
receiving interrupt and bulk endpoints, isochronous streams, and the making of bulk streams.

While there is no device, a start is answered STALL, the protocol's word for a stream that does not run, and a stop not
at all.
"""

from collections.abc import Callable, Collection
from typing import Any, Final

from usbbridge.backend.base import Device, Transfer
from usbbridge.redirect.bulk_receiving import BulkReceiving
from usbbridge.redirect.bulk_streams import BulkStreams
from usbbridge.redirect.interrupt import InterruptReceiving
from usbbridge.redirect.iso_in import IsoIn
from usbbridge.redirect.iso_out import IsoOut
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.limits import (
    MAX_REPORT_BYTES,
    MAX_REPORT_TRANSFERS,
    MAX_STREAM_BYTES,
    MAX_STREAM_TRANSFERS,
)
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.streams import Budget, Stream, StreamKind
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import DIR_IN
from usbbridge.usbredir import packets
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import REQUIRED_CAP, Cap, PacketType
from usbbridge.usbredir.proto import Status as RedirStatus

STREAM_PACKETS: Final = frozenset(
    {
        PacketType.START_ISO_STREAM,
        PacketType.STOP_ISO_STREAM,
        PacketType.START_INTERRUPT_RECEIVING,
        PacketType.STOP_INTERRUPT_RECEIVING,
        PacketType.START_BULK_RECEIVING,
        PacketType.STOP_BULK_RECEIVING,
        PacketType.ALLOC_BULK_STREAMS,
        PacketType.FREE_BULK_STREAMS,
    }
)
"What `Streaming.packet` takes."


class Streaming:
    """The streams of a device. `send` puts a packet into the outbox."""

    def __init__(
        self,
        device: Device,
        transfers: Transfers,
        outbox: Outbox,
        send: Callable[[Packet, int], None],
        lost: Callable[[], None],
        stalled: Callable[[], None],
        quirks: Collection[str] = (),
    ) -> None:
        """`lost` is called when the device turns out to be gone, `stalled` when `recover()` has something to do."""
        self._transfers, self._send = transfers, send
        self._caps = Cap(0)
        reports, others = Budget(MAX_REPORT_TRANSFERS, MAX_REPORT_BYTES), Budget(MAX_STREAM_TRANSFERS, MAX_STREAM_BYTES)
        self.interrupt = InterruptReceiving(device, outbox, reports, lost, stalled)
        self.iso_in = IsoIn(device, outbox, others, lost, stalled)
        self.iso_out = IsoOut(device, outbox, others, lost, stalled, transfers.why_not)
        self.bulk = BulkReceiving(
            device, outbox, others, lost, stalled, transfers.take_over, transfers.hand_back
        )
        self.bulk_streams = BulkStreams(device, transfers, send, lost, quirks)
        self._kinds: tuple[StreamKind[Any], ...] = (self.interrupt, self.iso_in, self.iso_out, self.bulk)

    def answer_through(self, codec: Codec) -> None:
        """Whose packets the answers and data are; to be called before the first packet."""
        self._codec = codec
        self.bulk_streams.answer_through(codec)
        for kind in self._kinds:
            kind.answer_through(codec)

    def drive(self, device: Device) -> list[Transfer]:
        """Give transfers to this device object from now on. Answer: what is in flight for streams now."""
        self.bulk_streams.drive(device)
        return [t for kind in self._kinds for t in kind.drive(device)]

    def set_layout(self, layout: Layout) -> None:
        """Which endpoints the current configuration and alternate settings have."""
        endpoints = layout.endpoints()
        for kind in self._kinds:
            mine = {a: e for a, e in endpoints.items() if e.transfer_type is kind.TYPE and a & DIR_IN == kind.DIRECTION}
            kind.endpoints = {address: layout.interval_bytes(endpoint) for address, endpoint in mine.items()}
            kind.intervals = {address: layout.service_interval(endpoint) for address, endpoint in mine.items()}

    def stop_all(self, endpoints: set[int] | None = None, *, say: RedirStatus | None = None) -> None:
        """Stop all streams, or those on the given addresses; with `say`, tell the guest so."""
        for kind in self._kinds:
            kind.stop_all(endpoints, say=say)

    def recover(self) -> None:
        """Start anew what has stalled; not to be called in a callback."""
        for kind in self._kinds:
            if kind.to_recover:
                kind.recover()

    def release(self, t: Transfer) -> None:
        """The data of a transfer has been written, of a stream or not."""
        if isinstance(t.header, Stream):
            self.bulk.written(t)
        else:
            self._transfers.release(t)

    @property
    def isochronous(self) -> bool:
        """Whether an isochronous stream runs."""
        return self.iso_in.running or self.iso_out.running

    @property
    def dropped(self) -> int:
        """Packets of streams that were thrown away because guest or device did not keep up."""
        return sum(kind.dropped for kind in self._kinds)

    # ---- packets of the guest

    def packet(self, packet_id: int, packet: Packet) -> None:
        """One of the STREAM_PACKETS. What the guest has not said it can do, it can't be answered, so it is ignored."""
        if REQUIRED_CAP.get(packet.type, Cap(0)) not in self._codec.negotiated:
            return
        match packet:
            case packets.AllocBulkStreams(mask, count):
                self.bulk_streams.alloc(mask, count, packet_id)
            case packets.FreeBulkStreams(mask):
                self.bulk_streams.free(mask, packet_id)
            case _ if self._transfers.connected:
                self._start_or_stop(packet_id, packet)
            case _:
                self._refuse(packet_id, packet)

    def _start_or_stop(self, packet_id: int, packet: Packet) -> None:
        match packet:
            case packets.StartIsoStream(endpoint, size, count):
                self._transfers.touch()
                self._iso(endpoint).start(endpoint, size, count, packet_id)
            case packets.StopIsoStream(endpoint):
                self._iso(endpoint).stop(endpoint, packet_id)
            case packets.StartInterruptReceiving(endpoint):
                self._transfers.touch()
                self.interrupt.start(endpoint, packet_id)
            case packets.StopInterruptReceiving(endpoint):
                self.interrupt.stop(endpoint, packet_id)
            case packets.StartBulkReceiving(stream_id, size, endpoint, count):
                self._transfers.touch()
                self.bulk.start(endpoint, stream_id, size, count, packet_id)
            case packets.StopBulkReceiving(stream_id, endpoint):
                self.bulk.stop(endpoint, packet_id)

    def _iso(self, endpoint: int) -> IsoIn | IsoOut:
        return self.iso_in if endpoint & DIR_IN else self.iso_out

    def _refuse(self, packet_id: int, packet: Packet) -> None:
        """Without a device nothing starts, and there is nothing to stop."""
        stall = RedirStatus.STALL
        match packet:
            case packets.StartIsoStream(endpoint):
                self._iso(endpoint).say(endpoint, stall, packet_id)
            case packets.StartInterruptReceiving(endpoint):
                self.interrupt.say(endpoint, stall, packet_id)
            case packets.StartBulkReceiving(stream_id, _, endpoint):
                self._send(packets.BulkReceivingStatus(stream_id, endpoint, stall), packet_id)
