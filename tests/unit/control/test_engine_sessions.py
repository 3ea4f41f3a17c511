"""VMs that are off, reboot, vanish, or belong to somebody else for now; encoders that die."""

import math

import pytest

from tests.unit.control.engine_rig import CUT, DESK, KILLED, OFF, Rig, config, error_of, printer, stick
from usbbridge.config import Retry
from usbbridge.control import actions
from usbbridge.control.actions import Failure
from usbbridge.errors import RefusedError
from usbbridge.ipc.api import SessionState, State
from usbbridge.ipc.monitoring import Open, Outcome

WRONG = Failure(3, "WrongTicketError", "vmhost refused the password: it is wrong or has expired", "Check the password")
FILTER = Failure(5, "RefusedError", "the VM's filter rejects the device")


def attached() -> Rig:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.succeed()
    return rig


def test_a_vm_that_is_off_is_tried_after_growing_waits_and_found_when_it_is_on() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    waits = []
    for _ in range(8):
        rig.refuse_session()
        status = rig.status("1-2#5")
        assert (status.state, status.message, status.retry_in) == (State.WAITING, OFF.message, rig.vm().retry_in)
        waits.append(rig.engine.deadline - rig.now)
        rig.wait(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_waits_are_shortened_by_jitter_and_bounded_as_configured() -> None:
    rig = Rig(config(DESK, retry=Retry(first=2, longest=5)), jitter=lambda: 0.5)
    rig.begin(stick())
    rig.attach()
    waits = []
    for _ in range(4):
        rig.refuse_session()
        waits.append(rig.engine.deadline - rig.now)
        rig.wait(waits[-1])
    assert waits == [1, 2, 2.5, 2.5]


def test_somebody_who_attaches_does_not_have_to_wait_for_the_next_try() -> None:
    rig = Rig()
    rig.begin(stick(), printer())
    rig.attach()
    for _ in range(5):
        rig.refuse_session()
        rig.wait(rig.engine.deadline - rig.now)
    rig.refuse_session()
    rig.attach("1-3")
    assert [action.vm for action in rig.did(actions.OpenSession)] == ["desk"]


def test_a_vm_that_is_switched_off_and_on_gets_its_device_back() -> None:
    rig = attached()
    [key] = rig.encoders
    rig.now += 100
    rig.lose_session()
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    rig.end(key, CUT)
    assert (rig.state("1-2#5"), rig.vm().state) == (State.WAITING, SessionState.WAITING)
    rig.wait(1)
    rig.refuse_session()
    rig.wait(2)
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").attempts) == (State.ATTACHED, 0)


def test_the_session_is_opened_again_while_the_old_encoder_still_ends() -> None:
    rig = attached()
    [key] = rig.encoders
    rig.lose_session()
    rig.wait(1)
    assert len(rig.sessions) == 1
    rig.connect()
    assert rig.told(Open) == []
    rig.end(key, CUT)
    assert len(rig.told(Open)) == 1


def test_an_encoder_that_notices_first_makes_no_difference() -> None:
    rig = attached()
    rig.end(next(iter(rig.encoders)), CUT)
    assert rig.state("1-2#5") is State.WAITING
    rig.lose_session()
    rig.wait(1)
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_vm_that_somebody_else_takes_over_twice_is_left_to_them() -> None:
    rig = attached()
    for _ in range(2):
        rig.now += 100
        rig.lose_session(alive=True)
        rig.succeed()
        rig.wait(1)
        rig.succeed()
    assert (rig.vm().state, rig.state("1-2#5")) == (SessionState.YIELDED, State.WAITING)
    assert rig.status("1-2#5").message == "another SPICE client has taken desk over"
    assert rig.engine.deadline == math.inf
    rig.unplug("1-2#5")
    rig.plug(stick(devnum=8))
    assert (rig.vm().state, rig.sessions) == (SessionState.YIELDED, {})
    assert isinstance(error_of(lambda: rig.do(rig.engine.vm_check, "desk")), RefusedError)
    rig.attach()
    rig.succeed()
    assert rig.state("1-2#8") is State.ATTACHED


def test_losing_the_session_now_and_then_is_no_takeover() -> None:
    rig = attached()
    for _ in range(3):
        rig.now += 301
        rig.lose_session(alive=True)
        rig.succeed()
        rig.wait(1)
        rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_wrong_password_is_not_tried_again_until_somebody_asks() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.refuse_session(failure=WRONG)
    status = rig.status("1-2#5")
    assert (status.state, status.error, status.status) == (State.FAILED, "WrongTicketError", 3)
    assert (status.message, status.hint) == (WRONG.message, WRONG.hint)
    assert (rig.vm().state, rig.engine.deadline) == (SessionState.FAILED, math.inf)
    rig.attach()
    assert len(rig.did(actions.OpenSession)) == 1
    rig.refuse_session(failure=WRONG)
    rig.unplug("1-2#5")
    rig.plug(stick(devnum=8))
    assert len(rig.did(actions.OpenSession)) == 1


def test_a_vm_without_channels_says_what_it_lacks() -> None:
    rig = Rig(channels={"desk": ()})
    rig.begin(stick())
    rig.attach()
    rig.connect()
    assert (rig.vm().state, rig.vm().channels, rig.sessions) == (SessionState.FAILED, 0, {})
    assert (rig.state("1-2#5"), rig.status("1-2#5").error) == (State.FAILED, "NotFoundError")
    assert "usb-redir" in rig.status("1-2#5").hint


def test_a_session_that_the_server_has_forgotten_is_opened_anew() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    rig.grant(next(iter(rig.opens)))
    rig.end(next(iter(rig.encoders)), Failure(1, "BadSessionError", "desk does not know session 0x1"))
    assert rig.did(actions.CloseSession) == [actions.CloseSession("desk")]
    rig.wait(1)
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_device_whose_encoder_was_killed_is_tried_again_after_the_first_wait() -> None:
    rig = attached()
    rig.now += 5
    rig.end(next(iter(rig.encoders)), KILLED)
    assert [(o.result, o.error, o.seconds) for o in rig.told(Outcome)] == [("ended", "EncoderError", 5)]
    status = rig.status("1-2#5")
    assert (status.state, status.retry_in, status.attempts, status.error) == (State.WAITING, 1, 1, "EncoderError")
    assert rig.vm().state is SessionState.CONNECTED
    rig.wait(1)
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").attempts) == (State.ATTACHED, 0)


def test_what_dies_again_and_again_waits_longer_and_after_a_minute_of_work_starts_afresh() -> None:
    rig = attached()
    waits = []
    for worked in (0, 0, 59, 60, 0):
        rig.now += worked
        rig.end(next(iter(rig.encoders)), KILLED)
        waits.append(rig.status("1-2#5").retry_in)
        rig.wait(waits[-1] or 0)
        rig.succeed()
    assert waits == [1, 2, 4, 1, 2]


def test_an_encoder_that_somebody_told_to_end_is_no_success_either() -> None:
    rig = attached()
    rig.end(next(iter(rig.encoders)), None)
    assert (rig.state("1-2#5"), rig.status("1-2#5").error) == (State.WAITING, "EncoderError")


def test_a_rejection_by_the_vms_filter_is_final_and_its_session_is_closed() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    rig.grant(next(iter(rig.opens)))
    rig.end(next(iter(rig.encoders)), FILTER)
    assert (rig.state("1-2#5"), rig.status("1-2#5").message) == (State.FAILED, FILTER.message)
    assert [(o.result, o.error) for o in rig.told(Outcome)] == [("failed", "RefusedError")]
    assert (rig.sessions, rig.engine.deadline) == ({}, math.inf)
    rig.attach()
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


@pytest.mark.parametrize("failure", [OFF, CUT])
def test_the_way_to_the_vm_says_nothing_about_the_device(failure: Failure) -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    rig.grant(next(iter(rig.opens)))
    rig.end(next(iter(rig.encoders)), failure)
    assert rig.told(Outcome) == []


def test_a_vm_can_be_checked_and_its_session_is_closed_a_moment_later() -> None:
    rig = Rig()
    assert rig.do(rig.engine.vm_check, "") == "desk"
    rig.connect()
    assert (rig.vm().state, rig.vm().channels) == (SessionState.CONNECTED, 2)
    rig.wait(10)
    assert (rig.sessions, rig.vm().state, rig.vm().channels) == ({}, SessionState.IDLE, 2)
    assert rig.engine.deadline == math.inf


def test_a_check_that_fails_says_so_and_is_over_soon() -> None:
    rig = Rig()
    rig.do(rig.engine.vm_check, "spice://other:5900")
    rig.refuse_session("spice://other:5900")
    assert (rig.vm("spice://other:5900").state, rig.vm("spice://other:5900").error) == (
        SessionState.WAITING,
        "PortClosedError",
    )
    rig.wait(60)
    assert (rig.vms, rig.sessions) == ({"desk"}, {})


def test_a_vm_that_nobody_waits_for_any_more_is_not_tried_again() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.refuse_session()
    rig.detach()
    assert (rig.vm().state, rig.vm().message, rig.engine.deadline) == (SessionState.IDLE, "", math.inf)
