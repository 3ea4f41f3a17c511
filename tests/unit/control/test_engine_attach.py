"""One device and one VM: attach, detach, replug, and who may what."""

import math
from typing import Any

import pytest

from tests.unit.control.engine_rig import DESK, LAB, MOUNTED, Rig, config, error_of, printer, stick
from usbbridge.compat.rule import Verdict
from usbbridge.config import Assign, Auto
from usbbridge.control import actions
from usbbridge.control.actions import Failure
from usbbridge.errors import ConnectionLostError, NotFoundError, RefusedError, UsageError
from usbbridge.ipc.api import Choice, Remember, SessionState, State
from usbbridge.ipc.monitoring import Open, Outcome
from usbbridge.usb.entry import Obstacle, Reason

A1 = Choice(0x0951, 0x1666, "A1", "", "desk", "Kingston Stick")


def test_one_attachment_step_by_step() -> None:
    rig = Rig()
    rig.begin(stick())
    assert rig.state("1-2#5") is State.LOCAL
    assert rig.attach("1-2") == "1-2#5"
    assert rig.did(actions.OpenSession) == [actions.OpenSession("desk", DESK)]
    assert rig.status("1-2#5").message == "connecting to desk"
    assert (rig.state("1-2#5"), rig.vm().state) == (State.WAITING, SessionState.CONNECTING)
    rig.connect()
    [asked] = rig.told(Open)
    assert (asked.device, asked.asked, asked.unmount, asked.force) == ("1-2#5", True, False, False)
    assert rig.state("1-2#5") is State.OPENING
    rig.grant(asked.request)
    [start] = rig.did(actions.Start)
    assert (start.key, start.vm, start.target, start.channel) == (asked.request, "desk", "spice://vmhost:5900", 0)
    rig.do(rig.engine.encoder_started, start.key, 4711)
    rig.reach(start.key, "linked", "hello", "announced")
    assert rig.state("1-2#5") is State.ATTACHING
    rig.reach(start.key, "attached")
    status = rig.status("1-2#5")
    assert (status.state, status.vm, status.channel, status.encoder) == (State.ATTACHED, "desk", 0, 4711)
    assert status.remembered
    assert [outcome.result for outcome in rig.told(Outcome)] == ["attached"]
    assert (rig.vm().used, rig.vm().channels) == (1, 2)
    assert rig.engine.deadline == math.inf


def test_detaching_stops_the_encoder_and_is_over_when_the_device_is_back() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    key = rig.key_of("1-2#5")
    rig.now += 30
    rig.detach()
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    assert rig.state("1-2#5") is State.DETACHING
    rig.encoders.clear()
    rig.do(rig.engine.encoder_ended, key, None)
    assert [(outcome.result, outcome.seconds) for outcome in rig.told(Outcome)] == [("ended", 30)]
    assert rig.did(actions.CloseSession) == [actions.CloseSession("desk")]
    assert (rig.state("1-2#5"), rig.engine.busy) == (State.DETACHING, True)
    rig.do(rig.engine.returned, "1-2#5")
    assert (rig.state("1-2#5"), rig.engine.busy) == (State.LOCAL, False)
    assert rig.saved == ()


def test_a_monitor_that_does_not_say_when_a_device_is_back_is_not_waited_for_for_ever() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    rig.detach()
    [key] = rig.encoders
    rig.encoders.clear()
    rig.do(rig.engine.encoder_ended, key, None)
    rig.wait(5)
    assert rig.state("1-2#5") is State.LOCAL
    assert rig.engine.deadline == math.inf


def test_an_attached_device_is_attached_again_when_it_is_replugged_wherever_that_is() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    assert rig.saved == (A1,)
    [key] = rig.encoders
    rig.unplug("1-2#5")
    assert rig.did(actions.Left) == [actions.Left("1-2#5")]
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    rig.end(key, Failure(1, "DeviceLostError", "Stick was unplugged"))
    rig.plug(stick("2-1", 9))
    rig.succeed()
    assert rig.state("2-1#9") is State.ATTACHED


