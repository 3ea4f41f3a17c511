"""USB descriptors: parsed from what a device sent, and packed for a device that we play ourselves.

A device's bytes are a stranger's. Parsing holds every length against what is really there, and every count against a
limit; what can't be true raises `DescriptorError`, and what is merely unknown (class descriptors, interface
associations) is passed over.

`struct` is used rather than construct because an encoder imports this module each time it starts and construct alone
costs 50 ms; `usbbridge.usb.layouts` declares the same layouts with construct, and the tests hold the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from usbbridge.errors import DeviceError
from usbbridge.usb.ch9 import DIR_IN, ENDPOINT_ADDRESS_MASK, ENDPOINT_NUMBER_MASK, DescriptorType, TransferType

DEVICE_STRUCT: Final = Struct("<BBHBBBBHHHBBBB")
CONFIGURATION_STRUCT: Final = Struct("<BBHBBBBB")
INTERFACE_STRUCT: Final = Struct("<BBBBBBBBB")
ENDPOINT_STRUCT: Final = Struct("<BBBBHB")
COMPANION_STRUCT: Final = Struct("<BBBBH")

MAX_INTERFACES: Final = 32
"Interfaces in a configuration: Linux's USB_MAXINTERFACES, and as many as usbredir's interface_info can carry."
MAX_SETTINGS: Final = 256
"Alternate settings in a configuration, all interfaces together. Cameras and sound cards have some twenty."
MAX_ENDPOINTS: Final = 30
"Endpoints in a setting: 15 addresses in each direction beside endpoint 0 (USB 2.0 §9.6.6), none twice."
MAX_STREAMS_EXPONENT: Final = 16
"USB 3.2 §9.6.7 allows 2^16 streams; larger exponents are reserved."
MAX_STRING_UNITS: Final = 126
"UTF-16 units in a string descriptor: bLength is one byte and counts its own two header bytes (USB 2.0 §9.6.7)."


class DescriptorError(DeviceError):
    """A descriptor contradicts itself, or what was read is not all there."""


@dataclass(frozen=True, slots=True)
class SuperSpeedCompanion:
    """SuperSpeed Endpoint Companion descriptor (USB 3.2 §9.6.7); it follows the endpoint it belongs to."""

    max_burst: int
    "Packets in a burst, less one: 0..15."
    attributes: int
    bytes_per_interval: int
    "Bytes reserved each service interval, for interrupt and isochronous endpoints."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Endpoint descriptor (USB 2.0 §9.6.6)."""

    address: int
    "Number in bits 3..0, direction in bit 7; reserved bits are cleared."
    attributes: int
    max_packet_size: int
    "wMaxPacketSize as sent: bits 10..0 bytes, bits 12..11 additional transactions a microframe."
    interval: int
    companion: SuperSpeedCompanion | None = None

    @property
    def number(self) -> int:
        return self.address & ENDPOINT_NUMBER_MASK

    @property
    def is_in(self) -> bool:
        return bool(self.address & DIR_IN)

    @property
    def transfer_type(self) -> TransferType:
        return TransferType(self.attributes & 0x03)

    @property
    def packet_bytes(self) -> int:
        """Bytes in one (micro)frame at most: packet size times transactions (USB 2.0 §9.6.6), bursts not counted."""
        return (self.max_packet_size & 0x7FF) * (1 + (self.max_packet_size >> 11 & 3))

    @property
    def max_streams(self) -> int:
        """Bulk streams the endpoint offers, 0 if none (USB 3.2 §9.6.7)."""
        if self.companion is None or self.transfer_type is not TransferType.BULK:
            return 0
        exponent = min(self.companion.attributes & 0x1F, MAX_STREAMS_EXPONENT)
        return 1 << exponent if exponent else 0


@dataclass(frozen=True, slots=True)
class Interface:
    """One alternate setting of an interface (USB 2.0 §9.6.5) with its endpoints, endpoint 0 not among them."""

    number: int
    alternate: int
    class_: int
    subclass: int
    protocol: int
    i_interface: int = 0
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration (USB 2.0 §9.6.3) and all alternate settings of its interfaces, in the device's order."""

    value: int
    "bConfigurationValue: what SET_CONFIGURATION takes."
    attributes: int
    max_power: int
    "bMaxPower as sent: units of 2 mA, at SuperSpeed 8 mA."
    i_configuration: int
    interfaces: tuple[Interface, ...]

    def setting(self, number: int, alternate: int) -> Interface | None:
        """The given alternate setting of interface `number`, or None when there is no such setting."""
        for interface in self.interfaces:
            if interface.number == number and interface.alternate == alternate:
                return interface
        return None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Interface numbers, each once, in the device's order."""
        return tuple(dict.fromkeys(interface.number for interface in self.interfaces))


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """Device descriptor (USB 2.0 §9.6.1)."""

    bcd_usb: int
    class_: int
    subclass: int
    protocol: int
    max_packet_size0: int
    "As sent: bytes, or at SuperSpeed the exponent of 2 (USB 3.2 §9.6.1)."
    vendor: int
    product: int
    bcd_device: int
    i_manufacturer: int = 0
    i_product: int = 0
    i_serial: int = 0
    num_configurations: int = 1


