"""What is read from descriptors of real devices, what is refused, and what an emulated device sends."""

from dataclasses import replace

import pytest

from tests.unit.usb.samples import FLASH_DRIVE, FLASH_DRIVE_DEVICE, KEYBOARD, UAS_DISK, WEBCAM, configuration
from usbbridge.errors import DeviceError
from usbbridge.usb.ch9 import LANGUAGE_ENGLISH_US, ClassCode, TransferType
from usbbridge.usb.descriptors import (
    MAX_INTERFACES,
    MAX_SETTINGS,
    Configuration,
    DescriptorError,
    DeviceDescriptor,
    Endpoint,
    Interface,
    SuperSpeedCompanion,
    configuration_bytes,
    device_bytes,
    language_descriptor,
    parse_all,
    parse_configuration,
    parse_device,
    parse_string,
    string_descriptor,
)

INTERFACE = "09 04 00 00 02 08 06 50 00"


def test_device_descriptor_of_a_flash_drive() -> None:
    assert parse_device(FLASH_DRIVE_DEVICE) == DeviceDescriptor(
        bcd_usb=0x0200,
        class_=0,
        subclass=0,
        protocol=0,
        max_packet_size0=64,
        vendor=0x0781,
        product=0x5567,
        bcd_device=0x0100,
        i_manufacturer=1,
        i_product=2,
        i_serial=3,
        num_configurations=1,
    )


def test_flash_drive_has_one_setting_with_two_bulk_endpoints() -> None:
    stick = parse_configuration(FLASH_DRIVE)
    assert (stick.value, stick.attributes, stick.max_power) == (1, 0x80, 100)
    (interface,) = stick.interfaces
    assert (interface.class_, interface.subclass, interface.protocol) == (ClassCode.MASS_STORAGE, 6, 0x50)
    assert interface.endpoints == (Endpoint(0x81, 2, 512, 0), Endpoint(0x02, 2, 512, 1))
    assert [endpoint.is_in for endpoint in interface.endpoints] == [True, False]
    assert {endpoint.transfer_type for endpoint in interface.endpoints} == {TransferType.BULK}


def test_hid_descriptors_between_interface_and_endpoint_are_passed_over() -> None:
    keyboard = parse_configuration(KEYBOARD)
    assert keyboard.numbers == (0, 1)
    assert [interface.endpoints[0].address for interface in keyboard.interfaces] == [0x81, 0x82]
    assert keyboard.interfaces[0].endpoints[0].transfer_type is TransferType.INTERRUPT


def test_companions_belong_to_their_endpoints_and_give_the_number_of_streams() -> None:
    disk = parse_configuration(UAS_DISK)
    bulk_only, uas = disk.setting(0, 0), disk.setting(0, 1)
    assert bulk_only is not None
    assert uas is not None
    assert [endpoint.max_streams for endpoint in bulk_only.endpoints] == [0, 0]
    assert [endpoint.max_streams for endpoint in uas.endpoints] == [32, 32, 32, 0]
    assert uas.endpoints[0].companion == SuperSpeedCompanion(max_burst=15, attributes=5, bytes_per_interval=0)


def test_streams_are_held_to_what_the_specification_allows() -> None:
    bulk = Endpoint(0x81, 2, 1024, 0, SuperSpeedCompanion(0, 0x1F, 0))
    assert bulk.max_streams == 65536
    assert replace(bulk, attributes=3).max_streams == 0


def test_camera_has_isochronous_settings_of_growing_size() -> None:
    camera = parse_configuration(WEBCAM)
    streaming = [interface for interface in camera.interfaces if interface.number == 1]
    assert [interface.alternate for interface in streaming] == [0, 1, 2, 3, 4, 5, 6]
    assert streaming[0].endpoints == ()
    sizes = [interface.endpoints[0].packet_bytes for interface in streaming[1:]]
    assert sizes == [128, 512, 1024, 2 * 800, 3 * 800, 3 * 1020]
    assert camera.setting(1, 7) is None


def test_sysfs_gives_the_device_and_its_configurations_in_one_file() -> None:
    two = FLASH_DRIVE_DEVICE[:17] + b"\x02"
    device, configurations = parse_all(two + FLASH_DRIVE + KEYBOARD)
    assert device.num_configurations == 2
    assert configurations == (parse_configuration(FLASH_DRIVE), parse_configuration(KEYBOARD))


def test_bytes_after_the_configuration_are_not_part_of_it() -> None:
    assert parse_configuration(FLASH_DRIVE + b"\x00\x00") == parse_configuration(FLASH_DRIVE)


def test_an_endpoint_of_an_audio_device_may_be_longer_than_the_common_seven_bytes() -> None:
    audio = configuration("09 04 01 01 01 01 02 00 00", "09 05 01 09 c0 00 01 00 00", interfaces=1)
    assert parse_configuration(audio).interfaces[0].endpoints == (Endpoint(0x01, 9, 192, 1),)


def test_reserved_bits_of_an_endpoint_address_are_cleared() -> None:
    odd = configuration(INTERFACE, "07 05 f1 02 00 02 00", interfaces=1)
    assert parse_configuration(odd).interfaces[0].endpoints[0].address == 0x81


