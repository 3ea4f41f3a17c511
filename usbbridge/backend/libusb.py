"""A real USB device through libusb: opened from a file descriptor somebody handed over, or found by bus and port.

The only module (with its two helpers beside it) that imports usb1. Opening, claiming and configuring go through
python-libusb1; the calls made for each URB are in `libusb_transfers`.

Drivers: every kernel driver is detached before the interfaces are claimed, and attached again only when *all*
interfaces are released: an audio driver binds several interfaces at once and fails if one of them is still held.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import usb1

from usbbridge.backend import libusb_library
from usbbridge.backend.libusb_streams import BulkStreams
from usbbridge.backend.libusb_transfers import TransferEngine
from usbbridge.errors import (
    DeviceError,
    DeviceLostError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    UsbBridgeError,
)
from usbbridge.usb.ch9 import DIR_IN, ENDPOINT_NUMBER_MASK, DescriptorType, Speed
from usbbridge.usb.descriptors import (
    COMPANION_STRUCT,
    MAX_INTERFACES,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    SuperSpeedCompanion,
)

DRAIN_SECONDS = 2.0
"How long close() waits for cancelled transfers: a device that answers nothing must not hold up the end of a process."

SPEEDS = {
    usb1.SPEED_LOW: Speed.LOW,
    usb1.SPEED_FULL: Speed.FULL,
    usb1.SPEED_HIGH: Speed.HIGH,
    usb1.SPEED_SUPER: Speed.SUPER,
    usb1.SPEED_SUPER_PLUS: Speed.SUPER_PLUS,
}


@contextlib.contextmanager
def _doing(name: str, what: str) -> Iterator[None]:
    """Turn libusb's errors into ours: `what` is what was being done, for the message."""
    try:
        yield
    except usb1.USBErrorNoDevice as error:
        raise DeviceLostError(f"{name} was unplugged while {what}") from error
    except usb1.USBErrorBusy as error:
        raise RefusedError(
            f"{name} is in use by another program (while {what})", hint="find it with: fuser -v /dev/bus/usb/*/*"
        ) from error
    except usb1.USBErrorAccess as error:
        raise NotPermittedError(
            f"no permission to use {name}",
            hint="run as root, or give yourself write access to its node in /dev/bus/usb",
        ) from error
    except usb1.USBError as error:
        raise DeviceError(f"{name}: {what} failed: {error}") from error


