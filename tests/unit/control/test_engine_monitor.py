"""The monitor comes and goes, and what was said crosses what was meant."""

import math

import pytest

from tests.unit.control.engine_rig import DESK, LAB, Rig, config, printer, stick
from usbbridge.compat.rule import Verdict
from usbbridge.control import actions
from usbbridge.control.actions import DropOpened, Failure
from usbbridge.ipc.api import Choice, State
from usbbridge.ipc.monitoring import Adopt, Open, Synced

A1 = Choice(0x0951, 0x1666, "A1", "", "desk", "Kingston Stick")
NO_NODE = Failure(1, "DeviceLostError", "1-2 can't be opened: No such device")


def attached() -> Rig:
    rig = Rig(choices=(A1,))
    rig.begin(stick())
    rig.succeed()
    return rig


def opening() -> tuple[Rig, int]:
    """A device that the monitor has just been asked for."""
    rig = Rig(config(DESK, LAB))
    rig.begin(stick())
    rig.attach()
    rig.connect()
    [key] = rig.opens
    return rig, key


def test_nothing_is_decided_before_all_devices_are_told() -> None:
    rig = Rig(choices=(A1,))
    rig.monitor_connects()
    rig.plug(stick())
    assert (rig.state("1-2#5"), rig.sessions) == (State.LOCAL, {})
    rig.listed()
    assert [tell.message for tell in rig.did(actions.Tell)] == [Synced()]
    assert list(rig.sessions) == ["desk"]


def test_encoders_outlive_the_monitor_and_the_next_one_is_told_of_them() -> None:
    rig = attached()
    [key] = rig.encoders
    rig.monitor_dies()
    assert rig.log == []
    assert rig.state("1-2#5") is State.ATTACHED
    rig.monitor_connects()
    rig.plug(stick())
    rig.listed()
    assert [(tell.message, tell.key) for tell in rig.did(actions.Tell)] == [(Adopt("1-2#5"), key), (Synced(), None)]
    assert rig.state("1-2#5") is State.ATTACHED


def test_what_went_while_the_monitor_was_away_is_gone_and_its_encoder_stopped() -> None:
    rig = attached()
    [key] = rig.encoders
    rig.monitor_dies()
    rig.monitor_connects()
    rig.plug(printer())
    assert rig.seen == {"1-2#5", "1-3#6"}
    rig.listed()
    assert rig.seen == {"1-3#6"}
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    assert rig.told(Adopt) == []


def test_a_device_that_was_replugged_meanwhile_is_a_new_one() -> None:
    rig = attached()
    rig.monitor_dies()
    rig.monitor_connects()
    rig.plug(stick(devnum=9))
    assert rig.seen == {"1-2#9"}
    rig.listed()
    rig.succeed()
    assert rig.state("1-2#9") is State.ATTACHED


def test_another_device_under_the_same_number_is_not_taken_for_the_first() -> None:
    rig = attached()
    [key] = rig.encoders
    rig.monitor_dies()
    rig.monitor_connects()
    rig.plug(stick(serial="B2"))
    rig.listed()
    assert actions.Stop(key) not in rig.log  # that was said when it was told
    assert rig.encoders[key].stopping
    rig.succeed()
    assert rig.state("1-2#5") is State.LOCAL


def test_while_the_monitor_is_away_devices_wait_for_it() -> None:
    rig = attached()
    rig.monitor_dies()
    rig.end(next(iter(rig.encoders)), Failure(1, "EncoderError", "killed"))
    status = rig.status("1-2#5")
    assert (status.state, status.error) == (State.WAITING, "ConnectionLostError")
    assert rig.engine.deadline == math.inf
    rig.wait(10)
    rig.begin(stick())
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_what_the_old_monitor_was_asked_for_the_new_one_is_asked_for_again() -> None:
    rig, key = opening()
    rig.monitor_dies()
    assert rig.did(DropOpened) == [DropOpened(key)]
    rig.begin(stick())
    [asked] = rig.told(Open)
    assert asked.request != key
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_device_that_is_detached_while_it_is_opened_is_dropped_when_it_comes() -> None:
    rig, key = opening()
    rig.detach()
    assert rig.state("1-2#5") is State.DETACHING
    rig.grant(key)
    assert rig.did(DropOpened) == [DropOpened(key)]
    assert rig.engine.busy
    rig.do(rig.engine.returned, "1-2#5")
    assert (rig.state("1-2#5"), rig.engine.busy, rig.sessions) == (State.LOCAL, False, {})