def parse_device(data: bytes) -> DeviceDescriptor:
    """The device descriptor at the start of `data`. Raises `DescriptorError` if there is none."""
    fields = _unpack(DEVICE_STRUCT, data, 0, len(data), DescriptorType.DEVICE)
    return DeviceDescriptor(*fields)


def parse_configuration(data: bytes) -> Configuration:
    """The configuration at the start of `data`, which holds wTotalLength bytes or more. Raises `DescriptorError`."""
    total, _, value, i_configuration, attributes, max_power = _unpack(
        CONFIGURATION_STRUCT, data, 0, len(data), DescriptorType.CONFIGURATION
    )
    if total > len(data):
        raise DescriptorError(f"the configuration claims {total} bytes, but only {len(data)} were read")
    if total < data[0]:
        raise DescriptorError(f"the configuration claims {total} bytes, less than its own header")
    return Configuration(value, attributes, max_power, i_configuration, _parse_settings(data, data[0], total))


def parse_all(data: bytes) -> tuple[DeviceDescriptor, tuple[Configuration, ...]]:
    """A device descriptor and the configurations after it: what Linux's sysfs `descriptors` and a usbfs node hold.

    Raises `DescriptorError`. There may be fewer configurations than announced: Linux leaves out what it could not read.
    """
    device = parse_device(data)
    configurations: list[Configuration] = []
    rest = data[data[0] :]
    while rest and len(configurations) < device.num_configurations:
        configurations.append(parse_configuration(rest))
        rest = rest[int.from_bytes(rest[2:4], "little") :]
    return device, tuple(configurations)


def _unpack(layout: Struct, data: bytes, start: int, end: int, kind: DescriptorType) -> tuple[int, ...]:
    """Fields after bLength and bDescriptorType. A descriptor may be longer than its `layout` here, never shorter."""
    name = kind.name.lower().replace("_", " ")
    if end - start < layout.size or data[start] < layout.size:
        raise DescriptorError(f"the {name} descriptor at byte {start} is shorter than {layout.size} bytes")
    if data[start] > end - start:
        raise DescriptorError(f"the {name} descriptor at byte {start} overruns the {end - start} bytes that are there")
    fields: tuple[int, ...] = layout.unpack_from(data, start)
    if fields[1] != kind:
        raise DescriptorError(f"a {name} descriptor was expected at byte {start}, its type says {fields[1]}")
    return fields[2:]


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each descriptor in data[start:end]."""
    while start < end:
        length = data[start]
        if length < 2 or start + length > end:
            raise DescriptorError(f"the descriptor at byte {start} claims {length} bytes, {end - start} are there")
        yield data[start + 1], start, start + length
        start += length


def _parse_settings(data: bytes, start: int, end: int) -> tuple[Interface, ...]:
    settings: list[Interface] = []
    endpoints: list[Endpoint] = []
    for kind, here, after in _walk(data, start, end):
        if kind == DescriptorType.INTERFACE:
            _close_setting(settings, endpoints)
            settings.append(_parse_interface(data, here, after))
        elif kind == DescriptorType.ENDPOINT:
            if not settings:
                raise DescriptorError(f"the endpoint descriptor at byte {here} belongs to no interface")
            endpoints.append(_parse_endpoint(data, here, after))
        elif kind == DescriptorType.SUPERSPEED_ENDPOINT_COMPANION and endpoints:
            companion = SuperSpeedCompanion(*_unpack(COMPANION_STRUCT, data, here, after, DescriptorType(kind)))
            endpoints[-1] = replace(endpoints[-1], companion=companion)
    _close_setting(settings, endpoints)
    _check_settings(settings)
    return tuple(settings)


def _parse_interface(data: bytes, start: int, end: int) -> Interface:
    number, alternate, _, class_, subclass, protocol, i_interface = _unpack(
        INTERFACE_STRUCT, data, start, end, DescriptorType.INTERFACE
    )
    return Interface(number, alternate, class_, subclass, protocol, i_interface)


def _parse_endpoint(data: bytes, start: int, end: int) -> Endpoint:
    address, attributes, max_packet_size, interval = _unpack(ENDPOINT_STRUCT, data, start, end, DescriptorType.ENDPOINT)
    endpoint = Endpoint(address & ENDPOINT_ADDRESS_MASK, attributes, max_packet_size, interval)
    if endpoint.number == 0:
        raise DescriptorError(f"the descriptor at byte {start} describes endpoint 0, which has none")
    return endpoint


def _close_setting(settings: list[Interface], endpoints: list[Endpoint]) -> None:
    """Give the last setting its endpoints; bNumEndpoints is not believed, as Linux doesn't."""
    if not settings:
        return
    addresses = [endpoint.address for endpoint in endpoints]
    if len(set(addresses)) != len(addresses):
        last = settings[-1]
        raise DescriptorError(f"interface {last.number} setting {last.alternate} has an endpoint twice")
    settings[-1] = replace(settings[-1], endpoints=tuple(endpoints))
    endpoints.clear()


