"""Control's middle: tells the engine what happened, carries out what it decides, and answers the API's methods.

monitor_link ─┐                        ┌─► monitor_link, encoders, sessions, memory
sessions ─────┼─► Engine ─► actions ───┤
encoders ─────┤   (pure)               └─► api: events, and waiters for a state
api ──────────┘
"""

import asyncio
import logging
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final

from usbbridge import __version__, config
from usbbridge.config import Config
from usbbridge.control import actions
from usbbridge.control.actions import Action, Failure
from usbbridge.control.api import ApiServer
from usbbridge.control.encoder_process import COMMAND
from usbbridge.control.encoders import Encoders
from usbbridge.control.engine import Engine
from usbbridge.control.memory import Memory
from usbbridge.control.methods import Methods
from usbbridge.control.monitor_link import MonitorLink
from usbbridge.control.sessions import Sessions
from usbbridge.ipc import messages, monitoring
from usbbridge.ipc.api import DeviceStatus, State, Status
from usbbridge.ipc.codec import to_json
from usbbridge.ipc.listener import Listener, Peer

log = logging.getLogger(__name__)

MAX_DETAIL: Final = 200
"Characters of an encoder's detail to a step that are kept: it may come from the VM."

_LEVELS: Final = {State.WAITING: logging.WARNING, State.FAILED: logging.WARNING}


