"""A host with a device and a guest, between which an input's steps happen."""

from tests.fakes.device import FakeDevice
from tests.fuzz.usb_guest import Guest
from usbbridge.backend.base import Device, Transfer
from usbbridge.errors import DeviceError, RefusedError, RemoteProtocolError
from usbbridge.redirect.host import Host
from usbbridge.redirect.limits import MAX_PENDING_BYTES, MAX_TRANSFER, OUTBOX_HIGH
from usbbridge.redirect.quirks import NO_RESET
from usbbridge.usbredir.proto import Cap

RAW, SPARED, KEEPS_CANCELLED, FAILS = 1, 2, 4, 8
"""Bits of the third byte: the guest's stream as it stands in the input; the quirk that spares the device its resets; a
device whose cancelled transfers do not come back; one that fails from the start."""


class Session:
    """One input's run."""

    def __init__(self, caps: Cap, device: Device, how: int) -> None:
        self.device = device
        self.now = 1000.0
        quirks = (NO_RESET,) if how & SPARED else ()
        self.host = Host(
            device, version="fuzz", on_progress=lambda step: None, clock=lambda: self.now, quirks=quirks
        )
        self.guest = Guest(caps, raw=bool(how & RAW))
        self.said = bytearray()
        "Of the guest, not yet received by the host."
        self.written: list[Transfer] = []
        "Held by what has been written, not yet released."
        self.over = False
        self.broken = False
        "By the guest: it is owed nothing any more."
        self.host.start()

    # ---- what happens between them

    def receive(self) -> None:
        """The host reads what the guest has said, into its own buffer as from a socket; it does not while it is
        congested."""
        data, self.said = bytes(self.said), bytearray()
        if self.over or not data:
            return
        if self.host.congested:
            self.write()
        view = memoryview(data)
        try:
            self.guest.says(data, self.host.codec.state)
        except RemoteProtocolError:
            self.broken = True
        try:
            while view:
                target = self.host.codec.buffer()
                n = min(len(target), len(view))
                target[:n] = view[:n]
                view = view[n:]
                self.host.codec.received(n)
        except RemoteProtocolError:
            self.over = True
        assert self.over == self.broken, "two decoders of one stream differ"
        if not self.over:
            self.work()

    def work(self) -> None:
        """Ended transfers, and what had to wait for them."""
        try:
            self.device.reap()
            while self.host.due and not self.over:
                self.host.service()
        except (RefusedError, DeviceError):
            self.over = True
        host = self.host
        assert host.pending_bytes <= MAX_PENDING_BYTES + MAX_TRANSFER
        assert host.outbox.size <= OUTBOX_HIGH + MAX_PENDING_BYTES
        assert host.outbox.size == sum(map(len, host.outbox.parts)), "the outbox counts wrong"

    def write(self, *, slowly: bool = False) -> None:
        """All that waits goes to the guest. `slowly`: whose data it is learns of that with the next write only."""
        outbox = self.host.outbox
        parts, outbox.parts = outbox.parts, []
        self.written += outbox.held
        outbox.held, outbox.size = [], 0
        data = b"".join(parts)
        if data:
            self.guest.hears(data)
        if not slowly:
            written, self.written = self.written, []
            self.host.sent(written)
        if not self.over:
            self.host.read_ahead()

    def time_passes(self) -> None:
        self.now += 2.6
        if self.host.deadline <= self.now:
            self.host.expire()

    def _all_ends(self) -> None:
        """What is in flight ends, and is not known to have ended yet: nothing may come of that any more."""
        if isinstance(self.device, FakeDevice):
            for transfer in list(self.device.flying):
                self.device.finish(transfer)

    def end(self) -> None:
        """As the encoder ends it: a guest that has broken the protocol is told nothing more."""
        self.receive()
        if self.broken:
            self._all_ends()
        else:
            self.host.disconnect()
            self.write()
            self.guest.has_all_answers()
        self.host.close()
        self.device.close()
        assert self.device.in_flight() == 0, "transfers are in flight after the end"
        if isinstance(self.device, FakeDevice):
            unwritten = len(self.written) + len(self.host.outbox.held)
            assert self.device.outstanding <= 1 + unwritten, "transfers are lost"  # 1: a packet may be half received
