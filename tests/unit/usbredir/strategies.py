"""Hypothesis strategies: packets that may be sent in a direction under given capabilities, as they will be received."""

from hypothesis import strategies as st

from usbbridge.usbredir import packets as p
from usbbridge.usbredir.filter import FilterRule, format
from usbbridge.usbredir.proto import (
    ALL_CAPS,
    DIRECTIONS,
    REQUIRED_CAP,
    Cap,
    DeviceSpeed,
    Direction,
    EndpointType,
    PacketType,
    Status,
    consistent,
)

T = PacketType
u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
in_endpoint = st.integers(0x80, 0xFF)
out_endpoint = st.integers(0, 0x7F)
status = st.sampled_from(Status).map(int)
payload = st.one_of(st.binary(max_size=64), st.integers(0, 40_000).map(lambda n: bytes(range(256)) * (n // 256)))
caps = st.integers(0, 0xFF).map(lambda bits: consistent(Cap(bits)))

rules = st.lists(
    st.builds(
        FilterRule, st.integers(-1, 0xFF), st.integers(-1, 0xFFFF), st.integers(-1, 0xFFFF), u16, st.booleans()
    ),
    min_size=1,
    max_size=5,
)


def ids(agreed: Cap) -> st.SearchStrategy[int]:
    """Ids that fit."""
    return st.integers(0, 2**64 - 1 if Cap.IDS_64BIT in agreed else 2**32 - 1)


def packets(direction: Direction, agreed: Cap = ALL_CAPS) -> st.SearchStrategy[p.Packet]:
    """Packets of every type that may go that way while a device is connected, and that leave it connected."""
    choices = [_strategy(packet, direction, agreed) for packet in _ordinary(direction, agreed)]
    return st.one_of(choices)


def _ordinary(direction: Direction, agreed: Cap) -> list[PacketType]:
    special = {T.HELLO, T.DEVICE_CONNECT, T.DEVICE_DISCONNECT, T.DEVICE_DISCONNECT_ACK}
    return [
        packet
        for packet, ways in DIRECTIONS.items()
        if packet not in special and direction in ways and REQUIRED_CAP.get(packet, Cap(0)) in agreed
    ]


def device_connects(agreed: Cap) -> st.SearchStrategy[p.DeviceConnect]:
    version = u16 if Cap.CONNECT_DEVICE_VERSION in agreed else st.just(0)
    return st.builds(p.DeviceConnect, st.sampled_from(DeviceSpeed).map(int), u8, u8, u8, u16, u16, version)


def _strategy(packet: PacketType, direction: Direction, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    data = {
        T.CONTROL_PACKET: _control,
        T.BULK_PACKET: _bulk,
        T.ISO_PACKET: _iso,
        T.INTERRUPT_PACKET: _interrupt,
        T.BUFFERED_BULK_PACKET: _buffered_bulk,
    }
    if packet in data:
        return data[packet](direction is Direction.TO_GUEST, agreed)
    if packet is T.EP_INFO:
        return _ep_info(agreed)
    return _FIXED[packet]


_interface = st.builds(p.InterfaceEntry, u8, u8, u8, u8)
_FIXED: dict[PacketType, st.SearchStrategy[p.Packet]] = {
    T.RESET: st.just(p.Reset()),
    T.INTERFACE_INFO: st.builds(p.InterfaceInfo, st.lists(_interface, max_size=32).map(tuple)),
    T.SET_CONFIGURATION: st.builds(p.SetConfiguration, u8),
    T.GET_CONFIGURATION: st.just(p.GetConfiguration()),
    T.CONFIGURATION_STATUS: st.builds(p.ConfigurationStatus, status, u8),
    T.SET_ALT_SETTING: st.builds(p.SetAltSetting, u8, u8),
    T.GET_ALT_SETTING: st.builds(p.GetAltSetting, u8),
    T.ALT_SETTING_STATUS: st.builds(p.AltSettingStatus, status, u8, u8),
    T.START_ISO_STREAM: st.builds(p.StartIsoStream, u8, u8, u8),
    T.STOP_ISO_STREAM: st.builds(p.StopIsoStream, u8),
    T.ISO_STREAM_STATUS: st.builds(p.IsoStreamStatus, status, u8),
    T.START_INTERRUPT_RECEIVING: st.builds(p.StartInterruptReceiving, in_endpoint),
    T.STOP_INTERRUPT_RECEIVING: st.builds(p.StopInterruptReceiving, in_endpoint),
    T.INTERRUPT_RECEIVING_STATUS: st.builds(p.InterruptReceivingStatus, status, in_endpoint),
    T.ALLOC_BULK_STREAMS: st.builds(p.AllocBulkStreams, u32, u32),
    T.FREE_BULK_STREAMS: st.builds(p.FreeBulkStreams, u32),
    T.BULK_STREAMS_STATUS: st.builds(p.BulkStreamsStatus, u32, u32, status),
    T.CANCEL_DATA_PACKET: st.just(p.CancelDataPacket()),
    T.FILTER_REJECT: st.just(p.FilterReject()),
    T.FILTER_FILTER: rules.map(lambda some: p.FilterFilter(format(some))),
    T.START_BULK_RECEIVING: st.builds(p.StartBulkReceiving, u32, st.integers(0, 128 << 20), in_endpoint, u8),
    T.STOP_BULK_RECEIVING: st.builds(p.StopBulkReceiving, u32, in_endpoint),
    T.BULK_RECEIVING_STATUS: st.builds(p.BulkReceivingStatus, u32, in_endpoint, status),
}


def _ep_info(agreed: Cap) -> st.SearchStrategy[p.Packet]:
    sizes = u16 if Cap.EP_INFO_MAX_PACKET_SIZE in agreed else st.just(0)
    streams = u32 if Cap.BULK_STREAMS in agreed else st.just(0)
    entry = st.builds(p.EndpointEntry, st.sampled_from(EndpointType).map(int), u8, u8, sizes, streams)
    # 32 different entries are expensive to draw: a few, repeated.
    return st.lists(entry, min_size=4, max_size=4).map(lambda some: p.EpInfo(tuple(some) * 8))


def _control(to_guest: bool, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    carrying, other = _ways(to_guest)
    return st.one_of(
        st.builds(
            lambda endpoint, a, b, s, v, i, data: p.ControlPacket(endpoint, a, b, s, v, i, len(data), data),
            *(carrying, u8, u8, status, u16, u16, payload),
        ),
        st.builds(p.ControlPacket, other, u8, u8, status, u16, u16, u16),
    )


def _bulk(to_guest: bool, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    carrying, other = _ways(to_guest)
    length = st.integers(0, 128 << 20 if Cap.BULK_LENGTH_32BIT in agreed else 0xFFFF)
    return st.one_of(
        st.builds(
            lambda endpoint, s, stream, data: p.BulkPacket(endpoint, s, len(data), stream, data),
            *(carrying, status, u32, payload),
        ),
        st.builds(p.BulkPacket, other, status, length, u32),
    )


def _iso(to_guest: bool, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    carrying, _ = _ways(to_guest)
    return st.builds(lambda endpoint, s, data: p.IsoPacket(endpoint, s, len(data), data), carrying, status, payload)


def _interrupt(to_guest: bool, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    carrying, other = _ways(to_guest)
    data = st.builds(
        lambda endpoint, s, data: p.InterruptPacket(endpoint, s, len(data), data), carrying, status, payload
    )
    return st.one_of(data, st.builds(p.InterruptPacket, other, status, u16)) if to_guest else data


def _buffered_bulk(to_guest: bool, agreed: Cap) -> st.SearchStrategy[p.Packet]:
    return st.builds(
        lambda stream, endpoint, s, data: p.BufferedBulkPacket(stream, len(data), endpoint, s, data),
        *(u32, in_endpoint, status, payload),
    )


def _ways(to_guest: bool) -> tuple[st.SearchStrategy[int], st.SearchStrategy[int]]:
    """Endpoints whose packets carry payload in this direction, and the others."""
    return (in_endpoint, out_endpoint) if to_guest else (out_endpoint, in_endpoint)
