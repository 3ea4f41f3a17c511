"""What happens to everything at once: another configuration, sleep, and the end."""

import math

from tests.unit.control.engine_rig import DESK, LAB, RAW, Rig, config, error_of, printer, stick
from usbbridge.compat.rule import Verdict
from usbbridge.config import Assign, Vm
from usbbridge.control import actions
from usbbridge.control.actions import Failure, VmLeft
from usbbridge.errors import RefusedError
from usbbridge.ipc.api import Forget, Remember, SessionState, State

MOVED = Vm("desk", ("spice://other:5900",))
WRONG = Failure(3, "WrongTicketError", "vmhost refused the password")


def attached(*vms: Vm, vm: str = "", verdict: Verdict = Verdict.ALLOW) -> Rig:
    rig = Rig(config(*vms))
    rig.begin(stick(verdict=verdict))
    if verdict is Verdict.ALLOW:
        rig.attach(vm=vm)
    rig.succeed()
    return rig


# ---- configuration


def test_the_same_configuration_again_changes_nothing() -> None:
    rig = attached(DESK, LAB)
    rig.do(rig.engine.configure, config(DESK, LAB))
    assert rig.log == []


def test_a_vm_that_moved_is_followed() -> None:
    rig = attached(DESK)
    [key] = rig.encoders
    rig.do(rig.engine.configure, config(MOVED))
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    assert [type(a) for a in rig.log if not isinstance(a, actions.Changed | actions.VmChanged | actions.Stop)] == [
        actions.CloseSession,
        actions.OpenSession,
    ]
    rig.succeed()
    assert rig.encoders[rig.key_of("1-2#5")].start.target == "spice://other:5900"


def test_new_settings_of_a_vm_that_stays_where_it_is_are_used_the_next_time() -> None:
    rig = attached(DESK)
    changed = Vm("desk", DESK.targets, compression="never")
    rig.do(rig.engine.configure, config(changed))
    assert rig.state("1-2#5") is State.ATTACHED
    assert rig.engine.vm("desk") == changed


def test_a_vm_that_is_removed_gives_its_devices_back() -> None:
    rig = attached(DESK, LAB, vm="lab")
    rig.do(rig.engine.configure, config(DESK))
    assert rig.did(VmLeft) == [VmLeft("lab")]
    assert rig.vms == {"desk"}
    rig.succeed()
    status = rig.status("1-2#5")
    assert (status.state, status.error, status.vm) == (State.FAILED, "NotFoundError", "lab")
    rig.do(rig.engine.configure, config(DESK, LAB))
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").vm) == (State.ATTACHED, "lab")


def test_what_a_rule_sent_to_a_vm_goes_where_the_new_configuration_says() -> None:
    rig = attached(DESK, LAB, verdict=Verdict.CONNECT)
    assert rig.status("1-2#5").vm == "desk"
    rig.do(rig.engine.configure, config(DESK, LAB, assignments=(Assign("lab", "0951:*"),)))
    rig.succeed()
    assert rig.status("1-2#5").vm == "lab"


def test_a_target_that_becomes_a_configured_vm_is_that_vm() -> None:
    rig = attached(DESK, vm="spice://vmhost:5901")
    rig.do(rig.engine.configure, config(DESK, LAB))
    rig.succeed()
    assert (rig.state("1-2#5"), rig.status("1-2#5").vm) == (State.ATTACHED, "lab")
    assert rig.vms == {"desk", "lab"}


def test_what_was_given_up_is_tried_again_under_a_new_configuration() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.refuse_session(failure=WRONG)
    assert rig.state("1-2#5") is State.FAILED
    rig.do(rig.engine.configure, config(DESK))
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_another_kind_of_target_is_another_vm() -> None:
    rig = attached(DESK)
    rig.do(rig.engine.configure, config(Vm("desk", RAW.targets)))
    rig.succeed()
    assert (rig.encoders[rig.key_of("1-2#5")].start.channel, rig.sessions) == (None, {})


# ---- sleep


