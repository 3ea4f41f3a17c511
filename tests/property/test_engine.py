"""Whatever happens, and in whatever order: what the engine decides is possible, and in the end every device is where
somebody wants it, or it is said why not.

What each single action may be is checked by the rig that carries it out.
"""

import contextlib
import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.control.engine_rig import CUT, DESK, KILLED, LAB, MOUNTED, OFF, RAW, Rig, config, stick
from usbbridge.compat.rule import Verdict
from usbbridge.config import Assign, Config, Vm
from usbbridge.control.actions import Failure
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc.api import Attach, Detach, Forget, Remember, SessionState, State
from usbbridge.ipc.monitoring import PluggedDevice

pytestmark = pytest.mark.timeout(420)
"A failing sequence is made shorter for five minutes at the most."

PORTS = ("1-1", "1-2", "1-3", "2-1")
SERIALS = ("", "A1", "B2")
VMS = ("", "desk", "lab", "raw", "spice://elsewhere:5900", "tcp://vmhost:4000", "nowhere")
CONFIGS = (
    config(DESK, LAB, RAW),
    config(LAB, DESK),
    config(Vm("desk", ("spice://other:5900",)), RAW, assignments=(Assign("raw", "1-3"),)),
    config(),
)
FAILURES = (
    OFF,
    CUT,
    KILLED,
    Failure(5, "ChannelBusyError", "busy"),
    Failure(1, "BadSessionError", "unknown session"),
    Failure(3, "WrongTicketError", "wrong password"),
    Failure(5, "RefusedError", "the VM's filter rejects it"),
    Failure(1, "SomethingNewError", "from a later version"),
)
WITH_CHANNEL = (State.OPENING, State.ATTACHING, State.ATTACHED)
AT_REST = (State.LOCAL, State.ATTACHED, State.QUEUED, State.FAILED)