def _check_settings(settings: list[Interface]) -> None:
    names = {(setting.number, setting.alternate) for setting in settings}
    if len(names) != len(settings):
        raise DescriptorError("an alternate setting is described twice")
    if len(names) > MAX_SETTINGS:
        raise DescriptorError(f"the configuration has {len(names)} alternate settings, more than {MAX_SETTINGS}")
    interfaces = len({number for number, _ in names})
    if interfaces > MAX_INTERFACES:
        raise DescriptorError(f"the configuration has {interfaces} interfaces, more than {MAX_INTERFACES}")


def device_bytes(device: DeviceDescriptor) -> bytes:
    """The device descriptor on the wire, 18 bytes."""
    return DEVICE_STRUCT.pack(
        DEVICE_STRUCT.size,
        DescriptorType.DEVICE,
        device.bcd_usb,
        device.class_,
        device.subclass,
        device.protocol,
        device.max_packet_size0,
        device.vendor,
        device.product,
        device.bcd_device,
        device.i_manufacturer,
        device.i_product,
        device.i_serial,
        device.num_configurations,
    )


def configuration_bytes(configuration: Configuration) -> bytes:
    """The configuration on the wire with all its interfaces and endpoints, wTotalLength bytes."""
    body = b"".join(_interface_bytes(interface) for interface in configuration.interfaces)
    header = CONFIGURATION_STRUCT.pack(
        CONFIGURATION_STRUCT.size,
        DescriptorType.CONFIGURATION,
        CONFIGURATION_STRUCT.size + len(body),
        len(configuration.numbers),
        configuration.value,
        configuration.i_configuration,
        configuration.attributes,
        configuration.max_power,
    )
    return header + body


def _interface_bytes(interface: Interface) -> bytes:
    header = INTERFACE_STRUCT.pack(
        INTERFACE_STRUCT.size,
        DescriptorType.INTERFACE,
        interface.number,
        interface.alternate,
        len(interface.endpoints),
        interface.class_,
        interface.subclass,
        interface.protocol,
        interface.i_interface,
    )
    return header + b"".join(_endpoint_bytes(endpoint) for endpoint in interface.endpoints)


def _endpoint_bytes(endpoint: Endpoint) -> bytes:
    packed = ENDPOINT_STRUCT.pack(
        ENDPOINT_STRUCT.size,
        DescriptorType.ENDPOINT,
        endpoint.address,
        endpoint.attributes,
        endpoint.max_packet_size,
        endpoint.interval,
    )
    companion = endpoint.companion
    if companion is None:
        return packed
    return packed + COMPANION_STRUCT.pack(
        COMPANION_STRUCT.size,
        DescriptorType.SUPERSPEED_ENDPOINT_COMPANION,
        companion.max_burst,
        companion.attributes,
        companion.bytes_per_interval,
    )


def string_descriptor(text: str) -> bytes:
    """A string descriptor (USB 2.0 §9.6.7) of `text`, cut after `MAX_STRING_UNITS` UTF-16 units."""
    encoded = text.encode("utf-16-le", "replace")[: 2 * MAX_STRING_UNITS]
    whole = encoded.decode("utf-16-le", "ignore").encode("utf-16-le")
    return bytes((2 + len(whole), DescriptorType.STRING)) + whole


def language_descriptor(*languages: int) -> bytes:
    """String descriptor zero: the LANGIDs in which the device has strings (USB 2.0 table 9-15)."""
    body = b"".join(language.to_bytes(2, "little") for language in languages)
    return bytes((2 + len(body), DescriptorType.STRING)) + body


def parse_string(data: bytes) -> str:
    """The text of a string descriptor, bad UTF-16 replaced; it is the device's word and may hold anything."""
    if len(data) < 2 or data[1] != DescriptorType.STRING or data[0] < 2:
        raise DescriptorError("the device sent no string descriptor where one was asked for")
    return data[2 : data[0] & ~1].decode("utf-16-le", "replace")