def test_a_machine_that_goes_to_sleep_takes_everything_back_and_wants_it_again_when_it_wakes() -> None:
    rig = attached(DESK)
    [key] = rig.encoders
    rig.do(rig.engine.suspend)
    assert rig.did(actions.Stop) == [actions.Stop(key)]
    assert (rig.did(actions.CloseSession), rig.engine.busy) == ([], True)
    rig.end(key)
    assert rig.did(actions.CloseSession) == [actions.CloseSession("desk")]
    assert (rig.state("1-2#5"), rig.engine.busy, rig.engine.deadline) == (State.SUSPENDED, False, math.inf)
    assert isinstance(error_of(rig.attach), RefusedError)
    rig.do(rig.engine.resume)
    rig.succeed()
    assert rig.state("1-2#5") is State.ATTACHED


def test_a_service_that_ends_says_so_and_nothing_of_sleep() -> None:
    rig = attached(DESK)
    [key] = rig.encoders
    rig.do(rig.engine.end)
    rig.end(key)
    status = rig.engine.device_status("1-2#5", rig.now, 0.0)
    assert (status.state, status.message) == (State.SUSPENDED, "taken back, as the service ends")
    assert "about to end" in str(error_of(rig.attach))


def test_a_device_that_the_sleep_has_given_another_number_is_still_wanted_and_a_detached_one_is_not() -> None:
    rig = Rig()
    rig.begin(stick(), printer(verdict=Verdict.CONNECT))
    rig.attach(remember=Remember.NO)
    rig.succeed()
    rig.detach("1-3")
    rig.do(rig.engine.suspend)
    rig.succeed()
    rig.do(rig.engine.resume)
    rig.unplug("1-2#5")
    rig.unplug("1-3#6")
    rig.now += 3
    rig.plug(stick(devnum=15))
    rig.plug(printer(devnum=16, verdict=Verdict.CONNECT))
    rig.succeed()
    assert (rig.state("1-2#15"), rig.state("1-3#16")) == (State.ATTACHED, State.LOCAL)


def test_what_is_plugged_in_long_after_waking_up_is_new() -> None:
    rig = attached(DESK)
    rig.do(rig.engine.forget, Forget(all=True))
    rig.do(rig.engine.suspend)
    rig.succeed()
    rig.unplug("1-2#5")
    rig.do(rig.engine.resume)
    rig.now += 31
    rig.plug(stick(devnum=15))
    assert rig.state("1-2#15") is State.LOCAL


def test_a_request_on_its_way_is_answered_before_the_machine_sleeps() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    rig.connect()
    rig.do(rig.engine.suspend)
    assert rig.engine.busy
    rig.grant(next(iter(rig.opens)))
    rig.do(rig.engine.returned, "1-2#5")
    assert (rig.engine.busy, rig.sessions) == (False, {})


def test_after_waking_up_no_failure_from_before_is_waited_for() -> None:
    rig = Rig()
    rig.begin(stick())
    rig.attach()
    for _ in range(5):
        rig.refuse_session()
        rig.wait(rig.engine.deadline - rig.now)
    rig.do(rig.engine.suspend)
    assert rig.vm().state is SessionState.IDLE
    rig.do(rig.engine.resume)
    assert rig.vm().state is SessionState.CONNECTING


def test_a_session_that_is_opened_too_late_is_closed() -> None:
    rig = Rig()
    rig.engine.session_opened("desk", (0,), rig.now)
    assert rig.engine.take_actions() == [actions.CloseSession("desk")]


# ---- everything at a glance


def test_the_status_holds_it_all() -> None:
    rig = attached(DESK, LAB)
    rig.now += 60
    status = rig.engine.status(rig.now, 5000.0, version="1.2", pid=42, counters={"1-2#5": (10, 20)})
    assert (status.version, status.pid, status.monitor, status.suspended) == ("1.2", 42, True, False)
    [device] = status.devices
    assert (device.since, device.to_vm, device.from_vm) == (4940.0, 10, 20)
    assert [(vm.name, vm.default, vm.target) for vm in status.vms] == [
        ("desk", True, "spice://vmhost:5900"),
        ("lab", False, "spice://vmhost:5901"),
    ]
    assert [choice.vm for choice in status.choices] == ["desk"]
