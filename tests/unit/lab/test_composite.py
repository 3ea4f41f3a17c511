"""A composite of the factory's devices: each part works behind its new numbers."""

import struct

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import acm, composite, ethernet, keyboard
from tools.lab.devices.describe import association, configuration, cs_interface, endpoint, interface
from tools.lab.devices.renumbering import MAX_NUMBER, Numbers, descriptors, renumber
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.scsi_disk import BLOCK_SIZE
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import ClassCode, DescriptorType, Feature, Request, Speed, TransferType

ACM_CONTROL, ACM_DATA, KEYBOARD, NET_CONTROL, NET_DATA, DISK = range(6)
ACM_IN, ACM_OUT, ACM_NOTIFY, KEYBOARD_IN, NET_IN, NET_OUT, NET_NOTIFY, DISK_IN, DISK_OUT = (
    *(0x82, 0x01, 0x81, 0x83, 0x85, 0x02, 0x84, 0x86, 0x03),
)


@pytest.fixture
def host():
    made = Host(composite.create(Speed.HIGH, {"parts": "acm+keyboard+ethernet+disk"}))
    yield made
    made.device.close()


def raw(host: Host) -> list[bytes]:
    return [*descriptors(host.device.function.model.configurations[0])]


def test_every_part_has_interfaces_and_endpoints_of_its_own(host):
    settings = host.device.configuration().interfaces
    assert [(s.number, s.alternate, s.class_) for s in settings] == [
        (ACM_CONTROL, 0, 2),
        (ACM_DATA, 0, 10),
        (KEYBOARD, 0, 3),
        (NET_CONTROL, 0, 2),
        (NET_DATA, 0, 10),
        (NET_DATA, 1, 10),
        (DISK, 0, 8),
    ]
    ends = [[end.address for end in setting.endpoints] for setting in settings]
    assert ends == [
        *([ACM_NOTIFY], [ACM_IN, ACM_OUT], [KEYBOARD_IN], [NET_NOTIFY], [], [NET_IN, NET_OUT], [DISK_IN, DISK_OUT])
    ]


def test_functions_of_several_interfaces_are_associated_once(host):
    found = [tuple(each[2:4]) for each in raw(host) if each[1] == DescriptorType.INTERFACE_ASSOCIATION]
    assert found == [(ACM_CONTROL, 2), (NET_CONTROL, 2)]


def test_class_specific_descriptors_name_the_right_interfaces_and_strings(host):
    found = [each for each in raw(host) if each[1] == DescriptorType.CS_INTERFACE]
    unions = [tuple(each[3:]) for each in found if each[2] == 0x06]
    assert unions == [(ACM_CONTROL, ACM_DATA), (NET_CONTROL, NET_DATA)]
    [management] = [each for each in found if each[2] == 0x01 and len(each) == 5]
    assert management[4] == ACM_DATA
    [network] = [each for each in found if each[2] == 0x0F]
    name = host.control(0x80, Request.GET_DESCRIPTOR, DescriptorType.STRING << 8 | network[3], 0x0409, 255).data
    assert name[2:].decode("utf-16-le") == ethernet.MAC.hex().upper()


def test_the_serial_port_works(host):
    coding = acm.LINE_CODING.pack(115200, 0, 0, 8)
    assert host.control(0x21, acm.SET_LINE_CODING, 0, ACM_CONTROL, coding).status is Status.COMPLETED
    assert host.control(0xA1, acm.GET_LINE_CODING, 0, ACM_CONTROL, 7).data == coding
    assert host.control(0xA1, acm.GET_LINE_CODING, 0, ACM_DATA, 7).status is Status.STALL
    assert host.control(0xA1, acm.GET_LINE_CODING, 0, KEYBOARD, 7).status is Status.STALL
    waiting = host.submit(ACM_IN, 64)
    host.write(ACM_OUT, b"data")
    assert waiting.done.data == b"data"


def test_the_keyboard_works_and_is_woken(host):
    waiting = host.submit(KEYBOARD_IN, 8)
    host.control(0x21, keyboard.SET_REPORT, 0x0200, KEYBOARD, bytes((keyboard.CAPS_LOCK,)))
    assert waiting.done.data[2]
    described = host.control(0x81, Request.GET_DESCRIPTOR, keyboard.REPORT << 8, KEYBOARD, 255).data
    assert described == keyboard.REPORT_DESCRIPTOR


def test_the_network_adapter_works_once_its_setting_is_chosen(host):
    assert host.read(NET_NOTIFY, 16) is None
    host.device.set_interface(NET_DATA, 1)
    assert host.read(NET_NOTIFY, 16)[1] == ethernet.NETWORK_CONNECTION
    assert host.write(NET_OUT, b"frame") is Status.COMPLETED


