"""What the guest may change of the device as a whole: configuration, alternate settings, halts, and its reset.

The kernel has to know of these changes, so none of them may reach the device as a plain control transfer; those
control packets that would are intercepted here. While the kernel changes something, nothing may be in flight on what
it changes.
"""

from collections.abc import Callable, Collection
from typing import Final

from usbbridge.backend.base import Device
from usbbridge.errors import DeviceError, DeviceLostError, UsbBridgeError
from usbbridge.redirect.interrupt_out import InterruptOut
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.limits import DRAIN_SECONDS
from usbbridge.redirect.quirks import NEVER_READ_AHEAD, NEVER_RESET, NO_READ_AHEAD, NO_RESET
from usbbridge.redirect.streaming import Streaming
from usbbridge.redirect.transfers import Transfers
from usbbridge.usb.ch9 import Feature, Request
from usbbridge.usbredir.packets import Packet
from usbbridge.usbredir.proto import Status

NO_SUCH_INTERFACE: Final = 255
"`alt` of alt_setting_status for an interface that does not exist."


class Settings:
    """The device's configuration and settings, kept as the guest sees them. `send` puts a packet into the outbox."""

    def __init__(
        self,
        device: Device,
        transfers: Transfers,
        interrupt_out: InterruptOut,
        streams: Streaming,
        send: Callable[[Packet], None],
        quirks: Collection[str] = (),
    ) -> None:
        self.layout = Layout(None, device.speed)
        self.resets = 0
        "Resets carried out because the guest asked for them."
        self._quirks = quirks
        self._device, self._transfers, self._send = device, transfers, send
        self._interrupt_out, self._streams = interrupt_out, streams

    def drive(self, device: Device) -> None:
        """Ask this device object from now on."""
        self._device = device

    def read(self) -> None:
        """Take the layout from the device's descriptors."""
        self.layout = Layout(self._device.configuration(), self._device.speed)

    def forget(self) -> None:
        """The device is no longer the guest's: no configuration, no interfaces, and no endpoints to use."""
        self.layout = Layout(None, self._device.speed)
        self._streams.bulk_streams.forget()
        self._use_endpoints()

    def _use_endpoints(self) -> None:
        endpoints = self.layout.endpoints()
        self._transfers.set_endpoints(endpoints)
        self._interrupt_out.set_endpoints(endpoints)
        self._streams.set_layout(self.layout)
        self._transfers.foresee(self.layout.drives() if self._may_read_ahead() else [])

    def _may_read_ahead(self) -> bool:
        d = self._device.descriptor
        return NO_READ_AHEAD not in self._quirks and (d.vendor, d.product) not in NEVER_READ_AHEAD

    def tell(self) -> None:
        """interface_info and ep_info, and what the transfers may use from now on. Raises DeviceLostError."""
        self.layout.streams = self._streams.bulk_streams.offer(self.layout)
        self._use_endpoints()
        self._send(self.layout.interface_info())
        self._send(self.layout.ep_info())

    @property
    def configuration(self) -> int:
        """bConfigurationValue of the active configuration, 0 if there is none."""
        return self.layout.value

    def alternate(self, number: int) -> int:
        """The current alternate setting of an interface, or NO_SUCH_INTERFACE."""
        return self.layout.alternates.get(number, NO_SUCH_INTERFACE)

    def set_configuration(self, value: int) -> Status:
        """Activate a configuration and tell the guest of it. Raises DeviceLostError, RefusedError."""
        if value == self.configuration:
            return Status.SUCCESS
        self._transfers.touched = True
        if not self._quiesce(None):
            return Status.IOERROR
        try:
            self._device.set_configuration(value)
        except DeviceLostError:
            raise
        except DeviceError:
            self._device.claim()  # what was released for the change
            self._notice_change()
            return Status.STALL
        self._streams.bulk_streams.forget()
        self.read()
        self.tell()
        return Status.SUCCESS

    def _notice_change(self) -> None:
        """A change that failed may have come half-way: the device in the new configuration, its interfaces not ours."""
        found = Layout(self._device.configuration(), self._device.speed)
        if found.value != self.layout.value:
            self._streams.bulk_streams.forget()
            self.layout = found
            self.tell()

    def set_alternate(self, number: int, alternate: int) -> Status:
        """Select an alternate setting and tell the guest of it. Raises DeviceLostError."""
        if not self.layout.has_setting(number, alternate):
            return Status.INVAL
        self._transfers.touched = True
        if not self._quiesce(self.layout.endpoints_of(number)):
            return Status.IOERROR
        if not self._select(number, alternate):
            return Status.STALL
        self._now_in(number, alternate)
        self.tell()
        return Status.SUCCESS

    def _now_in(self, number: int, alternate: int) -> None:
        self._streams.bulk_streams.forget(self.layout.endpoints_of(number))
        self.layout.alternates[number] = alternate

    def _select(self, number: int, alternate: int) -> bool:
        try:
            self._device.set_interface(number, alternate)
        except DeviceLostError:
            raise
        except DeviceError:
            return False
        return True

    def control(self, request: int, value: int, index: int) -> Status | None:
        """Carry out one of the requests in `transfers.INTERCEPTED`; None if it may go to the device as it is."""
        if request == Request.SET_CONFIGURATION:
            return self.set_configuration(value & 0xFF)
        if request == Request.SET_INTERFACE:
            return self.set_alternate(index & 0xFF, value & 0xFF)
        if request == Request.CLEAR_FEATURE:
            return self._clear_halt(index & 0xFF) if value == Feature.ENDPOINT_HALT else None
        return Status.STALL  # SET_ADDRESS: the address is the client's business

    def reset(self) -> None:
        """Cancel everything, tell the guest that its streams have stopped, and reset. Raises DeviceLostError."""
        quiet = self._quiesce(None)
        self.resets += 1
        was_reset = self.reset_device()
        if was_reset:
            self._streams.bulk_streams.forget()
        if any(self.layout.alternates.values()) and (was_reset or quiet):
            self._begin_in_first_settings(was_reset)

    def _begin_in_first_settings(self, was_reset: bool) -> None:
        """After a reset all interfaces are in their first setting (USB 2.0 §9.1.1.5): one that is spared the reset is
        asked for it. Raises DeviceLostError."""
        for number, alternate in self.layout.alternates.items():
            if alternate and (was_reset or self._select(number, 0)):
                self._now_in(number, 0)
        self.tell()

    def reset_device(self) -> bool:
        """Reset, unless the device does not bear it; whether it was. Raises DeviceLostError if it does not come
        back."""
        d = self._device.descriptor
        self._transfers.touched = False
        if NO_RESET in self._quirks or (d.vendor, d.product) in NEVER_RESET:
            return False
        try:
            self._device.reset()
        except UsbBridgeError as error:
            raise DeviceLostError(f"{self._device.name} did not come back from a reset: {error}") from error
        return True

    def _clear_halt(self, endpoint: int) -> Status:
        self._transfers.touched = True
        self._transfers.forget_ahead((endpoint,))
        try:
            self._device.clear_halt(endpoint)
        except DeviceLostError:
            raise
        except DeviceError:
            return Status.STALL
        return Status.SUCCESS

    def _quiesce(self, endpoints: set[int] | None) -> bool:
        """End what is in flight on these endpoints (None: on all), and free their bulk streams. False if it does not
        end in time."""
        self._transfers.cancel_all(endpoints)
        self._streams.stop_all(endpoints, say=Status.STALL)
        if not self._device.drain(DRAIN_SECONDS):
            return False
        self._streams.bulk_streams.drop(endpoints)
        return True
