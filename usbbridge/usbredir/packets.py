"""One class a packet type. The id is not part of a packet: it travels beside it.

Fields carry the protocol's names (usbredirproto.h) in the order of the wire, so that a fixed layout unpacks straight
into its class. They are plain ints: a peer's status, speed or endpoint type may be a number that no enum of ours knows.
"""

from dataclasses import dataclass
from typing import ClassVar

from usbbridge.usbredir.proto import ENDPOINT_SLOTS, Cap, EndpointType, PacketType


@dataclass(frozen=True, slots=True)
class Hello:
    """First packet each way. Received: `version` is made printable, `caps` holds only bits we know and can rely on."""

    type: ClassVar[PacketType] = PacketType.HELLO
    version: str
    caps: Cap


@dataclass(frozen=True, slots=True)
class DeviceConnect:
    """A device is there. `speed` is a `proto.DeviceSpeed`."""

    type: ClassVar[PacketType] = PacketType.DEVICE_CONNECT
    speed: int
    class_: int
    subclass: int
    protocol: int
    vendor: int
    product: int
    version: int = 0
    "bcdDevice; 0 unless the peers have CONNECT_DEVICE_VERSION."


@dataclass(frozen=True, slots=True)
class DeviceDisconnect:
    """The device is gone; also the only way to say that a reset failed."""

    type: ClassVar[PacketType] = PacketType.DEVICE_DISCONNECT


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the device. Has no answer."""

    type: ClassVar[PacketType] = PacketType.RESET


@dataclass(frozen=True, slots=True)
class InterfaceEntry:
    """One interface in its current alternate setting."""

    interface: int
    class_: int
    subclass: int
    protocol: int


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    """The interfaces of the active configuration, at most 32; none while the device is unconfigured."""

    type: ClassVar[PacketType] = PacketType.INTERFACE_INFO
    interfaces: tuple[InterfaceEntry, ...]


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One endpoint of ep_info. `max_packet_size` is in bytes a (micro)frame, already multiplied out."""

    type: int = EndpointType.INVALID
    interval: int = 0
    interface: int = 0
    max_packet_size: int = 0
    "0 unless the peers have EP_INFO_MAX_PACKET_SIZE."
    max_streams: int = 0
    "0 unless the peers have BULK_STREAMS."


@dataclass(frozen=True, slots=True)
class EpInfo:
    """All 32 endpoints; see `proto.endpoint_index` for which is where."""

    type: ClassVar[PacketType] = PacketType.EP_INFO
    endpoints: tuple[EndpointEntry, ...] = (EndpointEntry(),) * ENDPOINT_SLOTS


@dataclass(frozen=True, slots=True)
class SetConfiguration:
    """Make a configuration the active one; 0 unconfigures."""

    type: ClassVar[PacketType] = PacketType.SET_CONFIGURATION
    configuration: int


@dataclass(frozen=True, slots=True)
class GetConfiguration:
    """Ask for the active configuration."""

    type: ClassVar[PacketType] = PacketType.GET_CONFIGURATION


@dataclass(frozen=True, slots=True)
class ConfigurationStatus:
    """Answer to set_ and get_configuration; `configuration` is the one now active, also after a failure."""

    type: ClassVar[PacketType] = PacketType.CONFIGURATION_STATUS
    status: int
    configuration: int


@dataclass(frozen=True, slots=True)
class SetAltSetting:
    """Select an interface's alternate setting."""

    type: ClassVar[PacketType] = PacketType.SET_ALT_SETTING
    interface: int
    alt: int


@dataclass(frozen=True, slots=True)
class GetAltSetting:
    """Ask for an interface's alternate setting."""

    type: ClassVar[PacketType] = PacketType.GET_ALT_SETTING
    interface: int


@dataclass(frozen=True, slots=True)
class AltSettingStatus:
    """Answer to set_ and get_alt_setting; `alt` is the one now in use, 255 for an unknown interface."""

    type: ClassVar[PacketType] = PacketType.ALT_SETTING_STATUS
    status: int
    interface: int
    alt: int


@dataclass(frozen=True, slots=True)
class StartIsoStream:
    """Start an isochronous stream: `no_urbs` URBs of `pkts_per_urb` packets."""

    type: ClassVar[PacketType] = PacketType.START_ISO_STREAM
    endpoint: int
    pkts_per_urb: int
    no_urbs: int


@dataclass(frozen=True, slots=True)
class StopIsoStream:
    """Stop an isochronous stream."""

    type: ClassVar[PacketType] = PacketType.STOP_ISO_STREAM
    endpoint: int


@dataclass(frozen=True, slots=True)
class IsoStreamStatus:
    """What became of an isochronous stream; `stall` means that it stopped."""

    type: ClassVar[PacketType] = PacketType.ISO_STREAM_STATUS
    status: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class StartInterruptReceiving:
    """Keep reading an interrupt IN endpoint."""

    type: ClassVar[PacketType] = PacketType.START_INTERRUPT_RECEIVING
    endpoint: int


@dataclass(frozen=True, slots=True)
class StopInterruptReceiving:
    """Stop reading an interrupt IN endpoint."""

    type: ClassVar[PacketType] = PacketType.STOP_INTERRUPT_RECEIVING
    endpoint: int


