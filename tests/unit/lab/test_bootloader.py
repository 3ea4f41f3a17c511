"""The device with two faces, and its firmware upgrade."""

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import acm, bootloader
from tools.lab.devices.bootloader import APPLICATION, BOOT_LOADER
from tools.lab.devices.dfu import MAX_FIRMWARE, STATUS, TRANSFER_BYTES, DfuRequest, State
from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed

TO, FROM = 0x21, 0xA1
DFU_INTERFACE = 2
"Of the application: its serial port has 0 and 1."
FIRMWARE = bytes(range(256)) * 9


@pytest.fixture
def host():
    made = Host(bootloader.create(Speed.FULL, {}))
    yield made
    made.device.close()


def status(host: Host, interface: int = 0) -> tuple[int, int]:
    """bStatus and bState."""
    found = STATUS.unpack(host.control(FROM, DfuRequest.GETSTATUS, 0, interface, 6).data)
    return found[0], found[2]


def download(host: Host, firmware: bytes) -> None:
    blocks = [firmware[at : at + TRANSFER_BYTES] for at in range(0, len(firmware), TRANSFER_BYTES)]
    for number, block in enumerate(blocks):
        assert host.control(TO, DfuRequest.DNLOAD, number, 0, block).status is Status.COMPLETED
        assert status(host) == (0, State.DNLOAD_IDLE)
    assert host.control(TO, DfuRequest.DNLOAD, len(blocks)).status is Status.COMPLETED


def upload(host: Host) -> bytes:
    found = b""
    while len(block := host.control(FROM, DfuRequest.UPLOAD, 0, 0, TRANSFER_BYTES).data) == TRANSFER_BYTES:
        found += block
    return found + block


def identity(host: Host) -> tuple[int, str]:
    return host.device.descriptor.product, host.device.function.model.strings[2]


def come_back(host: Host) -> Host:
    """The device that is plugged in when this one has left."""
    successor = host.device.function.becomes
    assert successor is not None
    assert host.device.function.becomes is successor
    host.device.close()
    return Host(successor)


def start(host: Host) -> Host:
    assert host.control(*bootloader.START).status is Status.COMPLETED
    return come_back(host)


def test_firmware_is_downloaded_and_a_reset_starts_it(host):
    download(host, FIRMWARE)
    assert status(host) == (0, State.MANIFEST_WAIT_RESET)
    assert host.device.function.becomes is None
    host.device.reset()
    application = come_back(host)
    assert identity(application) == (APPLICATION, "BOOT1")


def test_detach_and_reset_lead_back_to_a_boot_loader_with_the_same_firmware(host):
    download(host, FIRMWARE)
    status(host)
    host.device.reset()
    application = come_back(host)
    application.control(TO, DfuRequest.DETACH, 1000, DFU_INTERFACE)
    assert status(application, DFU_INTERFACE) == (0, State.APP_DETACH)
    assert application.device.function.becomes is None
    application.device.reset()
    again = come_back(application)
    assert identity(again) == (BOOT_LOADER, "BOOT1")
    assert upload(again) == FIRMWARE
    assert status(again) == (0, State.IDLE)


@pytest.mark.parametrize("size", [0, 1, TRANSFER_BYTES, 2 * TRANSFER_BYTES])
def test_firmware_of_any_size_is_read_as_it_was_written(host, size):
    if size:
        download(host, FIRMWARE[:size])
        status(host)
    host.device.function.state = State.IDLE
    assert upload(host) == FIRMWARE[:size]


def test_a_vendor_request_starts_the_application_without_a_reset(host):
    assert identity(start(host))[0] == APPLICATION


def test_a_reset_alone_changes_nothing(host):
    host.device.reset()
    assert host.device.function.becomes is None
    application = start(host)
    application.device.reset()
    assert application.device.function.becomes is None


def test_the_application_is_a_serial_port_that_1200_baud_lead_back(host):
    application = start(host)
    application.write(1, b"data")
    assert application.read(0x82, 64) == b"data"
    for rate, gone in ((9600, False), (1200, True)):
        application.control(TO, acm.SET_LINE_CODING, data=acm.LINE_CODING.pack(rate, 0, 0, 8))
        application.control(TO, acm.SET_CONTROL_LINE_STATE, acm.DTR)
        assert application.device.function.becomes is None
        application.control(TO, acm.SET_CONTROL_LINE_STATE, 0)
        assert (application.device.function.becomes is not None) is gone
    assert identity(come_back(application))[0] == BOOT_LOADER


@pytest.mark.parametrize(
    ("request_", "value", "data"),
    [
        (DfuRequest.DNLOAD, 0, b""),
        (DfuRequest.DNLOAD, 0, bytes(TRANSFER_BYTES + 1)),
        (DfuRequest.DETACH, 0, b""),
    ],
)
def test_what_cannot_be_done_is_an_error_until_it_is_cleared(host, request_, value, data):
    assert host.control(TO, request_, value, 0, data).status is Status.STALL
    assert status(host)[1] == State.ERROR
    assert host.control(TO, DfuRequest.ABORT).status is Status.STALL
    assert host.control(TO, DfuRequest.CLRSTATUS).status is Status.COMPLETED
    assert status(host) == (0, State.IDLE)


def test_blocks_come_in_order(host):
    host.control(TO, DfuRequest.DNLOAD, 0, 0, b"first")
    status(host)
    assert host.control(TO, DfuRequest.DNLOAD, 2, 0, b"third").status is Status.STALL


def test_an_aborted_download_leaves_the_firmware_alone(host):
    host.device.function.firmware[:] = b"old"
    host.control(TO, DfuRequest.DNLOAD, 0, 0, b"new")
    status(host)
    assert host.control(TO, DfuRequest.ABORT).status is Status.COMPLETED
    assert upload(host) == b"old"


def test_too_much_firmware_is_refused(host):
    blocks = MAX_FIRMWARE // TRANSFER_BYTES
    for number in range(blocks):
        host.control(TO, DfuRequest.DNLOAD, number, 0, bytes(TRANSFER_BYTES))
        host.control(FROM, DfuRequest.GETSTATUS, 0, 0, 6)
    assert host.control(TO, DfuRequest.DNLOAD, blocks, 0, b"x").status is Status.STALL
