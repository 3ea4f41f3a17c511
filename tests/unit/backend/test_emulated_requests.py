"""The engine's endpoint 0: the requests that every device answers, and those that its function does."""

import pytest

from tests.unit.backend.probe import BULK_IN, BULK_OUT, Owner, Probe
from usbbridge.backend.base import Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.function import NAK, STALL
from usbbridge.errors import DeviceLostError
from usbbridge.usb.ch9 import DIR_IN, Feature, Recipient, Request, SetupPacket, Speed
from usbbridge.usb.descriptors import device_bytes, parse_string


def test_descriptors_are_cut_to_what_the_host_asks_for(owner, probe):
    device = device_bytes(probe.model.device)
    for size, expected in ((8, device[:8]), (18, device), (64, device), (0, b"")):
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0100, 0, size) == (Status.COMPLETED, expected)
    for index in (0, 1):
        whole = probe.model.configurations[index]
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0200 | index, 0, 500)[1] == whole


def test_strings(owner):
    assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0300, 0, 255)[1] == b"\x04\x03\x09\x04"
    assert parse_string(owner.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0302, 0x0409, 255)[1]) == "probe ☂"
    for value, language in ((0x0303, 0x0409), (0x0302, 0x0407), (0x03EE, 0)):  # EEh: Microsoft's, which not to have
        assert owner.control(DIR_IN, Request.GET_DESCRIPTOR, value, language, 255)[0] is Status.STALL


def test_a_high_speed_device_has_a_qualifier_and_a_super_speed_one_a_bos():
    high, fast = (Owner(EmulatedDevice(Probe(speed), "x")) for speed in (Speed.HIGH, Speed.SUPER))
    assert high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0600, 0, 10)[1] == bytes.fromhex("0a060002000000400100")
    other = high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0700, 0, 500)[1]
    assert (other[1], len(other)) == (7, len(Probe().model.configurations[0]))
    assert high.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0F00, 0, 5)[0] is Status.STALL
    assert fast.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0F00, 0, 5)[1] == b"\x05\x0f\x05\x00\x00"
    assert fast.control(DIR_IN, Request.GET_DESCRIPTOR, 0x0600, 0, 10)[0] is Status.STALL
    for owner in (high, fast):
        owner.device.close()


def test_super_speed_requests_exist_at_super_speed_only():
    requests = [
        (0, Request.SET_FEATURE, Feature.U1_ENABLE, 0, 0),
        (0, Request.SET_SEL, 0, 0, bytes(6)),
        (0, Request.SET_ISOCH_DELAY, 40, 0, 0),
        (Recipient.INTERFACE, Request.SET_FEATURE, 0, 0, 0),
    ]
    for speed, status in ((Speed.SUPER, Status.COMPLETED), (Speed.HIGH, Status.STALL)):
        owner = Owner(EmulatedDevice(Probe(speed), "x"))
        assert [owner.control(*request)[0] for request in requests] == [status] * 4
        flags = owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1]
        assert flags == (b"\x05\x00" if speed is Speed.SUPER else b"\x01\x00")
        owner.device.close()


def test_configuration_and_interface_by_request(device, owner):
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1)[1] == b"\x01"
    assert owner.control(0, Request.SET_CONFIGURATION, 3)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1)[1] == b"\x03"
    assert owner.control(Recipient.INTERFACE, Request.SET_INTERFACE, 1, 0)[0] is Status.COMPLETED
    assert owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 0, 1)[1] == b"\x01"
    assert owner.control(0, Request.SET_ADDRESS, 5)[0] is Status.COMPLETED


def test_remote_wakeup_is_remembered(owner):
    assert owner.control(0, Request.SET_FEATURE, Feature.DEVICE_REMOTE_WAKEUP)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1] == b"\x03\x00"
    assert owner.control(0, Request.CLEAR_FEATURE, Feature.DEVICE_REMOTE_WAKEUP)[0] is Status.COMPLETED
    assert owner.control(DIR_IN, Request.GET_STATUS, 0, 0, 2)[1] == b"\x01\x00"


