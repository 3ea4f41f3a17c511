"""Whatever bytes a device sends as descriptors, they are read or refused with `DescriptorError`."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.usb.samples import FLASH_DRIVE, FLASH_DRIVE_DEVICE, KEYBOARD, UAS_DISK, WEBCAM
from usbbridge.usb.descriptors import (
    MAX_ENDPOINTS,
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
    parse_all,
    parse_configuration,
    parse_device,
    parse_string,
    string_descriptor,
)

byte = st.integers(0, 0xFF)
word = st.integers(0, 0xFFFF)
companions = st.none() | st.builds(SuperSpeedCompanion, byte, byte, word)
addresses = st.integers(1, 15) | st.integers(0x81, 0x8F)
endpoints = st.builds(Endpoint, addresses, byte, word, byte, companions)
endpoint_lists = st.lists(endpoints, max_size=6, unique_by=lambda endpoint: endpoint.address).map(tuple)
interfaces = st.builds(Interface, byte, byte, byte, byte, byte, byte, endpoint_lists)
settings = st.lists(interfaces, max_size=6, unique_by=lambda setting: (setting.number, setting.alternate)).map(tuple)
configurations = st.builds(Configuration, byte, byte, byte, byte, settings)
devices = st.builds(DeviceDescriptor, word, byte, byte, byte, byte, word, word, word, byte, byte, byte, byte)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real configuration with some bytes changed, a piece cut out, or rubbish behind it."""
    wire = bytearray(draw(st.sampled_from([FLASH_DRIVE, KEYBOARD, UAS_DISK, WEBCAM])))
    for position, value in draw(st.lists(st.tuples(st.integers(0, len(wire) - 1), byte), max_size=8)):
        wire[position] = value
    start = draw(st.integers(0, len(wire)))
    del wire[start : start + draw(st.integers(0, 9))]
    return bytes(wire) + draw(st.binary(max_size=20))


def refused_or_within_limits(wire: bytes) -> None:
    try:
        parsed = parse_configuration(wire)
    except DescriptorError:
        return
    assert len(parsed.interfaces) <= MAX_SETTINGS
    assert len(parsed.numbers) <= MAX_INTERFACES
    for setting in parsed.interfaces:
        assert len(setting.endpoints) <= MAX_ENDPOINTS
        assert parsed.setting(setting.number, setting.alternate) is setting


@given(mutated())
def test_mutated_configurations(wire: bytes) -> None:
    refused_or_within_limits(wire)


@given(st.binary(max_size=600))
def test_random_configurations(rubbish: bytes) -> None:
    refused_or_within_limits(rubbish)
    refused_or_within_limits(b"\x09\x02" + len(rubbish).to_bytes(2, "little") + b"\x01\x01\x00\x80\x32" + rubbish)


@given(st.binary(max_size=30), mutated())
def test_random_sysfs_files(rubbish: bytes, wire: bytes) -> None:
    for data in (rubbish, FLASH_DRIVE_DEVICE + wire, FLASH_DRIVE_DEVICE[:-1] + b"\xff" + wire + wire):
        try:
            parse_all(data)
        except DescriptorError:
            continue


@given(configurations)
def test_every_configuration_is_read_back_as_it_was_packed(configuration: Configuration) -> None:
    assert parse_configuration(configuration_bytes(configuration)) == configuration


@given(devices)
def test_every_device_descriptor_is_read_back_as_it_was_packed(device: DeviceDescriptor) -> None:
    assert parse_device(device_bytes(device)) == device


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_short_string_is_read_back_as_it_was_packed(text: str) -> None:
    assert parse_string(string_descriptor(text)) == text


@given(st.binary(max_size=300))
def test_random_strings(rubbish: bytes) -> None:
    try:
        parse_string(rubbish)
    except DescriptorError:
        return
