"""The engine's surroundings, played by hand: a monitor, encoders and SPICE servers that do what a test tells them.

Every action is held against what it may be at that moment; so each scenario, and each random sequence of events, also
shows that no device has two encoders, no channel two devices, and no descriptor gets lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usbbridge.compat.rule import Verdict
from usbbridge.config import Config, Vm
from usbbridge.control import actions
from usbbridge.control.actions import Action, Failure
from usbbridge.control.engine import Engine
from usbbridge.errors import UsbBridgeError
from usbbridge.ipc import monitoring
from usbbridge.ipc.api import Attach, Choice, Detach, DeviceStatus, State, VmStatus
from usbbridge.ipc.monitoring import PluggedDevice
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry, Obstacle, Reason

WALL = 1_700_000_000.0
"Seconds since the epoch at the engine's time 0."

DESK = Vm("desk", ("spice://vmhost:5900",))
LAB = Vm("lab", ("spice://vmhost:5901",))
RAW = Vm("raw", ("tcp://vmhost:4000", "tcp://vmhost:4001"))

KILLED = Failure(1, "EncoderError", "the encoder process ended unexpectedly (signal SIGKILL)")
OFF = Failure(4, "PortClosedError", "Cannot connect to vmhost:5900: connection refused")
CUT = Failure(1, "ConnectionLostError", "the SPICE session was lost")
MOUNTED = Obstacle(Reason.IN_USE, "1-2 is in use: /dev/sda1 is mounted at /media", "umount /media")


def config(*vms: Vm, **fields: Any) -> Config:
    """A configuration with these VMs, the first of which is the default one."""
    return Config(vms=vms, **{"default_vm": vms[0].name if vms else "", **fields})


def stick(port: str = "1-2", devnum: int = 5, **fields: Any) -> PluggedDevice:
    """A memory stick that may be attached, and by itself is not."""
    told = {key: fields.pop(key) for key in ("verdict", "because", "rule", "quirks", "faces") if key in fields}
    entry = {"vendor": 0x0951, "product": 0x1666, "serial": "A1", "product_name": "Stick", "name": "Kingston Stick"}
    return PluggedDevice(
        f"{port}#{devnum}",
        DeviceEntry(
            bus_port=port,
            busnum=1,
            devnum=devnum,
            node=Path(f"/dev/bus/usb/001/{devnum:03}"),
            bcd_device=0x0100,
            class_=0,
            subclass=0,
            protocol=0,
            speed=Speed.HIGH,
            manufacturer="Kingston",
            configuration=1,
            interfaces=(InterfaceEntry(0, 0, 8, 6, 80, "usb-storage"),),
            **{**entry, **fields},
        ),
        **{"verdict": Verdict.ALLOW, **told},
    )


def printer(port: str = "1-3", devnum: int = 6, **fields: Any) -> PluggedDevice:
    """Another device."""
    names = {"vendor": 0x03F0, "product": 0x1234, "serial": "P1", "product_name": "Printer", "name": "HP Printer"}
    return stick(port, devnum, **{**names, **fields})


@dataclass
class Session:
    """One SPICE session, as a server has it."""

    vm: str
    connected: bool = False


@dataclass
class Encoder:
    """One encoder process."""

    start: actions.Start
    session: Session | None
    stopping: bool = False


@dataclass
class Rig:
    """The engine, and everything around it."""

    settings: Config = field(default_factory=lambda: config(DESK))
    choices: tuple[Choice, ...] = ()
    jitter: Callable[[], float] = lambda: 1.0
    now: float = 1000.0
    channels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    "USBREDIR channels of each VM that has not the usual two."

    def __post_init__(self) -> None:
        self.engine = Engine(jitter=self.jitter)
        self.log: list[Action] = []
        self.devices: dict[str, PluggedDevice] = {}
        self.monitor = self.synced = False
        self.opens: dict[int, monitoring.Open] = {}
        self.held: dict[int, str] = {}
        self.encoders: dict[int, Encoder] = {}
        self.sessions: dict[str, Session] = {}
        self.saved = self.choices
        self.seen: set[str] = set()
        self.vms: set[str] = set()
        self.do(self.engine.configure, self.settings)
        self.do(self.engine.load_choices, self.choices)

    # ---- telling the engine

    def do(self, event: Callable[..., Any], *arguments: Any) -> Any:
        """Tell the engine something, and carry out what it decides. The actions are in `log`."""
        self.log = []
        try:
            return event(*arguments, self.now)
        finally:
            for action in self.engine.take_actions():
                self.log.append(action)
                getattr(self, "_" + type(action).__name__.lower())(action)

    def wait(self, seconds: float) -> None:
        """Let time pass, with every tick that is due."""
        until = self.now + seconds
        while self.engine.deadline <= until:
            assert self.engine.deadline > self.now, "a tick brings nothing: a busy loop"
            self.now = self.engine.deadline
            self.do(self.engine.tick)
        self.now = until

    def begin(self, *devices: PluggedDevice) -> None:
        """The monitor connects, and tells these devices."""
        self.monitor_connects()
        for device in devices:
            self.plug(device)
        self.listed()

    def monitor_connects(self) -> None:
        self.monitor, self.devices = True, {}
        self.do(self.engine.monitor_connected)

    def listed(self) -> None:
        self.synced = True
        self.do(self.engine.listed)

    def monitor_dies(self) -> None:
        self.monitor = self.synced = False
        pending = {*self.opens, *self.held}
        self.do(self.engine.monitor_lost)
        assert not pending & {*self.opens, *self.held}, "what the monitor has promised is dropped"

    def plug(self, device: PluggedDevice) -> str:
        """A device is plugged in, or has changed."""
        self.devices = {i: d for i, d in self.devices.items() if d.entry.bus_port != device.entry.bus_port}
        self.devices[device.id] = device
        self.do(self.engine.device, device)
        return device.id

    def unplug(self, device: str) -> None:
        self.devices.pop(device, None)
        self.do(self.engine.gone, device)

    def attach(self, device: str = "1-2", vm: str = "", **fields: Any) -> str:
        result: str = self.do(self.engine.attach, Attach(device, vm=vm, **fields))
        return result

    def detach(self, device: str = "1-2", *, keep: bool = False) -> str:
        result: str = self.do(self.engine.detach, Detach(device, keep=keep))
        return result

    # ---- the others' answers

    def connect(self, vm: str = "desk") -> None:
        """The VM's session begins."""
        self.sessions[vm].connected = True
        self.do(self.engine.session_opened, vm, self.channels.get(vm, (0, 1)))

    def refuse_session(self, vm: str = "desk", failure: Failure = OFF) -> None:
        del self.sessions[vm]
        self.do(self.engine.session_failed, vm, failure)

    def lose_session(self, vm: str = "desk", *, alive: bool = False) -> None:
        del self.sessions[vm]
        self.do(self.engine.session_lost, vm, CUT, alive)

    def grant(self, key: int) -> None:
        """The monitor opens the device."""
        self.held[key] = self.opens.pop(key).device
        self.do(self.engine.opened, key)
        assert key not in self.held, "an opened device is given to an encoder, or dropped"

    def refuse(self, key: int, failure: Failure) -> None:
        del self.opens[key]
        self.do(self.engine.refused, key, failure)

    def reach(self, key: int, *steps: str) -> None:
        for step in steps or ("linked", "hello", "announced", "attached"):
            self.do(self.engine.progressed, key, step, "")

    def end(self, key: int, failure: Failure | None = None) -> None:
        """The encoder ends; the monitor gives the device back when that is not wanted elsewhere."""
        device = self.encoders.pop(key).start.device
        self.do(self.engine.encoder_ended, key, failure)
        if self.monitor and device in self.devices and not any(o.device == device for o in self.opens.values()):
            log = self.log
            self.do(self.engine.returned, device)
            self.log = log + self.log

    def succeed(self) -> None:
        """Everything that is under way succeeds, and what follows from that."""
        for _ in range(1000):
            connecting = [session.vm for session in self.sessions.values() if not session.connected]
            stopping = [key for key, encoder in self.encoders.items() if encoder.stopping]
            young = [k for k in self.encoders if self.phase(k) == "attaching" and k not in stopping]
            if connecting:
                self.connect(connecting[0])
            elif self.opens:
                self.grant(next(iter(self.opens)))
            elif stopping:
                self.end(stopping[0])
            elif young:
                self.reach(young[0])
            else:
                return
        raise AssertionError("it goes round in circles")

    # ---- what is

    def phase(self, key: int) -> str:
        return self.engine.world.attempts[key].phase.value

    def status(self, device: str) -> DeviceStatus:
        result: DeviceStatus = self.engine.device_status(device, self.now, WALL + self.now)
        return result

    def state(self, device: str) -> State:
        return self.status(device).state

    def vm(self, name: str = "desk") -> VmStatus:
        result: VmStatus = self.engine.vm_status(name, self.now)
        return result

    def key_of(self, device: str) -> int:
        """Of the device's encoder."""
        return next(key for key, encoder in self.encoders.items() if encoder.start.device == device)

    def did(self, kind: type[Action]) -> list[Any]:
        """Actions of this kind that followed from the last event."""
        return [action for action in self.log if isinstance(action, kind)]

    def told(self, kind: type[monitoring.Request]) -> list[Any]:
        """Messages to the monitor of this kind that followed from the last event."""
        return [tell.message for tell in self.did(actions.Tell) if isinstance(tell.message, kind)]

    # ---- carrying out actions, each where it may be

    def _opensession(self, action: actions.OpenSession) -> None:
        assert action.vm not in self.sessions
        assert action.settings.name == action.vm
        self.sessions[action.vm] = Session(action.vm)

    def _closesession(self, action: actions.CloseSession) -> None:
        del self.sessions[action.vm]

    def _tell(self, action: actions.Tell) -> None:
        assert self.synced, "nothing is said to a monitor that is not there or has not told all devices"
        message = action.message
        if isinstance(message, monitoring.Open):
            assert message.device in self.devices
            assert action.key == message.request
            assert action.key not in self.opens
            assert not any(encoder.start.device == message.device for encoder in self.encoders.values())
            assert not any(asked.device == message.device for asked in self.opens.values())
            self.opens[message.request] = message
        elif isinstance(message, monitoring.Adopt):
            assert action.key is not None
            assert self.encoders[action.key].start.device == message.device

    def _start(self, action: actions.Start) -> None:
        assert self.held.pop(action.key) == action.device
        session = self.sessions.get(action.vm)
        raw = action.channel is None
        assert raw or (session is not None and session.connected)
        for encoder in self.encoders.values():
            assert encoder.start.device != action.device, "one encoder a device"
            if raw:
                assert encoder.start.target != action.target, "one device a channel"
            elif encoder.session is session:
                assert encoder.start.channel != action.channel, "one device a channel"
        self.encoders[action.key] = Encoder(action, session)

    def _stop(self, action: actions.Stop) -> None:
        assert not self.encoders[action.key].stopping, "told once"
        self.encoders[action.key].stopping = True

    def _dropopened(self, action: actions.DropOpened) -> None:
        assert (self.opens.pop(action.request, None) is None) is not (self.held.pop(action.request, None) is None)

    def _savechoices(self, action: actions.SaveChoices) -> None:
        self.saved = action.choices

    def _changed(self, action: actions.Changed) -> None:
        self.seen.add(action.device)

    def _left(self, action: actions.Left) -> None:
        self.seen.discard(action.device)

    def _vmchanged(self, action: actions.VmChanged) -> None:
        self.vms.add(action.vm)

    def _vmleft(self, action: actions.VmLeft) -> None:
        self.vms.discard(action.vm)

    def _choiceschanged(self, action: actions.ChoicesChanged) -> None:
        assert self.engine.status(self.now, WALL, pid=1).choices == self.saved


def error_of(call: Callable[[], object]) -> UsbBridgeError:
    """The error that a request is answered with."""
    try:
        call()
    except UsbBridgeError as error:
        return error
    raise AssertionError("no error")
