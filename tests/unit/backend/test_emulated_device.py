"""The engine, around a function made for the purpose: endpoint 0x81 sends what it is given, 0x02 swallows."""

import os
import select

import pytest

from tests.unit.backend.probe import BULK_IN, BULK_OUT, INTERRUPT_IN, STALLING
from usbbridge.backend.base import Device, Status
from usbbridge.backend.emulated.device import EmulatedDevice
from usbbridge.backend.emulated.pool import POOL_BYTES
from usbbridge.errors import DeviceError, DeviceLostError
from usbbridge.usb.ch9 import DIR_IN, Feature, Recipient, Request, Speed


def readable(device) -> bool:
    poller = select.epoll()
    for fd, events in device.pollfds():
        poller.register(fd, events)
    ready = bool(poller.poll(0))
    poller.close()
    return ready


# ---- transfers


def test_it_is_a_device(device: EmulatedDevice):
    as_seam: Device = device
    assert (as_seam.name, as_seam.speed, as_seam.descriptor.vendor) == ("probe", Speed.HIGH, 0x1234)


def test_an_in_transfer_waits_until_the_function_has_data(device, owner, probe):
    owner.submit(BULK_IN, 100)
    assert (device.reap(), device.in_flight(), readable(device)) == (0, 1, False)
    probe.messages.append(b"hello")
    probe.wake()
    assert readable(device)
    assert device.reap() == 1
    assert owner.ended == [(None, Status.COMPLETED, b"hello")]
    assert (device.in_flight(), readable(device)) == (0, False)


def test_transfers_of_an_endpoint_end_in_order(device, owner, probe):
    for name in range(3):
        owner.submit(BULK_IN, 10, name)
    probe.messages += [b"a", b"b", b"c"]
    probe.wake()
    device.reap()
    assert [(name, data) for name, _, data in owner.ended] == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_out_data_reaches_the_function(device, owner, probe):
    owner.submit(BULK_OUT, b"out")
    device.reap()
    assert probe.received == [b"out"]
    assert owner.ended[0][:2] == (None, Status.COMPLETED)


def test_nothing_ends_outside_reap(device, owner):
    owner.submit(BULK_OUT, b"x")
    assert owner.ended == []
    device.reap()
    assert len(owner.ended) == 1


def test_a_transfer_without_data_ends_at_once(device, owner):
    owner.submit(BULK_IN, 0)
    owner.submit(BULK_OUT, b"")
    device.reap()
    assert [status for _, status, _ in owner.ended] == [Status.COMPLETED, Status.COMPLETED]


def test_what_does_not_fit_is_an_overflow(device, owner, probe):
    probe.messages.append(bytes(100))
    owner.submit(BULK_IN, 99)
    device.reap()
    assert owner.ended == [(None, Status.OVERFLOW, b"")]


def test_an_owner_that_submits_again_does_not_keep_reap_from_returning(device, probe):
    again = device.take(4)

    def resubmit(transfer):
        device.submit_bulk(transfer, BULK_OUT, 4)

    again.on_done = resubmit
    resubmit(again)
    assert [device.reap() for _ in range(3)] == [1, 1, 1]
    assert readable(device)


def test_cancel_ends_a_waiting_transfer_through_reap_and_only_once(device, owner):
    first, second = owner.submit(BULK_IN, 10, 1), owner.submit(BULK_IN, 10, 2)
    device.cancel(second)
    device.cancel(second)
    assert owner.ended == []
    device.reap()
    assert owner.ended == [(2, Status.CANCELLED, b"")]
    device.cancel(second)  # back in its owner's hands: nothing to cancel
    device.cancel(first)
    device.reap()
    assert owner.ended[1:] == [(1, Status.CANCELLED, b"")]


def test_cancel_after_the_end_changes_nothing(device, owner):
    transfer = owner.submit(BULK_OUT, b"x")
    device.cancel(transfer)
    device.reap()
    assert owner.ended[0][1] is Status.COMPLETED


def test_drain_reaps_what_was_cancelled(device, owner):
    device.cancel(owner.submit(BULK_IN, 10))
    owner.submit(BULK_IN, 10)
    assert device.drain(0.0)
    assert [status for _, status, _ in owner.ended] == [Status.CANCELLED]
    assert device.in_flight() == 1


@pytest.mark.parametrize(
    ("endpoint", "length", "why"),
    [(0x85, 10, "no such endpoint"), (BULK_IN, 4096, "too long"), (BULK_IN, -1, "negative"), (0, 1, "control")],
)
def test_a_transfer_that_cannot_be_is_refused(device, endpoint, length, why):
    assert device.submit_bulk(device.take(10), endpoint, length) is Status.ERROR, why


def test_the_wrong_kind_of_transfer_and_one_twice_are_refused(device, owner):
    assert device.submit_interrupt(device.take(1), BULK_IN, 1) is Status.ERROR
    transfer = owner.submit(BULK_IN, 10)
    assert device.submit_bulk(transfer, BULK_IN, 10) is Status.ERROR
    with pytest.raises(ValueError, match="still has it"):
        device.give_back(transfer)


def test_transfers_are_reused_by_size(device):
    first = device.take(5000)
    assert first.capacity == 8192
    device.give_back(first)
    assert device.take(8192) is first
    assert device.take(1).capacity == 512