class LibusbDevice:
    """A device opened through libusb; see `usbbridge.backend.base.Device` for the contract of each method."""

    def __init__(self, context: Any, handle: Any, fd: int | None = None, name: str = "", settle: float = 0.0) -> None:
        self._context, self._handle, self._fd = context, handle, fd
        self._device = handle.getDevice()
        self._descriptor = _device_descriptor(self._device.device_descriptor)
        numbers = ".".join(map(str, self._device.getPortNumberList()))
        where = f"{self._device.getBusNumber()}-{numbers}" if numbers else f"bus {self._device.getBusNumber()}"
        self._name = name or f"{where} {self._descriptor.vendor:04x}:{self._descriptor.product:04x}"
        self._engine = TransferEngine(context, handle)
        self._streams = BulkStreams(handle, self._name)
        self._claimed: list[int] = []
        self._detached: list[int] = []
        self._original: int | None = None
        self._settle = settle
        self._closed = False
        # The engine's own methods, bound once: one call less for each URB. They take the engine's kind of transfer
        # only, which is the only kind that take() makes; the seam's `Transfer` is wider, hence Any.
        self.take: Any = self._engine.take
        self.give_back: Any = self._engine.give_back
        self.submit_control: Any = self._engine.submit_control
        self.submit_bulk: Any = self._engine.submit_bulk
        self.submit_interrupt: Any = self._engine.submit_interrupt
        self.take_iso: Any = self._engine.take_iso
        self.submit_iso: Any = self._engine.submit_iso
        self.submit_bulk_stream: Any = self._engine.submit_bulk_stream
        self.cancel: Any = self._engine.cancel
        self.reap = self._engine.reap
        self.in_flight = self._engine.in_flight
        self.drain = self._engine.drain

    @property
    def name(self) -> str:
        """As it was given, or bus, port and ids; its strings are not read: that would need I/O."""
        return self._name

    @property
    def descriptor(self) -> DeviceDescriptor:
        return self._descriptor

    @property
    def speed(self) -> Speed:
        return SPEEDS.get(self._device.getDeviceSpeed(), Speed.UNKNOWN)

    def configuration(self) -> Configuration | None:
        with _doing(self._name, "reading its configuration"):
            value = self._handle.getConfiguration()
        if not value:
            return None
        for configuration in self._device.iterConfigurations():
            if configuration.getConfigurationValue() == value:
                return _configuration(configuration)
        raise DeviceError(f"{self._name}: its active configuration {value} has no descriptor")

    def pollfds(self) -> Sequence[tuple[int, int]]:
        return self._engine.pollfds()

    def claim(self) -> None:
        configuration = self.configuration()
        value = configuration.value if configuration else 0
        if self._original is None:
            self._original = value
        numbers = sorted({interface.number for interface in configuration.interfaces}) if configuration else []
        if len(numbers) > MAX_INTERFACES:
            raise DeviceError(f"{self._name} has {len(numbers)} interfaces; usbredir carries {MAX_INTERFACES}")
        if numbers and numbers[-1] >= MAX_INTERFACES:  # neither libusb nor Linux can claim it
            raise DeviceError(f"{self._name} calls an interface {numbers[-1]}; {MAX_INTERFACES - 1} is the highest")
        try:
            for number in numbers:
                self._detach_driver(number)
                with _doing(self._name, f"claiming interface {number}"):
                    self._handle.claimInterface(number)
                self._claimed.append(number)
        except UsbBridgeError:
            self._release_interfaces()
            self._attach_drivers()
            raise
        if self._settle:
            time.sleep(self._settle)
            self._settle = 0.0  # later claims take it from nobody

    def _detach_driver(self, number: int) -> None:
        with _doing(self._name, f"detaching the kernel driver of interface {number}"):
            try:
                if not self._handle.kernelDriverActive(number):
                    return
                self._handle.detachKernelDriver(number)
            except (usb1.USBErrorNotSupported, usb1.USBErrorNotFound):
                return  # no kernel drivers on this system, or it let go by itself
            if number not in self._detached:  # in another configuration, perhaps
                self._detached.append(number)

    def _release_interfaces(self) -> None:
        for number in self._claimed:
            with contextlib.suppress(usb1.USBError):
                self._handle.releaseInterface(number)
        self._claimed.clear()

    def _attach_drivers(self) -> None:
        for number in self._detached:
            with contextlib.suppress(usb1.USBError):  # no driver wants it, or the device is gone
                self._handle.attachKernelDriver(number)
        self._detached.clear()

    def release(self) -> None:
        if not self._claimed and not self._detached and self._original is None:
            return
        self._release_interfaces()
        original, self._original = self._original, None
        with contextlib.suppress(usb1.USBError):
            if original is not None and original != self._handle.getConfiguration():
                self._handle.setConfiguration(original or -1)  # the kernel binds its drivers to the new interfaces
        self._attach_drivers()

    def set_configuration(self, value: int) -> None:
        self._release_interfaces()
        with _doing(self._name, f"setting configuration {value}"):
            self._handle.setConfiguration(value or -1)  # libusb's spelling of "unconfigure"
        self.claim()

    def set_interface(self, number: int, alternate: int) -> None:
        with _doing(self._name, f"setting interface {number} to alternate setting {alternate}"):
            self._handle.setInterfaceAltSetting(number, alternate)

    def clear_halt(self, endpoint: int) -> None:
        with _doing(self._name, f"clearing the halt of endpoint {endpoint:#04x}"):
            self._handle.clearHalt(endpoint)

    def reset(self) -> None:
        # libusb gives the interfaces up for it, and Linux puts them into their first settings then: those it restores
        try:
            with _doing(self._name, "resetting it"):
                self._handle.resetDevice()
        except DeviceError as error:
            if isinstance(error.__cause__, usb1.USBErrorNotFound):
                raise DeviceLostError(f"{self._name} has gone, or came back from a reset as another device") from error
            raise

    def alloc_streams(self, count: int, endpoints: Sequence[int]) -> int:
        return self._streams.alloc(count, endpoints, self.speed)

    def free_streams(self, endpoints: Sequence[int]) -> None:
        self._streams.free(endpoints)
        self._engine.forget_streams(endpoints)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        clean = self._engine.close(DRAIN_SECONDS)
        self.release()
        if clean:  # else libusb still owns memory of ours, and closing would free what the kernel may yet write to
            self._context.close()  # and the handle with it; a wrapped handle's own close() fails in python-libusb1
        if self._fd is not None:
            os.close(self._fd)


