"""The usb-host: one device, announced to one usbredir guest and driven on its behalf.

Sans-IO as to the connection: bytes of the guest go in through `codec`, what is to be sent collects in `outbox`. The
owner calls

    host.start()        once: our hello is in the outbox
    host.service()      when `due` after a batch of input or of `device.reap()`: what can't be done inside a callback;
                        if it is due again behind that, then once more when the outbox has been written, and
                        before anything else is received
    host.expire()       when `deadline` has passed
    host.sent(held)     when data of these transfers has been written
    host.read_ahead()   if there is anything `foreseen`, when what was in the outbox has been written

Errors end the session: RemoteProtocolError (the guest broke the protocol), RefusedError (the guest or its filter does
not want the device), DeviceLostError. After any of them, and at a wanted end, the owner calls `disconnect()`, writes
what is in the outbox, and waits a bounded time for `acknowledged`. After a RemoteProtocolError nothing can be said any
more: before anything else, `device.reap()` too, it calls `disconnect()` or at once `close()`.

Order of things, as libusbredirhost does it and QEMU expects it: hello both ways; interface_info, ep_info,
device_connect; after each successful change of configuration or setting interface_info and ep_info before the status.
"""

import contextlib
from collections.abc import Callable, Collection
from enum import Enum
from typing import TypeVar

from usbbridge.backend.base import Device, Transfer
from usbbridge.errors import DeviceLostError, RefusedError, UsbBridgeError
from usbbridge.redirect import admission, refusal, uas
from usbbridge.redirect.interrupt_out import InterruptOut
from usbbridge.redirect.limits import DRAIN_SECONDS, MAX_TRANSFER, OUTBOX_HIGH
from usbbridge.redirect.outbox import Outbox
from usbbridge.redirect.settings import NO_SUCH_INTERFACE, Settings
from usbbridge.redirect.status import redir_speed
from usbbridge.redirect.streaming import STREAM_PACKETS, Streaming
from usbbridge.redirect.transfers import Transfers
from usbbridge.usbredir import filter as redir_filter
from usbbridge.usbredir import packets
from usbbridge.usbredir.codec import Codec
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import ALL_CAPS, Cap, PacketType, Role
from usbbridge.usbredir.proto import Status as RedirStatus
from usbbridge.usbredir.state import State

_Answer = TypeVar("_Answer", RedirStatus, RedirStatus | None)


NUDGE_ENDPOINT = 0x80
"Endpoint 0 is for control transfers only; a guest has never started to receive reports from it."


class Progress(Enum):
    """How far an attachment has come; each is reported once, in this order."""

    HELLO = "the VM's USB port answers"
    ANNOUNCED = "the device is announced to the VM"
    ATTACHED = "the VM uses the device"


