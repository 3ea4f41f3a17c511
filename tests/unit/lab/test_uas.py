"""The disk with two transports, one of which is only described."""

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import uas
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

INQUIRY = bytes.fromhex("55534243 01000000 24000000 80 00 06 120000002400").ljust(31, b"\0")


@pytest.fixture
def host(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    made = Host(uas.create(Speed.SUPER, {"image": str(image)}))
    yield made
    made.device.close()


def test_first_setting_is_bulk_only_and_the_second_uas_with_streams(host):
    bulk_only, attached = host.device.configuration().interfaces
    assert (bulk_only.alternate, bulk_only.protocol) == (0, 0x50)
    assert [end.max_streams for end in bulk_only.endpoints] == [0, 0]
    assert (attached.alternate, attached.protocol) == (1, 0x62)
    assert {end.address: end.max_streams for end in attached.endpoints} == {0x04: 0, 0x83: 32, 0x81: 32, 0x02: 32}


def test_bulk_only_answers_in_its_own_setting_alone(host):
    assert host.write(0x02, INQUIRY) is Status.COMPLETED
    data = host.read(0x81, 36)
    assert data is not None
    assert len(data) == 36
    host.device.set_interface(0, 1)
    for endpoint in (0x04, 0x02):
        assert host.write(endpoint, INQUIRY) is Status.STALL
    for endpoint in (0x83, 0x81):
        done = host.submit(endpoint, 16).done
        assert done is not None
        assert done.status is Status.STALL
    host.device.set_interface(0, 0)
    assert host.write(0x02, INQUIRY) is Status.COMPLETED


def test_reset_brings_bulk_only_back(host):
    host.device.set_interface(0, 1)
    host.device.function.restart()
    assert host.device.function.receive(0x02, memoryview(bytearray(INQUIRY))) == len(INQUIRY)


@pytest.mark.parametrize(
    ("speed", "options"), [(Speed.HIGH, {"image": "x"}), (Speed.SUPER, {}), (Speed.SUPER, {"a": ""})]
)
def test_disk_that_can_not_be_is_refused(speed, options):
    with pytest.raises(UsageError):
        uas.create(speed, options)