class Control:
    """One control process's parts, joined."""

    def __init__(self, settings: Config, command: tuple[str, ...] = COMMAND) -> None:
        self.config = settings
        self._loop = asyncio.get_running_loop()
        self.engine = Engine(jitter=lambda: random.uniform(0.5, 1.0))  # noqa: S311  # not for secrets
        self.link = MonitorLink(settings.paths.monitor_socket, self._monitor_said, self._monitor_lost)
        self.sessions = Sessions(
            lambda vm, channels: self.do(lambda now: self.engine.session_opened(vm, channels, now)),
            lambda vm, failure: self.do(lambda now: self.engine.session_failed(vm, failure, now)),
            lambda vm, failure, alive: self.do(lambda now: self.engine.session_lost(vm, failure, alive, now)),
        )
        self.encoders = Encoders(self._progressed, self._encoder_ended, command)
        self.memory = Memory(settings.paths.choices)
        self.api = ApiServer(Methods(self))
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._keys: dict[str, int] = {}
        "Device → the encoder that was started for it, until it is reaped."
        self._early: set[str] = set()
        self._shown: dict[str, DeviceStatus] = {}
        self._busy = self._closed = False
        self.ending = False
        "Devices are taken back for good."

    # ---- beginning and end

    async def begin(self, listener: Listener) -> None:
        """Load what is remembered, and begin with everything."""
        choices = self.memory.load()
        self.do(lambda now: self.engine.configure(self.config, now))
        self.do(lambda now: self.engine.load_choices(choices, now))
        await self.api.begin(listener.sock)
        self.encoders.begin()
        self.link.begin()

    async def take_back(self) -> None:
        """Take every device back, and wait until all are, or are to be given out again."""
        self.do(self.engine.end if self.ending else self.engine.suspend)
        await self.until(lambda: not (self.engine.busy and self.engine.suspended))

    async def close(self) -> None:
        """End everything; devices that were not taken back lose their encoders, and go back by that."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.api.close()
        await self.encoders.close()
        self.sessions.close_all()
        self.link.close()
        await self.memory.settled()

    def reload(self) -> None:
        """Read the configuration again. Raises UsbBridgeError, and goes on with the one there is."""
        settings = config.load(self.config.paths.config)
        if settings.paths != self.config.paths:
            log.warning("changed paths are used after a restart")
        self.config = settings
        self.api.look_up_rights()
        self.do(lambda now: self.engine.configure(settings, now))
        log.info("configuration read: %s", ", ".join(map(str, settings.files)) or "no files, all defaults")

    # ---- what happens

    def do(self, event: Callable[[float], Any]) -> Any:
        """Tell the engine, and carry out what follows. What cannot be carried out is an event of its own."""
        try:
            return event(self._loop.time())
        finally:  # a request that is refused may have changed something as well
            self._carry_out()

    def _carry_out(self) -> None:
        if self._closed:  # what ends now, ends because of that
            return
        if self._busy:  # an action has brought an event: whoever carries out that action goes on with its actions
            return
        self._busy = True
        try:
            changed: dict[tuple[str, str], None] = {}
            while todo := self.engine.take_actions():
                for action in todo:
                    try:
                        self._act(action, changed)
                    except Exception:  # ours to mend; the other devices' actions are carried out
                        log.exception("carrying out %s", type(action).__name__)
            for kind, name in changed:
                self._publish(kind, name)
        finally:
            self._busy = False
        self._set_timer()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _set_timer(self) -> None:
        deadline = self.engine.deadline
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline != math.inf:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.do(self.engine.tick)

    def _monitor_said(self, message: monitoring.Answer, fds: tuple[int, ...]) -> None:
        engine = self.engine
        if isinstance(message, monitoring.Opened) and len(fds) == 1:
            self.encoders.give(message.request, fds[0])
            self.do(lambda now: engine.opened(message.request, now))
            return
        for fd in fds:
            os.close(fd)
        match message:
            case monitoring.Welcome():
                self.do(engine.monitor_connected)
                self._publish("monitor", "")
            case monitoring.Plugged(device):
                self.do(lambda now: engine.device(device, now))
            case monitoring.Gone(device_id):
                self.do(lambda now: engine.gone(device_id, now))
            case monitoring.Listed():
                self.do(engine.listed)
            case monitoring.Returned(device_id):
                self._returned(device_id)
            case monitoring.Refused(request, status, error, text, hint):
                self._refused(request, Failure(status, error, text, hint))
            case monitoring.Opened(request):
                self._refused(request, Failure(1, "RemoteProtocolError", "the monitor sent no descriptor"))

    def _refused(self, request: int, failure: Failure) -> None:
        self.encoders.release(request)
        self.do(lambda now: self.engine.refused(request, failure, now))

    def _monitor_lost(self) -> None:
        self._early.clear()
        self.do(self.engine.monitor_lost)
        self.encoders.drop_reserved()
        self._publish("monitor", "")

    def _progressed(self, key: int, progressed: messages.Progressed) -> None:
        self.do(lambda now: self.engine.progressed(key, progressed.step, progressed.detail[:MAX_DETAIL], now))

    def _encoder_ended(self, key: int, failure: Failure | None, resets: int) -> None:
        devices = [device for device, other in self._keys.items() if other == key]
        self.do(lambda now: self.engine.encoder_ended(key, failure, now, resets))
        for device in devices:
            del self._keys[device]
            if device in self._early:
                self._returned(device)

    def _returned(self, device: str) -> None:
        """A device is back. The monitor may know that before we have reaped the encoder: then that is told first."""
        if device in self._keys:
            self._early.add(device)
        else:
            self._early.discard(device)
            self.do(lambda now: self.engine.returned(device, now))

    # ---- what follows

    def _act(self, action: Action, changed: dict[tuple[str, str], None]) -> None:
        match action:
            case actions.OpenSession(vm, settings):
                self.sessions.open(vm, settings)
            case actions.CloseSession(vm):
                self.sessions.close(vm)
            case actions.Tell():
                self._tell(action)
            case actions.Start():
                self._start(action)
            case actions.Stop(key):
                self.encoders.stop(key)
            case actions.DropOpened(request):
                self.encoders.drop(request)
            case actions.SaveChoices(choices):
                self.memory.save(choices)
            case actions.Changed(name):
                changed["device", name] = None
            case actions.Left(name):
                changed.pop(("device", name), None)
                changed["device-gone", name] = None
            case actions.VmChanged(name):
                changed["vm", name] = None
            case actions.VmLeft(name):
                changed.pop(("vm", name), None)
                changed["vm-gone", name] = None
            case actions.ChoicesChanged():
                changed["choices", ""] = None

    def _tell(self, tell: actions.Tell) -> None:
        if isinstance(tell.message, monitoring.Open):
            assert tell.key is not None
            try:
                lease = self.encoders.take(tell.key)
            except OSError as error:
                text = f"no encoder process can be started: {error.strerror or error}"
                self._refused(tell.key, Failure(1, "EncoderError", text))
                return
            self.link.send(tell.message, lease)
        elif isinstance(tell.message, monitoring.Adopt):
            known = None if tell.key is None else self.encoders.lease(tell.key)
            if known is not None:  # else it has just ended, and the device is given back at Synced
                self.link.send(tell.message, known)
        else:
            self.link.send(tell.message)

    def _start(self, start: actions.Start) -> None:
        ticket, settings = self.sessions.ticket(start.vm), start.settings
        self._keys[start.device] = start.key
        self.encoders.start(
            start.key,
            messages.Start(
                name=start.name,
                usbfs=True,
                target=start.target,
                session_id=ticket.session_id,
                channels=() if start.channel is None else (start.channel,),
                password=ticket.password,
                ca_file=str(settings.ca_file or ""),
                host_subject=settings.host_subject,
                compression=settings.compression,
                quirks=start.quirks,
            ),
        )
        pid = self.encoders.pid(start.key)
        if pid is not None:
            self.engine.encoder_started(start.key, pid, self._loop.time())

    def capture(self, status: DeviceStatus, connection: int, peer: Peer, *, headers_only: bool) -> None:
        """Have a device's encoder write to a connection what goes over the device's endpoints. If the encoder has just
        ended, nothing is written, and the connection's end tells."""
        entry = status.device.entry
        log.info("%s is captured%s by %s", entry, " (headers only)" if headers_only else "", peer)
        message = messages.Capture(entry.busnum, entry.devnum, status.device.descriptors, headers_only)
        key = self._keys.get(status.device.id)
        if key is not None:
            self.encoders.capture(key, message, connection)

    # ---- what is told

    def _publish(self, kind: str, name: str) -> None:
        now = self._loop.time()
        match kind:
            case "device":
                status = self.device_status(name)
                self._log(name, status)
                self.api.publish(kind, to_json(status) if self.api.has_subscribers else None)
            case "device-gone":
                self._shown.pop(name, None)
                log.info("%s is gone", name)
                self.api.publish(kind, {"id": name})
            case "vm" if self.api.has_subscribers:
                self.api.publish(kind, to_json(self.engine.vm_status(name, now)))
            case "vm-gone":
                self.api.publish(kind, {"name": name})
            case "choices" if self.api.has_subscribers:
                self.api.publish(kind, to_json(self.status().choices))
            case "monitor":
                self.api.publish(kind, {"connected": self.link.connected})

    def _log(self, name: str, status: DeviceStatus) -> None:
        """A line for each step of a device, none for what only counts on."""
        before = self._shown.get(name)
        self._shown[name] = status
        if status.device.entry.is_root_hub or (before is not None and _gist(before) == _gist(status)):
            return
        if before is None and status.state is State.LOCAL and not status.message:
            log.info("%s is plugged in: %s (%s)", status.device.entry, status.device.verdict, status.device.because)
            return
        channel = "" if status.channel is None else f" channel {status.channel}"
        where = f" {status.vm}{channel}" if status.vm else ""
        why = f": {status.message}" if status.message else ""
        log.log(_LEVELS.get(status.state, logging.INFO), "%s %s%s%s", status.device.entry, status.state, where, why)

    def _counters(self) -> dict[str, tuple[int, int]]:
        stats = self.encoders.stats
        return {device: (stats[key].to_vm, stats[key].from_vm) for device, key in self._keys.items() if key in stats}

    def now(self) -> float:
        """The time, as the engine counts it."""
        return self._loop.time()

    def device_status(self, name: str) -> DeviceStatus:
        """Of one device. Raises NotFoundError if it is gone."""
        counters = self._counters().get(name, (0, 0))
        return self.engine.device_status(name, self._loop.time(), time.time(), counters)

    def status(self) -> Status:
        """Everything."""
        return self.engine.status(
            self._loop.time(), time.time(), version=__version__, pid=os.getpid(), counters=self._counters()
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever something has happened."""
        while not condition():
            await self.next()

    async def next(self) -> None:
        """Wait until something has happened."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


def _gist(status: DeviceStatus) -> tuple[State, str | None, str]:
    """What deserves a line when it changes: not the steps of an attachment that is going well."""
    return status.state, status.vm, "" if status.state is State.ATTACHING else status.message