class Events(RuleBasedStateMachine):
    """Anything that can happen, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(CONFIGS[0])
        self.devnum = 10
        self.suspended = False

    @initialize(there=st.lists(st.sampled_from(PORTS), unique=True), verdict=st.sampled_from(Verdict))
    def begin(self, there: list[str], verdict: Verdict) -> None:
        self.rig.begin(
            *(stick(port, serial=serial, verdict=verdict) for port, serial in zip(there, "AAB", strict=False))
        )

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        self.rig.succeed()

    # ---- devices and the monitor

    @precondition(lambda self: self.rig.monitor)
    @rule(
        port=st.sampled_from(PORTS),
        serial=st.sampled_from(SERIALS),
        verdict=st.sampled_from(Verdict),
        mounted=st.booleans(),
    )
    def plug(self, port: str, serial: str, verdict: Verdict, mounted: bool) -> None:
        self.devnum += 1
        self.rig.plug(
            stick(port, self.devnum, serial=serial, verdict=verdict, obstacle=MOUNTED if mounted and serial else None)
        )

    @precondition(lambda self: self.rig.devices)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict), mounted=st.booleans())
    def change(self, data: st.DataObject, verdict: Verdict, mounted: bool) -> None:
        old = data.draw(st.sampled_from(list(self.rig.devices.values())))
        self.rig.plug(self._altered(old, verdict, mounted=mounted))

    @staticmethod
    def _altered(old: PluggedDevice, verdict: Verdict, *, mounted: bool) -> PluggedDevice:
        e = old.entry
        obstacle = MOUNTED if mounted else None
        return stick(e.bus_port, e.devnum, serial=e.serial, verdict=verdict, obstacle=obstacle)

    @precondition(lambda self: self.rig.devices)
    @rule(data=st.data())
    def unplug(self, data: st.DataObject) -> None:
        self.rig.unplug(data.draw(st.sampled_from(sorted(self.rig.devices))))

    @rule()
    def monitor_dies(self) -> None:
        if self.rig.monitor:
            self.rig.monitor_dies()

    @precondition(lambda self: not self.rig.monitor)
    @rule(data=st.data())
    def monitor_starts(self, data: st.DataObject) -> None:
        known = list(self.rig.devices.values())
        self.rig.monitor_connects()
        for device in known:
            if data.draw(st.booleans()):
                self.rig.plug(device)
        if data.draw(st.booleans()):
            self.rig.listed()

    @precondition(lambda self: self.rig.monitor and not self.rig.synced)
    @rule()
    def listed(self) -> None:
        self.rig.listed()

    @precondition(lambda self: self.rig.opens)
    @rule(data=st.data(), failure=st.none() | st.sampled_from(FAILURES))
    def answer_open(self, data: st.DataObject, failure: Failure | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.rig.opens)))
        if failure is None:
            self.rig.grant(key)
        else:
            self.rig.refuse(key, failure)

    # ---- encoders and sessions

    @precondition(lambda self: self.rig.encoders)
    @rule(data=st.data(), step=st.sampled_from(("linked", "announced", "attached", "attached")))
    def progress(self, data: st.DataObject, step: str) -> None:
        self.rig.reach(data.draw(st.sampled_from(sorted(self.rig.encoders))), step)

    @precondition(lambda self: self.rig.encoders)
    @rule(data=st.data(), failure=st.none() | st.sampled_from(FAILURES))
    def encoder_ends(self, data: st.DataObject, failure: Failure | None) -> None:
        self.rig.end(data.draw(st.sampled_from(sorted(self.rig.encoders))), failure)

    @precondition(lambda self: self.rig.sessions)
    @rule(
        data=st.data(), failure=st.none() | st.sampled_from(FAILURES), channels=st.integers(0, 3), alive=st.booleans()
    )
    def session(self, data: st.DataObject, failure: Failure | None, channels: int, alive: bool) -> None:
        vm = data.draw(st.sampled_from(sorted(self.rig.sessions)))
        if self.rig.sessions[vm].connected:
            if failure is not None:
                self.rig.lose_session(vm, alive=alive)
        elif failure is None:
            self.rig.channels[vm] = tuple(range(channels))
            self.rig.connect(vm)
        else:
            self.rig.refuse_session(vm, failure)

    # ---- people

    @rule(
        device=st.sampled_from(PORTS),
        vm=st.sampled_from(VMS),
        remember=st.sampled_from(Remember),
        force=st.booleans(),
    )
    def attach(self, device: str, vm: str, remember: Remember, force: bool) -> None:
        self._ask(lambda now: self.rig.engine.attach(Attach(device, vm=vm, remember=remember, force=force), now))

    @rule(device=st.sampled_from(PORTS), keep=st.booleans())
    def detach(self, device: str, keep: bool) -> None:
        self._ask(lambda now: self.rig.engine.detach(Detach(device, keep=keep), now))

    @rule(device=st.sampled_from((*PORTS, "kingston")))
    def forget(self, device: str) -> None:
        self._ask(lambda now: self.rig.engine.forget(Forget(device), now))

    @rule(vm=st.sampled_from(VMS))
    def check(self, vm: str) -> None:
        self._ask(lambda now: self.rig.engine.vm_check(vm, now))

    def _ask(self, request: Callable[[float], object]) -> None:
        with contextlib.suppress(UsbBridgeError):  # nothing else
            self.rig.do(request)

    @rule(new=st.sampled_from(CONFIGS))
    def reload(self, new: Config) -> None:
        self.rig.do(self.rig.engine.configure, new)

    @rule(suspended=st.booleans())
    def suspend_or_resume(self, suspended: bool) -> None:
        self.suspended = suspended
        self.rig.do(self.rig.engine.suspend if suspended else self.rig.engine.resume)

    @rule(seconds=st.sampled_from((0.0, 0.3, 1.0, 7.0, 61.0, 400.0)))
    def time_passes(self, seconds: float) -> None:
        self.rig.wait(seconds)

    # ---- what always holds

    @invariant()
    def the_devices_shown_are_those_that_are_there(self) -> None:
        shown = {device.device.id for device in self.rig.engine.status(self.rig.now, 0.0, pid=1).devices}
        assert shown == self.rig.seen
        assert not self.rig.synced or shown == set(self.rig.devices)
        assert {vm.name for vm in self.rig.engine.status(self.rig.now, 0.0, pid=1).vms} == self.rig.vms

    @invariant()
    def every_encoder_belongs_to_a_device_or_is_being_stopped(self) -> None:
        for key, encoder in self.rig.encoders.items():
            shown = encoder.start.device in self.rig.seen
            assert encoder.stopping or (shown and self.rig.state(encoder.start.device) in WITH_CHANNEL), key

    @invariant()
    def a_device_is_queued_only_if_all_channels_are_in_use(self) -> None:
        world = self.rig.engine.world
        for device in world.devices.values():
            if device.view is not None and device.view.state is State.QUEUED:
                vm = world.vms.find(device.view.vm or "")
                assert vm is not None
                assert vm.free(world.used(vm), self.rig.now) is None
                assert "in use, by " in device.view.message

    @invariant()
    def what_waits_for_a_time_says_for_which_and_is_looked_at_then(self) -> None:
        assert self.rig.engine.deadline > self.rig.now
        status = self.rig.engine.status(self.rig.now, 0.0, pid=1)
        retries = [device.retry_in for device in status.devices] + [vm.retry_in for vm in status.vms]
        waits = [seconds for seconds in retries if seconds is not None]
        if self.rig.synced and waits and not self.suspended:
            assert self.rig.engine.deadline <= self.rig.now + min(waits) + 1e-6
        for vm in status.vms:
            assert vm.retry_in is None or vm.state is SessionState.WAITING
            assert vm.retry_in is not None or vm.state is not SessionState.WAITING or not self.rig.synced
        for device in status.devices:
            assert device.message or device.state not in (State.WAITING, State.FAILED, State.QUEUED)

    @invariant()
    def nothing_is_waited_for_without_need(self) -> None:
        world = self.rig.engine.world
        waits = any(device.wish or device.returning is not None for device in world.devices.values())
        if not waits and all(vm.kept_until is None for vm in world.vms):
            assert self.rig.engine.deadline == math.inf

    @invariant()
    def a_suspended_machine_wants_nothing(self) -> None:
        if self.suspended:
            assert all(encoder.stopping for encoder in self.rig.encoders.values())
            assert self.rig.encoders or self.rig.opens or not self.rig.sessions

    def teardown(self) -> None:
        """When nothing fails any more, every device comes to rest, where it is wanted."""
        rig = self.rig
        if not rig.monitor:
            rig.begin(*rig.devices.values())
        elif not rig.synced:
            rig.listed()
        rig.do(rig.engine.resume)
        rig.channels = {}
        rig.succeed()
        for _ in range(60):
            if rig.engine.deadline == math.inf:
                break
            rig.wait(rig.engine.deadline - rig.now)
            rig.succeed()
        assert rig.engine.deadline == math.inf, "it never comes to rest"
        for device in rig.engine.world.devices.values():
            view = device.view
            assert view is not None
            yielded = view.state is State.WAITING and view.vm and rig.vm(view.vm).state is SessionState.YIELDED
            mounted = view.state is State.WAITING and device.entry.obstacle is not None
            assert view.state in AT_REST or yielded or mounted, view
        assert not rig.held


Events.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestEvents = Events.TestCase
