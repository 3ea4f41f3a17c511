"""More devices than channels, channels that others hold, and raw targets."""

import math

from tests.unit.control.engine_rig import DESK, KILLED, LAB, OFF, RAW, Rig, config, error_of, printer, stick
from usbbridge.control import actions
from usbbridge.control.actions import Failure
from usbbridge.errors import RefusedError
from usbbridge.ipc.api import Choice, SessionState, State
from usbbridge.ipc.monitoring import Open, PluggedDevice

BUSY = Failure(5, "ChannelBusyError", "Channel 0 of spice://vmhost:5900 is busy")
NO_CHANNEL = Failure(4, "NoSuchChannelError", "spice://vmhost:5900 has no channel USBREDIR:1")


def camera(devnum: int = 7) -> PluggedDevice:
    return stick("1-4", devnum, serial="C1", product_name="Camera", name="Camera")


def three_for_two() -> Rig:
    rig = Rig()
    rig.begin(stick(), printer(), camera())
    for port in ("1-2", "1-3", "1-4"):
        rig.attach(port)
        rig.succeed()
    return rig


def test_the_third_device_for_two_channels_is_queued_and_told_who_is_in_front() -> None:
    rig = three_for_two()
    status = rig.status("1-4#7")
    assert status.state is State.QUEUED
    assert status.message == "waits for a free channel on desk: both are in use, by 1-2 (Stick) and 1-3 (Printer)"
    assert "more USB channels" in status.hint
    assert (rig.vm().used, rig.vm().queued, rig.vm().channels) == (2, 1, 2)
    assert rig.engine.deadline == math.inf


def test_it_takes_the_first_channel_that_becomes_free() -> None:
    rig = three_for_two()
    rig.detach("1-3")
    rig.succeed()
    assert (rig.state("1-4#7"), rig.status("1-4#7").channel) == (State.ATTACHED, 1)
    assert rig.vm().queued == 0


def test_an_unplugged_device_makes_room_as_well() -> None:
    rig = three_for_two()
    rig.unplug("1-2#5")
    rig.succeed()
    assert (rig.state("1-4#7"), rig.status("1-4#7").channel) == (State.ATTACHED, 0)


def test_the_queue_is_served_in_the_order_of_the_wishes() -> None:
    rig = Rig(channels={"desk": (3,)})
    rig.begin(stick(), printer(), camera())
    for port in ("1-4", "1-2", "1-3"):
        rig.attach(port)
    rig.succeed()
    assert rig.status("1-2#5").message == "waits for a free channel on desk: its only one is in use, by 1-4 (Camera)"
    rig.detach("1-4")
    rig.succeed()
    assert [rig.state(device) for device in ("1-2#5", "1-3#6", "1-4#7")] == [State.ATTACHED, State.QUEUED, State.LOCAL]


def test_a_device_that_may_be_tried_again_does_not_push_in() -> None:
    rig = three_for_two()
    rig.end(rig.key_of("1-2#5"), KILLED)
    rig.succeed()
    assert rig.state("1-4#7") is State.ATTACHED
    rig.wait(1)
    assert rig.state("1-2#5") is State.QUEUED


def test_a_channel_that_somebody_else_has_is_passed_over() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    rig.grant(next(iter(rig.opens)))
    [key] = rig.encoders
    rig.end(key, BUSY)
    assert len(rig.told(Open)) == 1
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").channel) == (State.ATTACHED, 1)


def test_if_others_have_all_channels_the_device_is_queued_and_they_are_tried_again() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    for failure in (BUSY, NO_CHANNEL):
        rig.grant(next(iter(rig.opens)))
        [key] = rig.encoders
        rig.end(key, failure)
    status = rig.status("1-2#5")
    assert (status.state, status.attempts) == (State.QUEUED, 0)
    assert status.message.endswith("both are in use, by 2 other SPICE clients")
    assert rig.engine.deadline == rig.now + 1
    rig.wait(1)
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED
    assert rig.engine.deadline == math.inf


