"""What the guest is told of a device's interfaces and endpoints."""

from dataclasses import replace

import pytest

from usbbridge.backend.base import Status
from usbbridge.redirect.layout import Layout
from usbbridge.redirect.status import REDIR_STATUS
from usbbridge.usb.ch9 import Speed, TransferType
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface, SuperSpeedCompanion
from usbbridge.usbredir.packets import EndpointEntry
from usbbridge.usbredir.proto import EndpointType, endpoint_index
from usbbridge.usbredir.proto import Status as RedirStatus


def layout_of(*endpoints: Endpoint, speed: Speed = Speed.HIGH) -> Layout:
    return Layout(Configuration(1, 0x80, 50, 0, (Interface(3, 0, 8, 6, 0x50, 0, endpoints),)), speed)


def entry(layout: Layout, address: int) -> EndpointEntry:
    return layout.ep_info().endpoints[endpoint_index(address)]


@pytest.mark.parametrize(
    ("kind", "speed", "raw", "told"),
    [
        (TransferType.BULK, Speed.HIGH, 512, 512),
        (TransferType.BULK, Speed.SUPER, 1024, 1024),
        (TransferType.ISO, Speed.HIGH, 0x1400, 3072),  # 1024 bytes, two more transactions a microframe
        (TransferType.ISO, Speed.FULL, 1023, 1023),
        (TransferType.INTERRUPT, Speed.HIGH, 0x0C00, 1024),
    ],
)
def test_packet_sizes_count_the_multiplier_for_high_speed_isochronous_endpoints_only(
    kind: TransferType, speed: Speed, raw: int, told: int
) -> None:
    assert entry(layout_of(Endpoint(0x81, kind, raw, 1, None), speed=speed), 0x81).max_packet_size == told


def test_drives_are_the_interfaces_that_speak_bulk_only_transport() -> None:
    source, sink = (Endpoint(address, TransferType.BULK, 512, 0) for address in (0x81, 0x02))
    other = Endpoint(0x83, TransferType.INTERRUPT, 64, 4)
    assert layout_of(source, sink).drives() == layout_of(sink, other, source).drives() == [(3, source, sink)]
    assert layout_of(source).drives() == layout_of(source, sink, replace(sink, address=0x04)).drives() == []
    settings = [Interface(0, 0, 8, 6, protocol, 0, (source, sink)) for protocol in (0x62, 0, 1)]
    settings.append(Interface(0, 0, 0xFF, 6, 0x50, 0, (source, sink)))
    for setting in settings:
        assert Layout(Configuration(1, 0x80, 50, 0, (setting,)), Speed.HIGH).drives() == []


@pytest.mark.parametrize(
    ("kind", "interval"), [(TransferType.INTERRUPT, 1), (TransferType.ISO, 1), (TransferType.BULK, 0)]
)
def test_an_interval_of_0_is_told_as_1_where_qemu_would_refuse_the_device(kind: TransferType, interval: int) -> None:
    assert entry(layout_of(Endpoint(0x81, kind, 64, 0, None)), 0x81).interval == interval


def test_streams_are_told_as_they_are_offered_not_as_the_device_has_them() -> None:
    endpoint = Endpoint(0x81, TransferType.BULK, 1024, 0, SuperSpeedCompanion(15, 4, 0))
    layout = layout_of(endpoint, speed=Speed.SUPER)
    assert entry(layout, 0x81) == EndpointEntry(EndpointType.BULK, 0, 3, 1024, 0)
    layout.streams[0x81] = 8
    assert entry(layout, 0x81) == EndpointEntry(EndpointType.BULK, 0, 3, 1024, 8)


@pytest.mark.parametrize(
    ("speed", "endpoint", "size"),
    [
        (Speed.FULL, Endpoint(0x81, TransferType.ISO, 1023, 1), 1023),
        (Speed.HIGH, Endpoint(0x81, TransferType.ISO, 0x1400, 1), 3072),
        (Speed.SUPER, Endpoint(0x81, TransferType.ISO, 1024, 1, SuperSpeedCompanion(15, 2, 49152)), 49152),
        (Speed.SUPER, Endpoint(0x81, TransferType.ISO, 1024, 1, SuperSpeedCompanion(0, 0, 0)), 1024),
        (Speed.SUPER, Endpoint(0x81, TransferType.BULK, 1024, 0, SuperSpeedCompanion(15, 0, 0)), 1024),
    ],
)
def test_a_service_interval_carries_all_that_the_device_has_reserved(
    speed: Speed, endpoint: Endpoint, size: int
) -> None:
    assert layout_of(endpoint, speed=speed).interval_bytes(endpoint) == size


@pytest.mark.parametrize(
    ("speed", "interval", "seconds"),
    [
        (Speed.LOW, 10, 0.010),
        (Speed.FULL, 1, 0.001),
        (Speed.FULL, 0, 0.001),  # a broken device's, which Linux polls as often as it can
        (Speed.HIGH, 1, 125e-6),
        (Speed.HIGH, 4, 1e-3),
        (Speed.HIGH, 0, 125e-6),
        (Speed.HIGH, 255, 4.096),  # 16 is the highest that there is
        (Speed.SUPER, 3, 500e-6),
    ],
)
def test_how_often_an_interrupt_endpoint_is_asked(speed: Speed, interval: int, seconds: float) -> None:
    endpoint = Endpoint(0x81, TransferType.INTERRUPT, 8, interval)
    assert layout_of(endpoint, speed=speed).service_interval(endpoint) == pytest.approx(seconds)


def test_an_interface_without_its_chosen_setting_is_left_out() -> None:
    layout = Layout(Configuration(1, 0x80, 50, 0, (Interface(0, 1, 8, 6, 0x50, 0, ()),)), Speed.HIGH)
    assert layout.interface_info().interfaces == ()
    assert layout.alternates == {0: 0}


def test_every_end_of_a_transfer_has_a_status() -> None:
    assert [REDIR_STATUS[status] for status in Status] == [
        RedirStatus.SUCCESS,
        RedirStatus.IOERROR,
        RedirStatus.TIMEOUT,
        RedirStatus.CANCELLED,
        RedirStatus.STALL,
        RedirStatus.IOERROR,
        RedirStatus.BABBLE,
    ]