@dataclass(frozen=True, slots=True)
class InterruptReceivingStatus:
    """What became of reading an interrupt IN endpoint; `stall` means that it stopped."""

    type: ClassVar[PacketType] = PacketType.INTERRUPT_RECEIVING_STATUS
    status: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class AllocBulkStreams:
    """Allocate `no_streams` streams on each endpoint of a mask; bit n is the endpoint at ep_info's index n."""

    type: ClassVar[PacketType] = PacketType.ALLOC_BULK_STREAMS
    endpoints: int
    no_streams: int


@dataclass(frozen=True, slots=True)
class FreeBulkStreams:
    """Free the streams of each endpoint of a mask."""

    type: ClassVar[PacketType] = PacketType.FREE_BULK_STREAMS
    endpoints: int


@dataclass(frozen=True, slots=True)
class BulkStreamsStatus:
    """Answer to alloc_ and free_bulk_streams; `endpoints` is the request's mask."""

    type: ClassVar[PacketType] = PacketType.BULK_STREAMS_STATUS
    endpoints: int
    no_streams: int
    status: int


@dataclass(frozen=True, slots=True)
class CancelDataPacket:
    """Cancel the data packet that has this packet's id."""

    type: ClassVar[PacketType] = PacketType.CANCEL_DATA_PACKET


@dataclass(frozen=True, slots=True)
class FilterReject:
    """The guest's own rules refuse the device."""

    type: ClassVar[PacketType] = PacketType.FILTER_REJECT


@dataclass(frozen=True, slots=True)
class FilterFilter:
    """The sender's filter rules, as text without its NUL.

    Received text is not parsed: `filter.rules_of_peer` turns it into rules, what cannot be read into "deny everything".
    """

    type: ClassVar[PacketType] = PacketType.FILTER_FILTER
    text: str


@dataclass(frozen=True, slots=True)
class DeviceDisconnectAck:
    """The guest has seen device_disconnect: what it sends from now on is about the next device."""

    type: ClassVar[PacketType] = PacketType.DEVICE_DISCONNECT_ACK


@dataclass(frozen=True, slots=True)
class StartBulkReceiving:
    """Keep `no_transfers` transfers of `bytes_per_transfer` bytes going on a bulk IN endpoint."""

    type: ClassVar[PacketType] = PacketType.START_BULK_RECEIVING
    stream_id: int
    bytes_per_transfer: int
    endpoint: int
    no_transfers: int


@dataclass(frozen=True, slots=True)
class StopBulkReceiving:
    """Stop what start_bulk_receiving started."""

    type: ClassVar[PacketType] = PacketType.STOP_BULK_RECEIVING
    stream_id: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class BulkReceivingStatus:
    """What became of buffered reading; `stall` means that it stopped."""

    type: ClassVar[PacketType] = PacketType.BULK_RECEIVING_STATUS
    stream_id: int
    endpoint: int
    status: int


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """A control transfer, or its result. `endpoint` is 0x80 if the data stage goes to the host, else 0."""

    type: ClassVar[PacketType] = PacketType.CONTROL_PACKET
    endpoint: int
    request: int
    requesttype: int
    status: int
    value: int
    index: int
    length: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class BulkPacket:
    """A bulk transfer, or its result. `length` has 32 bits only if the peers have BULK_LENGTH_32BIT."""

    type: ClassVar[PacketType] = PacketType.BULK_PACKET
    endpoint: int
    status: int
    length: int
    stream_id: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class IsoPacket:
    """One isochronous packet; there are no replies."""

    type: ClassVar[PacketType] = PacketType.ISO_PACKET
    endpoint: int
    status: int
    length: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class InterruptPacket:
    """One interrupt packet: data of an IN endpoint, or an OUT transfer and its result."""

    type: ClassVar[PacketType] = PacketType.INTERRUPT_PACKET
    endpoint: int
    status: int
    length: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class BufferedBulkPacket:
    """One transfer's worth of what start_bulk_receiving asked for."""

    type: ClassVar[PacketType] = PacketType.BUFFERED_BULK_PACKET
    stream_id: int
    length: int
    endpoint: int
    status: int
    data: bytes = b""


DataPacket = ControlPacket | BulkPacket | IsoPacket | InterruptPacket | BufferedBulkPacket

Packet = (
    Hello
    | DeviceConnect
    | DeviceDisconnect
    | Reset
    | InterfaceInfo
    | EpInfo
    | SetConfiguration
    | GetConfiguration
    | ConfigurationStatus
    | SetAltSetting
    | GetAltSetting
    | AltSettingStatus
    | StartIsoStream
    | StopIsoStream
    | IsoStreamStatus
    | StartInterruptReceiving
    | StopInterruptReceiving
    | InterruptReceivingStatus
    | AllocBulkStreams
    | FreeBulkStreams
    | BulkStreamsStatus
    | CancelDataPacket
    | FilterReject
    | FilterFilter
    | DeviceDisconnectAck
    | StartBulkReceiving
    | StopBulkReceiving
    | BulkReceivingStatus
    | DataPacket
)

PACKET_CLASSES: dict[PacketType, type[Packet]] = {cls.type: cls for cls in Packet.__args__}
"The class of each packet type."