def test_a_channel_that_stays_busy_is_tried_ever_more_seldom() -> None:
    rig = Rig(channels={"desk": (0,)})
    rig.begin(stick())
    rig.attach()
    rig.connect()
    waits = []
    for _ in range(8):
        rig.grant(next(iter(rig.opens)))
        rig.end(next(iter(rig.encoders)), BUSY)
        waits.append(rig.engine.deadline - rig.now)
        rig.wait(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_who_holds_channels_is_told_apart() -> None:
    rig = Rig(channels={"desk": (0, 1, 2)})
    rig.begin(stick(), printer())
    rig.attach("1-2")
    rig.succeed()
    rig.attach("1-3")
    for _ in range(2):
        rig.grant(next(iter(rig.opens)))
        rig.end(rig.key_of("1-3#6"), BUSY)
    message = "waits for a free channel on desk: all 3 are in use, by 1-2 (Stick) and 2 other SPICE clients"
    assert rig.status("1-3#6").message == message


def test_each_raw_target_is_a_channel_and_needs_no_session() -> None:
    rig = Rig(config(RAW))
    rig.begin(stick(), printer(), camera())
    starts = []
    for port in ("1-2", "1-3", "1-4"):
        rig.attach(port)
        assert rig.did(actions.OpenSession) == []
        for key in list(rig.opens):
            rig.grant(key)
            starts += rig.did(actions.Start)
    rig.succeed()
    assert [(start.target, start.channel) for start in starts] == [
        ("tcp://vmhost:4000", None),
        ("tcp://vmhost:4001", None),
    ]
    assert (rig.state("1-4#7"), rig.status("1-2#5").channel) == (State.QUEUED, None)
    assert (rig.vm("raw").channels, rig.vm("raw").used, rig.vm("raw").state) == (2, 2, SessionState.CONNECTED)


def test_a_raw_target_that_does_not_answer_gives_way_to_the_others() -> None:
    rig = Rig(config(RAW))
    rig.begin(stick())
    rig.attach()
    targets = []
    for _ in range(3):
        rig.grant(next(iter(rig.opens)))
        targets += [start.target for start in rig.did(actions.Start)]
        rig.end(next(iter(rig.encoders)), OFF)
        assert (rig.state("1-2#5"), rig.status("1-2#5").message) == (State.WAITING, OFF.message)
        rig.wait(10)
    assert targets == ["tcp://vmhost:4000", "tcp://vmhost:4001", "tcp://vmhost:4000"]


def test_a_device_moves_from_one_vm_to_another_when_its_encoder_has_ended() -> None:
    rig = Rig(config(DESK, LAB))
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    [key] = rig.encoders
    rig.attach(vm="lab")
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    assert [action.vm for action in rig.did(actions.OpenSession)] == ["lab"]
    assert (rig.state("1-2#5"), rig.status("1-2#5").vm) == (State.DETACHING, "desk")
    rig.end(key)
    assert [action.vm for action in rig.did(actions.CloseSession)] == ["desk"]
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").vm) == (State.ATTACHED, "lab")


def test_two_vms_at_once() -> None:
    rig = Rig(config(DESK, LAB))
    rig.begin(stick(), printer())
    rig.attach("1-2", "desk")
    rig.attach("1-3", "lab")
    rig.succeed()
    assert (rig.status("1-2#5").vm, rig.status("1-3#6").vm) == ("desk", "lab")
    rig.lose_session("lab")
    rig.succeed()
    assert (rig.state("1-2#5"), rig.state("1-3#6")) == (State.ATTACHED, State.WAITING)


def test_a_vm_may_be_named_by_its_target_and_is_forgotten_when_nobody_is_there_any_more() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach(vm="spice://other:5900")
    rig.succeed()
    assert (rig.status("1-2#5").vm, rig.status("1-2#5").state) == ("spice://other:5900", State.ATTACHED)
    assert rig.saved == (Choice(0x0951, 0x1666, "A1", "", "spice://other:5900", "Kingston Stick"),)
    rig.detach()
    rig.succeed()
    assert rig.vms == {"desk"}


def test_the_target_of_a_configured_vm_means_that_vm() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach(vm="SPICE://vmhost:5900/")
    assert rig.status("1-2#5").vm == "desk"
    assert rig.vms == {"desk"}


def test_a_refused_request_leaves_no_vm_behind() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.do(rig.engine.suspend)
    assert isinstance(error_of(lambda: rig.attach(vm="spice://other:5900")), RefusedError)
    assert rig.vms == {"desk"}