@pytest.mark.parametrize(
    "request_",
    [
        (DIR_IN, Request.GET_DESCRIPTOR, 0x0101, 0, 18),
        (DIR_IN, Request.GET_DESCRIPTOR, 0x0202, 0, 9),
        (DIR_IN, Request.GET_DESCRIPTOR, 0x9900, 0, 9),
        (0, Request.GET_DESCRIPTOR, 0x0100, 0, 18),
        (0, Request.SET_CONFIGURATION, 2, 0, 0),
        (0, Request.SET_CONFIGURATION, 0x0101, 0, 0),
        (DIR_IN, Request.SET_CONFIGURATION, 1, 0, 0),
        (Recipient.INTERFACE, Request.SET_INTERFACE, 5, 0, 0),
        (Recipient.INTERFACE, Request.SET_INTERFACE, 0, 99, 0),
        (DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 7, 1),
        (DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, 0x8F, 2),
        (DIR_IN | Recipient.INTERFACE, Request.GET_STATUS, 0, 9, 2),
        (DIR_IN | 31, Request.GET_STATUS, 0, 0, 2),
        (0, Request.SET_FEATURE, Feature.TEST_MODE, 0x0100, 0),
        (Recipient.ENDPOINT, Request.SET_FEATURE, 7, BULK_IN, 0),
        (0, Request.SYNCH_FRAME, 0, 0, 0),
        (0, 0xFE, 0, 0, 0),
        (DIR_IN | 0x60, 0x06, 0x0100, 0, 18),
    ],
)
def test_requests_that_name_nothing_stall(owner, request_):
    assert owner.control(*request_)[0] is Status.STALL
    assert owner.control(DIR_IN, Request.GET_CONFIGURATION, 0, 0, 1) == (Status.COMPLETED, b"\x01")  # no halt stays


def test_class_and_vendor_requests_and_descriptors_of_interfaces_go_to_the_function(owner, probe):
    assert owner.control(DIR_IN | 0x21, 0x42, 1, 2, 3) == (Status.COMPLETED, bytes(3))
    assert owner.control(0x40, 0x42, 1, 2, b"abc")[0] is Status.COMPLETED
    assert owner.control(0x40, 0x43, 1, 2, b"abc")[0] is Status.STALL
    owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_DESCRIPTOR, 0x2200, 0, 60)
    assert [setup.request for setup in probe.requests] == [0x42, 0x42, 0x43, Request.GET_DESCRIPTOR]


def test_a_setup_packet_that_asks_for_more_than_the_data_area_is_refused(device):
    transfer = device.take(0)
    transfer.setup[:] = SetupPacket(DIR_IN, Request.GET_DESCRIPTOR, 0x0100, 0, 18).pack()
    assert device.submit_control(transfer, 17) is Status.ERROR
    assert device.submit_control(transfer, 10_000) is Status.ERROR


def test_a_request_that_the_function_puts_off_is_answered_when_it_wakes(device, probe):
    answers = [NAK, NAK, 4]
    probe.control = lambda setup, data: answers.pop(0)
    transfer, ended = device.take(4), []
    transfer.setup[:] = SetupPacket(0xC0, 0x42, 0, 0, 4).pack()
    transfer.on_done = ended.append
    assert device.submit_control(transfer, 4) is Status.COMPLETED
    assert (device.reap(), device.in_flight()) == (0, 1)
    probe.wake()
    assert device.reap() == 1
    assert (ended, transfer.status, transfer.actual) == ([transfer], Status.COMPLETED, 4)


def test_a_function_may_answer_standard_requests_itself(owner, probe):
    probe.standard = lambda setup, data: STALL if setup.request == Request.GET_STATUS else None
    assert owner.control(0x80, Request.GET_STATUS, data=2)[0] is Status.STALL
    assert owner.control(0x80, Request.GET_CONFIGURATION, data=1) == (Status.COMPLETED, b"\x01")


def test_a_function_that_leaves_in_a_transfer_takes_all_others_with_it(device, owner, probe):
    def leave(endpoint, data):
        probe.leave()
        return len(data)

    waiting = owner.submit(BULK_IN, 64)
    probe.receive = leave
    owner.submit(BULK_OUT, b"go")
    device.reap()
    assert [status for _, status, _ in owner.ended] == [Status.NO_DEVICE] * 2
    assert waiting.status == Status.NO_DEVICE
    with pytest.raises(DeviceLostError):
        device.configuration()