class Host:
    """See the module's text. `version` is what our hello says; `on_progress` is told each `Progress`. `clock` gives
    seconds. `quirks` are names of `usbbridge.redirect.quirks`; what is not known is passed over."""

    def __init__(
        self,
        device: Device,
        *,
        version: str,
        on_progress: Callable[[Progress], None],
        clock: Callable[[], float],
        quirks: Collection[str] = (),
    ) -> None:
        self.outbox = Outbox()
        self.acknowledged = False
        "The guest has acknowledged device_disconnect, or can't."
        self.guest_version = ""
        self.due = False
        "Whether `service()` has anything to do."
        self._device, self._on_progress = device, on_progress
        self._claimed = self._announced = self._attached = False
        self._announce_due = self._reset_due = False
        self._failure: UsbBridgeError | None = None
        self._rules: tuple[redir_filter.FilterRule, ...] | None = None
        self._transfers = Transfers(device, self.outbox, clock, self._lost, self._use, self._intercept)
        self.pending = self._transfers.pending
        "Transfers of the device that the guest waits for: not empty while there are any."
        self.unasked, self.foreseen = self._transfers.unasked, self._transfers.foreseen
        """Transfers in flight that it does not wait for, but soon will, or did once; and, while it is not empty, more
        of the former is to be begun: by `read_ahead`, when the outbox has been written."""
        self.read_ahead = self._transfers.read_ahead
        self._interrupt_out = InterruptOut(device, self._transfers, self.outbox, self._lost)
        self._streams = Streaming(
            device, self._transfers, self.outbox, self._send, self._lost, self._stalled, quirks
        )
        self._settings = Settings(device, self._transfers, self._interrupt_out, self._streams, self._send, quirks)
        self._release = self._transfers.release
        # the sink of the codec: data packets go straight to the transfers
        self.bulk, self.control = self._transfers.bulk, self._transfers.control
        self.interrupt, self.iso = self._interrupt_out.packet, self._streams.iso_out.packet
        self.data_area = self._transfers.data_area
        self.codec = Codec(Role.HOST, ALL_CAPS, version, self, max_payload=MAX_TRANSFER)
        self._transfers.answer_through(self.codec)
        self._interrupt_out.answer_through(self.codec)
        self._streams.answer_through(self.codec)
        self._handlers: dict[PacketType, Callable[[int, Packet], None]] = {
            PacketType.HELLO: self._on_hello,
            PacketType.RESET: self._on_reset,
            PacketType.SET_CONFIGURATION: self._on_set_configuration,
            PacketType.GET_CONFIGURATION: self._on_get_configuration,
            PacketType.SET_ALT_SETTING: self._on_set_alt_setting,
            PacketType.GET_ALT_SETTING: self._on_get_alt_setting,
            PacketType.CANCEL_DATA_PACKET: self._on_cancel,
            PacketType.FILTER_FILTER: self._on_filter,
            PacketType.FILTER_REJECT: self._on_reject,
            PacketType.DEVICE_DISCONNECT_ACK: self._on_ack,
            **dict.fromkeys(STREAM_PACKETS, self._streams.packet),
            PacketType.START_BULK_RECEIVING: self._on_start_bulk,
        }

    # ---- for the owner

    def start(self) -> None:
        """Put our hello into the outbox: the first thing to be sent."""
        self.outbox.put(self.codec.hello())

    def service(self) -> None:
        """Do what had to wait for the end of a callback. Raises RefusedError, DeviceLostError, DeviceError."""
        self.due = False
        if self._announce_due:
            self._announce_due = False
            self._announce()
        elif self._reset_due:
            self._reset_due = False
            self._settings.reset_device()
        self._streams.recover()
        if self._failure is not None:
            raise self._failure

    @property
    def deadline(self) -> float:
        """When `expire()` is to be called, by the clock; infinity if nothing has a time limit now."""
        return self._transfers.deadline

    def expire(self) -> None:
        """Answer what the device has not answered in time."""
        self._transfers.expire()

    def nudge(self) -> None:
        """Put a packet into the outbox that changes nothing in the guest: the state of a report stream that can't
        exist."""
        if self._attached and self._announced:
            self._send(packets.InterruptReceivingStatus(RedirStatus.SUCCESS, NUDGE_ENDPOINT))

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that nothing more should be read."""
        return self.outbox.size > OUTBOX_HIGH

    @property
    def pending_bytes(self) -> int:
        """Bytes of transfer buffers in use (see `limits.MAX_PENDING_BYTES`)."""
        return self._transfers.pending_bytes

    def drive(self, device: Device) -> list[Transfer]:
        """Drive the device through this object from now on, that stands in front of it or no longer does. Answer: what
        is in flight now, and so has been given to the one before."""
        self._device = device
        self._transfers.drive(device)
        self._interrupt_out.drive(device)
        self._settings.drive(device)
        return [*self.pending, *self.unasked, *self._streams.drive(device)]

    def sent(self, held: list[Transfer]) -> None:
        """The data of these transfers has been written: their buffers are free again."""
        for transfer in held:
            self._release(transfer)

    def disconnect(self) -> None:
        """Take the device away from the guest: answer what is pending, say device_disconnect, release the device. A
        guest that has broken the protocol is told nothing."""
        self._announce_due = self._reset_due = False
        if self.codec.state is State.CLOSED:
            self._abandon()
        self.acknowledged = not (self._announced and self.codec.negotiated & Cap.DEVICE_DISCONNECT_ACK)
        if self._announced:
            self._announced = False
            self._transfers.cancel_all()
            self._streams.stop_all()
            self._transfers.disconnect()
            self._settings.forget()
            self.outbox.put(self.codec.encode(packets.DeviceDisconnect()))

    def _abandon(self) -> None:
        """Cancel everything without a word: what has ended, or ends from now on, makes nothing to be sent, which a
        closed codec would refuse."""
        self._announced = False
        self._transfers.abandon_all()
        self._streams.stop_all()
        self._transfers.disconnect()

    def close(self) -> None:
        """Give the device back: nothing in flight, reset (a transfer may have been cut off in the middle), released,
        closed."""
        if self._claimed:
            self._abandon()
            lost = isinstance(self._failure, DeviceLostError)
            if not lost and self._device.drain(DRAIN_SECONDS) and self._transfers.touched:
                with contextlib.suppress(DeviceLostError):
                    self._settings.reset_device()
            self._device.close()

    @property
    def isochronous(self) -> bool:
        """Whether an isochronous stream runs: its packets must not be held up."""
        return self._streams.isochronous

    @property
    def dropped(self) -> int:
        """Packets of streams that were thrown away because guest or device did not keep up."""
        return self._streams.dropped

    @property
    def resets(self) -> int:
        """Resets that the guest has asked for and that were carried out."""
        return self._settings.resets

    # ---- attaching

    def _announce(self) -> None:
        """Claim, and tell the guest: only now, when there is a guest, is the device taken from its kernel driver.

        The device is reset behind that, by the next `service()`: while a guest's kernel lets a new connection settle
        (100 ms, USB 2.0 §7.1.7.3) it asks nothing, and a reset takes as long.
        """
        self._settings.read()
        self._check_filter()
        self._claimed = True  # or a part of it, if that fails
        self._device.claim()
        if self._streams.bulk_streams.lacking(self._settings.layout):
            uas.check(self._device.name, self._settings.layout.configuration)
            self.control = uas.WithoutUas(self._transfers).control
        self._transfers.connect()
        self._settings.tell()
        d = self._device.descriptor
        speed = redir_speed(self._device.speed)
        self._send(
            packets.DeviceConnect(speed, d.class_, d.subclass, d.protocol, d.vendor, d.product, d.bcd_device)
        )
        self._announced = self._reset_due = self.due = True
        self._on_progress(Progress.ANNOUNCED)

    def _check_filter(self) -> None:
        """Hold the device against the guest's filter, if it sent one. Raises RefusedError."""
        if self._rules is not None:
            admission.check(self._rules, self._device, self._settings.layout)

    def _use(self) -> None:
        """The guest has asked something of the device: it has taken it."""
        if not self._attached and self._announced:
            self._attached = True
            self._on_progress(Progress.ATTACHED)

    def _send(self, packet: Packet, packet_id: int = 0) -> None:
        self.outbox.put(self.codec.encode(packet, packet_id))

    def _stalled(self) -> None:
        self.due = True

    def _lost(self) -> None:
        self._fail(DeviceLostError(f"{self._device.name} was unplugged"))

    def _fail(self, error: UsbBridgeError) -> None:
        """End the session with this error, from `service()`: raised in a callback it would break the codec."""
        self._failure = self._failure or error
        self.due = True

    # ---- packets of the guest

    def packet(self, packet_id: int, packet: Packet) -> None:
        """Everything that is not a data packet."""
        try:
            self._handlers[packet.type](packet_id, packet)
        except UsbBridgeError as error:
            self._fail(error)

    def _on_hello(self, packet_id: int, packet: Packet) -> None:
        assert isinstance(packet, packets.Hello)
        self.guest_version = packet.version
        self._announce_due = self.due = True  # not at once: a filter may be right behind
        self._on_progress(Progress.HELLO)

    def _on_filter(self, packet_id: int, packet: Packet) -> None:
        assert isinstance(packet, packets.FilterFilter)
        self._rules = redir_filter.rules_of_peer(packet.text)
        if self._announced:
            self._check_filter()

    def _on_reject(self, packet_id: int, packet: Packet) -> None:
        if self._announced:
            self._fail(RefusedError(f"the VM refused {self._device.name}", hint=self._refusal()))

    def _refusal(self) -> str:
        if self._streams.bulk_streams.failed:
            return refusal.without_streams(self._device.descriptor)
        endpoints = self._settings.layout.endpoints().values()
        return refusal.hint(self._device.speed, endpoints, filtered=self._rules is not None)

    def _on_ack(self, packet_id: int, packet: Packet) -> None:
        self.acknowledged = True

    def _on_cancel(self, packet_id: int, packet: Packet) -> None:
        self._transfers.cancel(packet_id)

    def _on_reset(self, packet_id: int, packet: Packet) -> None:
        """A reset has no answer; one of a device that was not used since the last is skipped, as it is asked for
        twice at attach."""
        self._use()
        if self._announced and self._transfers.touched:
            self._settings.reset()

    # ---- configurations and alternate settings

    def _attempt(self, change: Callable[..., _Answer], *numbers: int) -> _Answer | RedirStatus:
        """Make a change that has an answer: IOERROR without a device, and also if it ends the session."""
        if not self._announced:
            return RedirStatus.IOERROR
        self._use()
        try:
            return change(*numbers)
        except UsbBridgeError as error:
            self._fail(error)
            return RedirStatus.IOERROR

    def _on_set_configuration(self, packet_id: int, packet: Packet) -> None:
        assert isinstance(packet, packets.SetConfiguration)
        status = self._attempt(self._settings.set_configuration, packet.configuration)
        self._send(packets.ConfigurationStatus(status, self._settings.configuration), packet_id)

    def _on_get_configuration(self, packet_id: int, packet: Packet) -> None:
        status = RedirStatus.SUCCESS if self._announced else RedirStatus.IOERROR
        self._send(packets.ConfigurationStatus(status, self._settings.configuration), packet_id)

    def _on_set_alt_setting(self, packet_id: int, packet: Packet) -> None:
        assert isinstance(packet, packets.SetAltSetting)
        number = packet.interface
        status = self._attempt(self._settings.set_alternate, number, packet.alt)
        self._send(packets.AltSettingStatus(status, number, self._settings.alternate(number)), packet_id)

    def _on_get_alt_setting(self, packet_id: int, packet: Packet) -> None:
        assert isinstance(packet, packets.GetAltSetting)
        alternate = self._settings.alternate(packet.interface)
        known = RedirStatus.INVAL if alternate == NO_SUCH_INTERFACE else RedirStatus.SUCCESS
        status = known if self._announced else RedirStatus.IOERROR
        self._send(packets.AltSettingStatus(status, packet.interface, alternate), packet_id)

    def _on_start_bulk(self, packet_id: int, packet: Packet) -> None:
        """From now on written data may be that of a stream; until now, nobody had to look."""
        self._release = self._streams.release
        self._streams.packet(packet_id, packet)

    # ---- data packets that `Transfers` does not take

    def _intercept(self, request: int, value: int, index: int) -> RedirStatus | None:
        return self._attempt(self._settings.control, request, value, index)

    def buffered_bulk(
        self, packet_id: int, stream_id: int, length: int, endpoint: int, status: int, data: memoryview
    ) -> None:
        """Never comes from a guest: the codec refuses it."""