def test_a_refusal_of_what_nobody_wants_any_more_is_no_failure() -> None:
    rig, key = opening()
    rig.detach()
    rig.refuse(key, Failure(5, "RefusedError", "in use"))
    assert rig.state("1-2#5") is State.LOCAL


def test_detached_and_attached_again_while_it_is_opened() -> None:
    rig, key = opening()
    rig.detach()
    rig.attach()
    assert rig.told(Open) == []
    rig.grant(key)
    assert rig.did(DropOpened) == [DropOpened(key)]
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_attached_elsewhere_while_it_is_opened() -> None:
    rig, key = opening()
    rig.attach(vm="lab")
    rig.grant(key)
    assert rig.did(DropOpened) == [DropOpened(key)]
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").vm) == (State.ATTACHED, "lab")


def test_unplugged_while_it_is_opened() -> None:
    rig, key = opening()
    rig.unplug("1-2#5")
    rig.grant(key)
    assert rig.did(DropOpened) == [DropOpened(key)]
    assert not rig.engine.busy


def test_a_refusal_that_crosses_a_request_by_force_is_not_the_answer_to_it() -> None:
    rig, key = opening()
    rig.attach(force=True)
    rig.refuse(key, Failure(5, "RefusedError", "1-2 is in use"))
    assert [asked.force for asked in rig.told(Open)] == [True]


def test_a_device_that_could_not_be_opened_is_tried_again() -> None:
    rig, key = opening()
    rig.refuse(key, NO_NODE)
    assert (rig.state("1-2#5"), rig.status("1-2#5").retry_in) == (State.WAITING, 1)
    rig.wait(1)
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_refusal_for_good_lasts_until_the_rules_change() -> None:
    rig, key = opening()
    rig.refuse(key, Failure(3, "NotPermittedError", "no permission to open /dev/bus/usb/001/005"))
    assert (rig.state("1-2#5"), rig.engine.deadline) == (State.FAILED, math.inf)
    rig.plug(stick(verdict=Verdict.CONNECT))
    assert rig.state("1-2#5") is State.OPENING or rig.sessions
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_replugged_device_waits_for_the_channel_that_its_old_encoder_still_has() -> None:
    rig = Rig(choices=(A1,), channels={"desk": (0,)})
    rig.begin(stick())
    rig.succeed()
    [key] = rig.encoders
    rig.unplug("1-2#5")
    rig.plug(stick(devnum=8))
    assert rig.status("1-2#8").message.endswith("its only one is in use, by 1-2 (Stick)")
    rig.end(key)
    rig.succeed()
    assert rig.state("1-2#8") is State.ATTACHED


@pytest.mark.parametrize("key", [0, 77])
def test_words_about_unknown_things_change_nothing(key: int) -> None:
    rig = attached()
    before = rig.status("1-2#5")
    failure = Failure(1, "EncoderError", "?")
    for event in (
        lambda now: rig.engine.refused(key, failure, now),
        lambda now: rig.engine.encoder_started(key, 1, now),
        lambda now: rig.engine.progressed(key, "attached", "", now),
        lambda now: rig.engine.encoder_ended(key, failure, now),
        lambda now: rig.engine.gone("9-9#9", now),
        lambda now: rig.engine.returned("9-9#9", now),
        lambda now: rig.engine.session_failed("nowhere", failure, now),
        lambda now: rig.engine.session_lost("nowhere", failure, True, now),
    ):
        rig.do(event)
        assert rig.log == []
    assert rig.status("1-2#5") == before
    rig.engine.opened(key, rig.now)
    assert rig.engine.take_actions() == [DropOpened(key)]


def test_an_encoder_that_dies_before_it_has_a_device_is_heard_of_when_it_is_to_have_it() -> None:
    rig, key = opening()
    killed = Failure(1, "EncoderError", "killed")
    rig.do(rig.engine.encoder_ended, key, killed)
    assert (rig.log, rig.state("1-2#5")) == ([], State.OPENING)
    rig.grant(key)
    rig.end(key, killed)
    assert (rig.state("1-2#5"), rig.status("1-2#5").retry_in) == (State.WAITING, 1)


def test_a_vm_can_be_checked_without_the_monitor() -> None:
    rig = Rig()
    rig.do(rig.engine.vm_check, "desk")
    rig.refuse_session()
    assert rig.vm().retry_in == 1
    rig.wait(1)
    rig.connect()
    assert rig.vm().channels == 2