def test_free_buffers_are_kept_up_to_a_bound(device):
    for transfer in [device.take(1 << 20) for _ in range(40)]:
        device.give_back(transfer)
    assert device._pool.bytes_kept == POOL_BYTES


# ---- halts


def test_a_stall_halts_the_endpoint_until_it_is_cleared(device, owner, probe):
    for name in range(2):
        owner.submit(BULK_IN, 10, name)
    probe.messages += [STALLING, b"later"]
    probe.wake()
    owner.submit(BULK_IN, 10, 2)
    device.reap()
    assert owner.ended == [(name, Status.STALL, b"") for name in range(3)]
    assert owner.control(DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, BULK_IN, 2)[1] == b"\x01\x00"
    device.clear_halt(BULK_IN)
    assert owner.control(DIR_IN | Recipient.ENDPOINT, Request.GET_STATUS, 0, BULK_IN, 2)[1] == b"\x00\x00"
    owner.submit(BULK_IN, 10, 3)
    device.reap()
    assert owner.ended[3:] == [(3, Status.COMPLETED, b"later")]


def test_a_host_may_halt_and_clear_by_request(device, owner):
    owner.submit(BULK_IN, 10)
    halt = (Feature.ENDPOINT_HALT, BULK_IN)
    assert owner.control(Recipient.ENDPOINT, Request.SET_FEATURE, *halt)[0] is Status.COMPLETED
    device.reap()
    assert owner.ended.pop()[1] is Status.STALL
    assert owner.control(Recipient.ENDPOINT, Request.CLEAR_FEATURE, *halt)[0] is Status.COMPLETED
    owner.submit(BULK_IN, 10)
    assert device.reap() == 0


def test_clearing_an_endpoint_that_is_not_there_is_an_error(device):
    with pytest.raises(DeviceError, match="0x85"):
        device.clear_halt(0x85)


# ---- configuration, reset, the end


def test_it_starts_configured_and_can_be_configured_anew(device, owner, probe):
    assert device.configuration().value == 1
    waiting = owner.submit(BULK_IN, 10)
    device.set_configuration(3)
    assert device.configuration().value == 3
    device.reap()
    assert owner.ended == [(None, Status.CANCELLED, b"")]
    assert waiting.status == Status.CANCELLED
    device.set_configuration(0)
    assert device.configuration() is None
    assert device.submit_bulk(device.take(1), BULK_IN, 1) is Status.ERROR
    device.release()
    assert device.configuration().value == 1
    with pytest.raises(DeviceError, match="no configuration 2"):
        device.set_configuration(2)


def test_an_alternate_setting_brings_its_own_endpoints(device, owner, probe):
    waiting = owner.submit(BULK_IN, 10)
    device.set_interface(0, 1)
    assert probe.events[-1] == (0, 1)
    device.reap()
    assert waiting.status == Status.CANCELLED
    assert device.submit_bulk(device.take(1), BULK_IN, 1) is Status.ERROR
    owner.submit(INTERRUPT_IN, 8, "key", "interrupt")
    probe.messages.append(b"key")
    probe.wake()
    device.reap()
    assert owner.ended[-1] == ("key", Status.COMPLETED, b"key")
    for number, alternate in ((0, 2), (1, 0)):
        with pytest.raises(DeviceError, match="no interface"):
            device.set_interface(number, alternate)


def test_a_reset_ends_transfers_and_halts_and_leaves_the_first_settings(device, owner, probe):
    device.set_configuration(3)
    device.set_interface(0, 1)
    waiting = owner.submit(INTERRUPT_IN, 10, kind="interrupt")
    probe.events.clear()
    device.reset()
    device.reap()
    assert waiting.status == Status.CANCELLED
    assert probe.events == ["restart"]
    assert device.configuration().value == 3
    assert owner.control(DIR_IN | Recipient.INTERFACE, Request.GET_INTERFACE, 0, 0, 1)[1] == b"\x00"


def test_unplugged_it_ends_everything_and_is_lost_from_then_on(device, owner):
    owner.submit(BULK_OUT, b"done before", 1)
    owner.submit(BULK_IN, 10, 2)
    device.unplug()
    assert readable(device)
    device.reap()
    assert [(name, status) for name, status, _ in owner.ended] == [(1, Status.COMPLETED), (2, Status.NO_DEVICE)]
    for call in (
        lambda: device.clear_halt(BULK_IN),
        lambda: device.set_configuration(1),
        lambda: device.set_interface(0, 0),
        device.configuration,
        device.claim,
        device.reset,
    ):
        with pytest.raises(DeviceLostError, match="unplugged"):
            call()
    transfer = device.take(1)
    assert device.submit_bulk(transfer, BULK_IN, 1) is Status.NO_DEVICE
    assert device.submit_control(transfer, 0) is Status.NO_DEVICE
    device.release()


def test_close_drops_what_is_in_flight_and_may_be_called_again(device, owner, probe):
    owner.submit(BULK_OUT, b"x")
    owner.submit(BULK_IN, 10)
    fd = device.pollfds()[0][0]
    device.close()
    device.close()
    assert (owner.ended, device.in_flight(), device.pollfds(), device.reap()) == ([], 0, (), 0)
    assert probe.events.count("close") == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_owner_may_close_the_device_while_reaping(device):
    transfers = [device.take(1) for _ in range(2)]
    for transfer in transfers:
        transfer.on_done = lambda _: device.close()
        device.submit_bulk(transfer, BULK_OUT, 1)
    assert device.reap() == 1