def test_a_device_without_serial_number_is_known_by_its_port() -> None:
    rig = Rig()
    rig.begin(stick(serial=""))
    rig.attach()
    rig.succeed()
    assert rig.saved == (Choice(0x0951, 0x1666, "", "1-2", "desk", "Kingston Stick"),)
    rig.unplug("1-2#5")
    rig.succeed()
    rig.plug(stick("2-1", 9, serial=""))
    assert rig.state("2-1#9") is State.LOCAL
    rig.unplug("2-1#9")
    rig.plug(stick("1-2", 10, serial=""))
    rig.succeed()
    assert rig.state("1-2#10") is State.ATTACHED


def test_a_detached_device_stays_here_until_it_is_replugged_and_with_keep_goes_back_then() -> None:
    rig = Rig(choices=(A1,))
    rig.begin(stick())
    rig.succeed()
    rig.detach(keep=True)
    rig.succeed()
    rig.plug(stick(quirks=("no-reset",)))
    assert rig.state("1-2#5") is State.LOCAL
    rig.unplug("1-2#5")
    rig.plug(stick(devnum=8))
    rig.succeed()
    assert rig.state("1-2#8") is State.ATTACHED


def test_what_is_not_to_be_remembered_is_not() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach(remember=Remember.NO)
    rig.succeed()
    assert rig.saved == ()
    rig.unplug("1-2#5")
    rig.succeed()
    rig.plug(stick(devnum=8))
    assert rig.state("1-2#8") is State.LOCAL


def test_attaching_twice_is_the_same_as_once() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    rig.attach()
    assert rig.log == []
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_device_that_connects_by_itself_does_so_unless_that_is_switched_off() -> None:
    rig = Rig()
    rig.begin(stick(verdict=Verdict.CONNECT))
    rig.connect()
    assert [asked.asked for asked in rig.told(Open)] == [False]
    rig = Rig(config(DESK, auto=Auto(connect=False)))
    rig.begin(stick(verdict=Verdict.CONNECT))
    assert rig.state("1-2#5") is State.LOCAL


def test_without_a_vm_nothing_goes_anywhere_and_a_request_says_how_to_add_one() -> None:
    rig = Rig(config())
    rig.begin(stick(verdict=Verdict.CONNECT))
    assert rig.state("1-2#5") is State.LOCAL
    error = error_of(rig.attach)
    assert isinstance(error, UsageError)
    assert '[vm.NAME] with target = "spice://HOST:PORT"' in error.hint


def test_an_unknown_vm_is_answered_with_those_there_are() -> None:
    rig = Rig(config(DESK, LAB))
    rig.begin(stick())
    error = error_of(lambda: rig.attach(vm="dekc"))
    assert isinstance(error, NotFoundError)
    assert "desk, lab" in error.hint
    assert rig.log == []


def test_a_denied_device_is_refused_with_the_rule_that_denies_it() -> None:
    rig = Rig()
    rig.begin(stick(verdict=Verdict.DENY, because="interface 0 is a boot keyboard", rule="10-class.toml:12"))
    error = error_of(rig.attach)
    assert isinstance(error, RefusedError)
    assert "interface 0 is a boot keyboard (10-class.toml:12)" in error.message
    assert "rules explain 1-2" in error.hint


@pytest.mark.parametrize(
    ("obstacle", "asked"),
    [
        (Obstacle(Reason.HUB, "1-2 is a hub", "the devices plugged into it can be attached"), {"force": True}),
        (MOUNTED, {}),
    ],
)
def test_a_device_that_cannot_be_had_is_refused_with_the_reason(obstacle: Obstacle, asked: dict[str, Any]) -> None:
    rig = Rig()
    rig.begin(stick(obstacle=obstacle))
    error = error_of(lambda: rig.attach(**asked))
    assert isinstance(error, RefusedError)
    assert (error.message, error.hint) == (obstacle.message, obstacle.hint)
    assert rig.state("1-2#5") is State.LOCAL