def test_the_disk_holds_its_content_until_it_is_written(host):
    def command(code: int, lba: int, *, to_host: bool) -> None:
        block = struct.pack(">BBIBHB", code, 0, lba, 0, 1, 0)
        cbw = struct.pack("<4sIIBBB16s", b"USBC", 1, BLOCK_SIZE, 0x80 * to_host, 0, len(block), block)
        assert host.write(DISK_OUT, cbw) is Status.COMPLETED

    command(0x28, 5, to_host=True)
    assert host.read(DISK_IN, BLOCK_SIZE) == composite.disk_content()[5 * BLOCK_SIZE : 6 * BLOCK_SIZE]
    assert host.read(DISK_IN, 13)[12] == 0
    command(0x2A, 5, to_host=False)
    assert host.write(DISK_OUT, bytes(BLOCK_SIZE)) is Status.COMPLETED
    assert host.read(DISK_IN, 13)[12] == 0
    get_max_lun = 0xFE  # which a disk by itself takes on interface 0
    assert host.control(0xA1, get_max_lun, 0, DISK, 1).data == b"\0"


def test_a_halt_of_one_part_leaves_the_others_alone(host):
    feature = (Request.SET_FEATURE, Feature.ENDPOINT_HALT)
    assert host.control(0x02, *feature, ACM_IN).status is Status.COMPLETED
    host.write(ACM_OUT, b"x")
    assert host.submit(ACM_IN, 64).done.status is Status.STALL
    host.control(0x21, keyboard.SET_REPORT, 0x0200, KEYBOARD, bytes((keyboard.CAPS_LOCK,)))
    assert host.read(KEYBOARD_IN, 8)[2]


def test_a_request_to_the_device_goes_to_the_part_that_knows_it():
    host = Host(composite.create(Speed.FULL, {"parts": "acm+ftdi"}))
    assert host.control(0xC0, 0x0A, data=1).data == b"\x10"
    assert host.control(0xC0, 0x77, data=1).status is Status.STALL


def test_a_reset_reaches_every_part(host):
    host.write(ACM_OUT, b"x")
    host.control(0x21, keyboard.SET_REPORT, 0x0200, KEYBOARD, bytes((keyboard.CAPS_LOCK,)))
    host.device.reset()
    assert (host.read(ACM_IN, 64), host.read(KEYBOARD_IN, 8)) == (None, None)


def test_a_printer_is_asked_for_its_name_by_a_request_with_the_interface_elsewhere():
    host = Host(composite.create(Speed.HIGH, {}))
    [number] = [s.number for s in host.device.configuration().interfaces if s.class_ == 7 and not s.alternate]
    assert b"usbbridge" in host.control(0xA1, 0, 0, number << 8, 255).data
    assert host.control(0xA1, 0, 0, number, 255).status is Status.STALL


# ---- numbers in descriptors


def part(*interfaces: bytes) -> bytes:
    return configuration(*interfaces)


def test_interfaces_that_belong_together_are_associated_if_they_are_not_yet():
    two = part(interface(0, 2, 6, 1), interface(1, 10))
    numbers = Numbers(first_interface=3, interfaces=2)
    assert renumber(two, numbers)[:8] == association(3, 2, 2, 6, 1)
    own = part(association(0, 2, 2), interface(0, 2), interface(1, 10))
    assert renumber(own, numbers).count(association(3, 2, 2)) == 1


def test_a_headset_and_a_camera_name_their_interfaces_in_their_headers():
    numbers = Numbers(first_interface=4, interfaces=2, endpoints={0x81: 0x87})
    audio = part(
        interface(0, ClassCode.AUDIO, 1, extra=cs_interface(1, struct.pack("<HHBB", 0x0100, 9, 1, 1))),
        interface(1, ClassCode.AUDIO, 2),
    )
    assert cs_interface(1, struct.pack("<HHBB", 0x0100, 9, 1, 5)) in renumber(audio, numbers)
    video_header = struct.pack("<HHIB", 0x0110, 13, 48_000_000, 1)
    video = part(
        interface(0, ClassCode.VIDEO, 1, extra=cs_interface(1, video_header + b"\1")),
        interface(
            1,
            ClassCode.VIDEO,
            2,
            extra=cs_interface(1, struct.pack("<BHB", 1, 14, 0x81)),
            endpoints=[endpoint(0x81, TransferType.BULK, 512)],
        ),
    )
    found = renumber(video, numbers)
    assert cs_interface(1, video_header + b"\5") in found
    assert cs_interface(1, struct.pack("<BHB", 1, 14, 0x87)) in found


def test_endpoints_run_out():
    ends = [endpoint(0x81 + i, TransferType.BULK, 512) for i in range(8)]
    one = part(interface(0, 255, endpoints=ends))
    numbers = Numbers().after(one, 3)
    assert numbers.last_in == 8
    with pytest.raises(UsageError, match=str(MAX_NUMBER)):
        numbers.after(one, 3)


@pytest.mark.parametrize("options", [{"parts": "nothing"}, {"parts": ""}, {"parts": "acm+describe"}, {"colour": "red"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        composite.create(Speed.HIGH, options)