LIES = {
    "nothing at all": b"",
    "another descriptor": FLASH_DRIVE_DEVICE,
    "a header cut short": FLASH_DRIVE[:8],
    "a header that claims to be shorter": b"\x08" + FLASH_DRIVE[1:],
    "a header that claims to be longer than all of it": b"\xff" + FLASH_DRIVE[1:],
    "more in total than was read": FLASH_DRIVE[:-1],
    "less in total than its header": FLASH_DRIVE[:2] + b"\x05\x00" + FLASH_DRIVE[4:],
    "a total that cuts a descriptor": FLASH_DRIVE[:2] + b"\x1f\x00" + FLASH_DRIVE[4:],
    "a descriptor of length 0": configuration("00 04 00", interfaces=1),
    "a descriptor of length 1": configuration("01", interfaces=1),
    "a class descriptor longer than the rest": configuration(INTERFACE, "ff 24 00", interfaces=1),
    "an interface too short": configuration("08 04 00 00 02 08 06 50", interfaces=1),
    "an endpoint too short": configuration(INTERFACE, "06 05 81 02 00 02", interfaces=1),
    "a companion too short": configuration(INTERFACE, "07 05 81 02 00 04 00", "05 30 00 00 00", interfaces=1),
    "an endpoint without an interface": configuration("07 05 81 02 00 02 00", interfaces=1),
    "endpoint 0": configuration(INTERFACE, "07 05 80 02 00 02 00", interfaces=1),
    "an endpoint twice": configuration(INTERFACE, 2 * "07 05 81 02 00 02 00", interfaces=1),
    "a setting twice": configuration(INTERFACE, INTERFACE, interfaces=1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_configuration_that_cannot_be_true_is_refused(lie: bytes) -> None:
    with pytest.raises(DescriptorError):
        parse_configuration(lie)


@pytest.mark.parametrize("wire", [b"", FLASH_DRIVE_DEVICE[:17], b"\x11" + FLASH_DRIVE_DEVICE[1:], FLASH_DRIVE])
def test_a_device_descriptor_that_cannot_be_true_is_refused(wire: bytes) -> None:
    with pytest.raises(DescriptorError):
        parse_device(wire)


def test_the_number_of_interfaces_is_limited() -> None:
    most = [f"09 04 {number:02x} 00 00 ff 00 00 00" for number in range(MAX_INTERFACES)]
    assert len(parse_configuration(configuration(*most, interfaces=32)).numbers) == MAX_INTERFACES
    with pytest.raises(DescriptorError, match="33 interfaces"):
        parse_configuration(configuration(*most, "09 04 20 00 00 ff 00 00 00", interfaces=33))


def test_the_number_of_settings_is_limited() -> None:
    most = [f"09 04 00 {alternate:02x} 00 ff 00 00 00" for alternate in range(MAX_SETTINGS)]
    assert len(parse_configuration(configuration(*most, interfaces=1)).interfaces) == MAX_SETTINGS
    with pytest.raises(DescriptorError, match="257 alternate settings"):
        parse_configuration(configuration(*most, "09 04 01 00 00 ff 00 00 00", interfaces=1))


def test_a_lie_is_the_devices_fault_and_says_where_it_is() -> None:
    with pytest.raises(DeviceError, match="byte 9 claims 0 bytes"):
        parse_configuration(configuration("00 04", interfaces=1))


SUPERSPEED = configuration(INTERFACE, "07 05 81 02 00 04 00", "06 30 0f 05 00 00", interfaces=1)


@pytest.mark.parametrize("wire", [FLASH_DRIVE, SUPERSPEED])
def test_a_configuration_is_read_back_as_it_was_sent(wire: bytes) -> None:
    parsed = parse_configuration(wire)
    assert parse_configuration(configuration_bytes(parsed)) == parsed


def test_configuration_bytes_count_interfaces_once_and_endpoints_each() -> None:
    endpoint = Endpoint(0x81, 3, 8, 10)
    settings = (Interface(0, 0, 3, 0, 0), Interface(0, 1, 3, 0, 0, 0, (endpoint,)), Interface(1, 0, 3, 0, 0))
    wire = configuration_bytes(Configuration(1, 0x80, 50, 0, settings))
    assert wire[:9] == bytes.fromhex("09 02 2b00 02 01 00 80 32")
    assert len(wire) == 0x2B


def test_device_bytes_are_those_of_the_real_device() -> None:
    assert device_bytes(parse_device(FLASH_DRIVE_DEVICE)) == FLASH_DRIVE_DEVICE


def test_string_descriptors_carry_utf_16() -> None:
    assert string_descriptor("Zoë") == bytes.fromhex("08 03 5a00 6f00 eb00")
    assert parse_string(string_descriptor("Zoë 𝄞")) == "Zoë 𝄞"
    assert language_descriptor(LANGUAGE_ENGLISH_US) == bytes.fromhex("04 03 0904")


def test_a_string_too_long_for_its_descriptor_is_cut_between_characters() -> None:
    assert parse_string(string_descriptor("a" * 200)) == "a" * 126
    assert parse_string(string_descriptor("a" * 125 + "𝄞")) == "a" * 125


@pytest.mark.parametrize("wire", [b"", b"\x02", b"\x04\x02a\x00", b"\x00\x03"])
def test_what_is_not_a_string_descriptor_is_refused(wire: bytes) -> None:
    with pytest.raises(DescriptorError):
        parse_string(wire)


def test_bad_utf_16_in_a_string_is_replaced() -> None:
    assert parse_string(b"\x06\x03\x00\xd8a\x00") == "\ufffda"
    assert parse_string(b"\x05\x03a\x00b") == "a"
