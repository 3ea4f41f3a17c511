"""What the guest is told of a device: interfaces and endpoints of the active configuration and alternate settings."""

from usbbridge.usb.ch9 import DIR_IN, ClassCode, Speed, TransferType
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface
from usbbridge.usbredir.packets import EndpointEntry, EpInfo, InterfaceEntry, InterfaceInfo
from usbbridge.usbredir.proto import ENDPOINT_SLOTS, EndpointType, endpoint_index

_TYPES = {
    TransferType.CONTROL: EndpointType.CONTROL,
    TransferType.ISO: EndpointType.ISO,
    TransferType.BULK: EndpointType.BULK,
    TransferType.INTERRUPT: EndpointType.INTERRUPT,
}
_ABSENT = EndpointEntry(EndpointType.INVALID, 0, 0, 0, 0)
_DEFAULT_PIPE = EndpointEntry(EndpointType.CONTROL, 0, 0, 0, 0)

BULK_ONLY = 0x50
"bInterfaceProtocol of Bulk-Only Transport (USB Mass Storage Class Specification Overview, revision 1.4, §3)."

FRAME, MICROFRAME = 1e-3, 125e-6  # seconds


class Layout:
    """The active configuration with one alternate setting chosen for each interface."""

    def __init__(self, configuration: Configuration | None, speed: Speed) -> None:
        self.configuration = configuration
        self._speed = speed
        numbers = dict.fromkeys(setting.number for setting in configuration.interfaces) if configuration else {}
        self.alternates: dict[int, int] = dict.fromkeys(numbers, 0)
        self.streams: dict[int, int] = {}
        "Bulk streams that are offered, by endpoint address: not all that a device has can be had."

    @property
    def value(self) -> int:
        """bConfigurationValue, 0 while unconfigured."""
        return self.configuration.value if self.configuration else 0

    def has_setting(self, number: int, alternate: int) -> bool:
        """Whether the configuration has this alternate setting."""
        return self.configuration is not None and self.configuration.setting(number, alternate) is not None

    def settings(self) -> list[Interface]:
        """The chosen setting of each interface."""
        if self.configuration is None:
            return []
        chosen = (self.configuration.setting(number, alternate) for number, alternate in self.alternates.items())
        return [setting for setting in chosen if setting is not None]

    def endpoints(self) -> dict[int, Endpoint]:
        """By address, those of the chosen settings."""
        return {endpoint.address: endpoint for setting in self.settings() for endpoint in setting.endpoints}

    def endpoints_of(self, number: int) -> set[int]:
        """Addresses of the endpoints that an interface has in any of its settings."""
        if self.configuration is None:
            return set()
        mine = (setting for setting in self.configuration.interfaces if setting.number == number)
        return {endpoint.address for setting in mine for endpoint in setting.endpoints}

    def drives(self) -> list[tuple[int, Endpoint, Endpoint]]:
        """Interfaces that speak Bulk-Only Transport: (number, bulk IN endpoint, bulk OUT endpoint) each."""
        found = []
        for setting in self.settings():
            if (setting.class_, setting.protocol) == (ClassCode.MASS_STORAGE, BULK_ONLY):
                bulk = [e for e in setting.endpoints if e.transfer_type is TransferType.BULK]
                sources, sinks = ([e for e in bulk if e.address & DIR_IN == d] for d in (DIR_IN, 0))
                if len(sources) == len(sinks) == 1:
                    found.append((setting.number, sources[0], sinks[0]))
        return found

    def packet_size(self, endpoint: Endpoint) -> int:
        """Bytes a (micro)frame; the transaction multiplier counts for high-speed isochronous endpoints only."""
        if endpoint.transfer_type is TransferType.ISO and self._speed is Speed.HIGH:
            return endpoint.packet_bytes
        return endpoint.max_packet_size & 0x7FF

    def interval_bytes(self, endpoint: Endpoint) -> int:
        """The most bytes that a packet of the endpoint carries to or from a guest. SuperSpeed isochronous endpoints
        have several bus packets in a service interval (USB 3.2 §9.6.7), which are one for a guest."""
        if endpoint.transfer_type is TransferType.ISO and endpoint.companion is not None:
            return max(self.packet_size(endpoint), endpoint.companion.bytes_per_interval)
        return self.packet_size(endpoint)

    def service_interval(self, endpoint: Endpoint) -> float:
        """Seconds between two packets of an interrupt endpoint at the least: bInterval is an exponent of microframes
        at high speed and above, and counts frames below (USB 2.0 §9.6.6)."""
        if self._speed in (Speed.LOW, Speed.FULL):
            return max(endpoint.interval, 1) * FRAME
        return (1 << min(max(endpoint.interval, 1), 16) - 1) * MICROFRAME

    def interface_info(self) -> InterfaceInfo:
        """The packet of that name."""
        return InterfaceInfo(
            tuple(InterfaceEntry(s.number, s.class_, s.subclass, s.protocol) for s in self.settings())
        )

    def ep_info(self) -> EpInfo:
        """The packet of that name."""
        entries = [_ABSENT] * ENDPOINT_SLOTS
        entries[0] = entries[16] = _DEFAULT_PIPE
        for setting in self.settings():
            for endpoint in setting.endpoints:
                entries[endpoint_index(endpoint.address)] = self._entry(endpoint, setting.number)
        return EpInfo(tuple(entries))

    def _entry(self, endpoint: Endpoint, interface: int) -> EndpointEntry:
        kind = endpoint.transfer_type
        # An interval of 0 is a broken device's; QEMU refuses the device for it, Linux polls it all the same.
        periodic = kind in (TransferType.INTERRUPT, TransferType.ISO)
        interval = max(endpoint.interval, 1) if periodic else endpoint.interval
        streams = self.streams.get(endpoint.address, 0)
        return EndpointEntry(_TYPES[kind], interval, interface, self.packet_size(endpoint), streams)