def open_fd(fd: int, name: str = "", *, settle: float = 0.0) -> LibusbDevice:
    """The device behind an opened usbfs node; `fd` belongs to the device from now on, and is closed if there will be
    none. `name` is what to call it in messages: libusb knows no bus and port of such a device. `settle` is how many
    seconds it is left alone when it has been taken from its kernel drivers.

    Needs no access to /dev/bus/usb and makes no discovery. Raises DeviceError.
    """
    if libusb_library.needs_discovery(libusb_library.load()):
        os.close(fd)
        hint = "unset USBBRIDGE_LIBUSB, or name another"
        raise DeviceError("this libusb is older than 1.0.27 and can't take over a device", hint=hint)
    what = name or "the device"
    context = usb1.USBContext(with_device_discovery=False)
    try:
        with _doing(what, "taking over its file descriptor"):
            context.open()
            handle = _wrapped(context, fd, what)
        return LibusbDevice(context, handle, fd, name, settle)
    except UsbBridgeError:
        context.close()
        os.close(fd)
        raise


def _wrapped(context: Any, fd: int, name: str) -> Any:
    try:
        return context.wrapSysDevice(fd)
    except usb1.USBErrorIO as error:  # what libusb makes of descriptors that it can't parse
        raise DeviceError(f"{name}: its descriptors contradict themselves, or it is none that answers") from error


def open_selected(selector: str) -> LibusbDevice:
    """Find a device by BUS-PORT (`1-2.3`) or VID:PID (hexadecimal) in libusb's own list and open it.

    For systems without sysfs, and for a libusb that has devices of its own. Raises NotFoundError and what opening
    raises.
    """
    libusb_library.load()
    context = usb1.USBContext()
    with _doing(selector, "looking for it"):
        context.open()
        for device in context.getDeviceIterator(skip_on_error=True):
            if selector in (_bus_port(device), f"{device.getVendorID():04x}:{device.getProductID():04x}"):
                with _doing(selector, "opening it"):
                    return LibusbDevice(context, device.open())
    context.close()
    raise NotFoundError(f"no USB device {selector}", hint="usbbridge list shows what is plugged in")


def _bus_port(device: Any) -> str:
    return f"{device.getBusNumber()}-{'.'.join(map(str, device.getPortNumberList()))}"


def _device_descriptor(raw: Any) -> DeviceDescriptor:
    return DeviceDescriptor(
        bcd_usb=raw.bcdUSB,
        class_=raw.bDeviceClass,
        subclass=raw.bDeviceSubClass,
        protocol=raw.bDeviceProtocol,
        max_packet_size0=raw.bMaxPacketSize0,
        vendor=raw.idVendor,
        product=raw.idProduct,
        bcd_device=raw.bcdDevice,
        i_manufacturer=raw.iManufacturer,
        i_product=raw.iProduct,
        i_serial=raw.iSerialNumber,
        num_configurations=raw.bNumConfigurations,
    )


def _configuration(found: Any) -> Configuration:
    settings = [_setting(setting) for interface in found for setting in interface]
    return Configuration(
        value=found.getConfigurationValue(),
        attributes=found.getAttributes(),
        max_power=found.getMaxPower(),
        i_configuration=found.getDescriptor(),
        interfaces=tuple(settings),
    )


def _setting(found: Any) -> Interface:
    return Interface(
        number=found.getNumber(),
        alternate=found.getAlternateSetting(),
        class_=found.getClass(),
        subclass=found.getSubClass(),
        protocol=found.getProtocol(),
        i_interface=found.getDescriptor(),
        # addresses that no endpoint can have are passed over, as the kernel does: libusb's descriptors are the raw ones
        endpoints=tuple(_endpoint(each) for each in found if 0 < each.getAddress() & ~DIR_IN <= ENDPOINT_NUMBER_MASK),
    )


def _endpoint(found: Any) -> Endpoint:
    companion = None
    for extra in found.getExtra():
        if len(extra) >= COMPANION_STRUCT.size and extra[1] == DescriptorType.SUPERSPEED_ENDPOINT_COMPANION:
            _, _, burst, attributes, interval_bytes = COMPANION_STRUCT.unpack_from(bytes(extra))
            companion = SuperSpeedCompanion(burst, attributes, interval_bytes)
    return Endpoint(
        address=found.getAddress(),
        attributes=found.getAttributes(),
        max_packet_size=found.getMaxPacketSize(),
        interval=found.getInterval(),
        companion=companion,
    )
