"""What the methods of control's API do (`usbbridge.ipc.api`): ask the engine, wait until it has settled, and answer."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from usbbridge.control.actions import Failure
from usbbridge.control.api import FailureError
from usbbridge.control.session import in_thread
from usbbridge.control.sessions import reach
from usbbridge.errors import ConnectionLostError, NotFoundError, NotPermittedError, RefusedError, UsbBridgeError
from usbbridge.ipc import api, permissions
from usbbridge.ipc.api import DeviceStatus, Right, SessionState, State
from usbbridge.ipc.codec import to_json
from usbbridge.ipc.listener import Peer
from usbbridge.spice.targets import SpiceTarget, parse_target

if TYPE_CHECKING:
    from usbbridge.control.dispatch import Control

_ON_ITS_WAY: Final = frozenset({State.OPENING, State.ATTACHING, State.DETACHING})


class Methods:
    """A `usbbridge.control.api.Service`."""

    def __init__(self, control: "Control") -> None:
        self._control, self._engine = control, control.engine

    def rights(self, peer: Peer) -> frozenset[Right]:
        """What a client may do."""
        return permissions.rights(peer, self._control.config.access, os.geteuid())

    def lacking(self, peer: Peer, right: Right) -> NotPermittedError:
        """Says whom to ask for what."""
        if right is Right.ADMIN:
            return NotPermittedError("only root may do that", hint="use sudo")
        groups = [group for group in self._control.config.access.groups if permissions.group_id(group) is not None]
        if not groups:
            return NotPermittedError("this user may not do that", hint="the configuration's [access] says who may")
        return NotPermittedError(
            f"only members of the group {' or '.join(groups)} may do that",
            hint=f"join it (usermod -aG {groups[0]} NAME, as root), and log in again",
        )

    async def call(self, method: str, parameters: Any) -> Any:
        """The result of a method; `usbbridge.ipc.api` describes them."""
        match parameters:
            case api.AskStatus(stats):
                if stats:
                    await self._control.encoders.ask_stats()
                return to_json(self._control.status())
            case api.Attach():
                return to_json(await self._attach(parameters))
            case api.Detach():
                return to_json(await self._detach(parameters))
            case api.Capture():
                return to_json(self._captured(parameters))
            case api.Forget():
                return to_json(self._control.do(lambda now: self._engine.forget(parameters, now)))
            case api.VmName(vm):
                return to_json(await self._check(vm))
        return await self._administer(method)

    def hand_over(self, method: str, parameters: Any, connection: int, peer: Peer) -> None:
        """The client has been told that its capture begins: let it."""
        assert isinstance(parameters, api.Capture), method
        self._control.capture(self._captured(parameters), connection, peer, headers_only=parameters.headers_only)

    def _captured(self, request: api.Capture) -> DeviceStatus:
        """The device that is to be captured. Raises UsageError, NotFoundError, and RefusedError if no VM has it."""
        status = self._control.device_status(self._engine.find(request.device, request.serial))
        if status.state is not State.ATTACHED:
            raise RefusedError(
                f"{status.device.entry} is not attached to a VM: there is nothing to be captured",
                hint="attach it first; to see its first transfers too: usbbridge attach --foreground --capture FILE",
            )
        return status

    async def _administer(self, method: str) -> Any:
        match method:
            case "suspend":
                await self._control.take_back()
            case "resume" if self._control.ending:
                raise RefusedError("the service is ending")
            case "resume":
                self._control.do(self._engine.resume)
            case "reload":
                self._control.reload()
        return {}

    async def _attach(self, request: api.Attach) -> DeviceStatus:
        name = self._control.do(lambda now: self._engine.attach(request, now))
        if not request.wait:
            return self._control.device_status(name)
        status = await self._settled(name, self._is_attached_or_waits)
        if status is None:
            raise ConnectionLostError(f"{name} was unplugged meanwhile")
        if status.state in (State.FAILED, State.LOCAL, State.SUSPENDED):
            message = status.message or f"{status.device.entry} was detached meanwhile"
            raise FailureError(Failure(status.status or 1, status.error or "UsbBridgeError", message, status.hint))
        return status

    async def _detach(self, request: api.Detach) -> DeviceStatus:
        name = self._control.do(lambda now: self._engine.detach(request, now))
        before = self._control.device_status(name)
        status = await self._settled(name, lambda status: status.state not in _ON_ITS_WAY)
        return before if status is None else status  # unplugged: it can't be further back than that

    async def _check(self, vm: str) -> api.VmStatus:
        name = self._control.do(lambda now: self._engine.vm_check(vm, now))
        await self._control.until(lambda: not self._is_connecting(name))
        status = self._engine.vm_status(name, self._control.now())
        return await self._reached(name, status)

    async def _reached(self, name: str, status: api.VmStatus) -> api.VmStatus:
        """A raw VM has no session that says how it is: its ports are connected to, unless we use them."""
        for target in map(parse_target, () if status.used else self._engine.vm(name).targets):
            if isinstance(target, SpiceTarget):
                return status
            try:
                await in_thread(partial(reach, target))
            except UsbBridgeError as error:
                why = Failure.of(error)
                return replace(
                    status,
                    state=SessionState.FAILED,
                    message=why.message,
                    hint=why.hint,
                    error=why.error,
                    status=why.status,
                )
        return status

    def _is_attached_or_waits(self, status: DeviceStatus) -> bool:
        """Waiting for a VM that is just being reached is no answer yet."""
        if status.state is State.WAITING and status.vm is not None and status.retry_in is None:
            return not self._is_connecting(status.vm)
        return status.state not in _ON_ITS_WAY

    def _is_connecting(self, vm: str) -> bool:
        try:
            return self._engine.vm_status(vm, self._control.now()).state is SessionState.CONNECTING
        except NotFoundError:  # it has just left the configuration
            return False

    async def _settled(self, name: str, settled: Callable[[DeviceStatus], bool]) -> DeviceStatus | None:
        """The device's status when it has settled; None if it is gone."""
        while True:
            try:
                status = self._control.device_status(name)
            except UsbBridgeError:
                return None
            if settled(status):
                return status
            await self._control.next()