def test_a_mounted_stick_may_be_unmounted_once_by_request() -> None:
    rig = Rig()
    rig.begin(stick(obstacle=MOUNTED))
    rig.attach(unmount=True)
    rig.connect()
    assert [asked.unmount for asked in rig.told(Open)] == [True]
    rig.succeed()
    rig.plug(stick())
    rig.end(rig.key_of("1-2#5"), Failure(1, "EncoderError", "killed"))
    rig.plug(stick(obstacle=MOUNTED))
    rig.wait(60)
    assert (rig.state("1-2#5"), rig.status("1-2#5").message) == (State.WAITING, MOUNTED.message)
    rig.plug(stick())
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_remembered_stick_that_is_mounted_waits_until_it_is_not() -> None:
    rig = Rig(choices=(A1,))
    rig.begin(stick(obstacle=MOUNTED))
    status = rig.status("1-2#5")
    assert (status.state, status.error, status.status) == (State.WAITING, "RefusedError", 5)
    assert rig.engine.deadline == math.inf
    rig.plug(stick())
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_what_the_monitor_refuses_is_tried_again_when_it_is_no_longer_in_use() -> None:
    rig = Rig(choices=(A1,))
    rig.begin(stick())
    rig.connect()
    rig.refuse(next(iter(rig.opens)), Failure(5, "RefusedError", "1-2 is in use: /dev/sda1 is mounted at /media"))
    assert rig.state("1-2#5") is State.FAILED
    rig.plug(stick(obstacle=MOUNTED))
    rig.plug(stick())
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_what_may_be_attached_by_request_only_is_by_a_request_and_when_it_was_remembered() -> None:
    rig = Rig()
    rig.begin(stick(verdict=Verdict.ASK))
    assert rig.state("1-2#5") is State.LOCAL
    rig.attach()
    rig.succeed()
    rig.unplug("1-2#5")
    rig.succeed()
    rig.plug(stick(devnum=8, verdict=Verdict.ASK))
    rig.connect()
    assert [asked.asked for asked in rig.told(Open)] == [True]


def test_a_new_rule_that_denies_a_device_takes_it_back() -> None:
    rig = Rig(choices=(A1,))
    rig.begin(stick())
    rig.succeed()
    rig.plug(stick(verdict=Verdict.DENY, rule="local:3"))
    assert len(rig.did(actions.Stop)) == 1
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").error) == (State.FAILED, "RefusedError")


def test_devices_are_named_as_people_do_and_an_ambiguous_name_lists_the_candidates() -> None:
    rig = Rig()
    rig.begin(stick(), stick("1-4", 7, serial="B2"), printer())
    error = error_of(lambda: rig.attach("kingston"))
    assert isinstance(error, UsageError)
    assert "1-4" in error.message
    assert rig.attach("kingston", serial="B2") == "1-4#7"
    assert rig.attach("1-3#6") == "1-3#6"
    assert rig.detach("kingston") == "1-4#7"  # the only one that could be meant
    assert isinstance(error_of(lambda: rig.attach("046d:c31c")), NotFoundError)


def test_without_the_monitor_an_unknown_device_is_the_monitors_fault() -> None:
    assert isinstance(error_of(Rig().attach), ConnectionLostError)


@pytest.mark.parametrize(
    ("assign", "vm"),
    [
        (Assign("lab", "1-2"), "lab"),
        (Assign("lab", "0951:1666"), "lab"),
        (Assign("lab", "0951:*"), "lab"),
        (Assign("lab", serial="A1"), "lab"),
        (Assign("lab", "0951:1666", serial="B2"), "desk"),
        (Assign("lab", "1-3"), "desk"),
    ],
)
def test_an_assignment_says_where_a_device_goes(assign: Assign, vm: str) -> None:
    rig = Rig(config(DESK, LAB, assignments=(assign,)))
    rig.begin(stick(verdict=Verdict.CONNECT))
    assert rig.status("1-2#5").vm == vm


def test_who_asks_decides_before_what_was_remembered_before_the_configuration() -> None:
    rig = Rig(config(DESK, LAB, assignments=(Assign("lab", "0951:*"),)), choices=(A1,))
    rig.begin(stick(verdict=Verdict.CONNECT))
    rig.succeed()
    assert rig.status("1-2#5").vm == "desk"
    rig.attach(vm="lab")
    rig.succeed()
    assert rig.status("1-2#5").vm == "lab"
    assert [choice.vm for choice in rig.saved] == ["lab"]


def test_force_for_a_device_that_is_attached_already_is_not_kept_for_later() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    rig.attach(force=True)
    rig.plug(stick(obstacle=MOUNTED))
    rig.end(rig.key_of("1-2#5"), Failure(1, "EncoderError", "killed"))
    rig.wait(60)
    assert (rig.state("1-2#5"), rig.opens) == (State.WAITING, {})
