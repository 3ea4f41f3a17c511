"""The MAIN channel as control keeps it, against the loopback VM's server."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.unit.spice.secured import connected
from usbbridge.control import session as module
from usbbridge.control.session import Session
from usbbridge.errors import ConnectionLostError, UsbBridgeError
from usbbridge.loopback.server import SpiceConnection
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.connection import open_channel, open_main
from usbbridge.spice.errors import NoSessionError, PortClosedError, SilentServerError, WrongTicketError
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.secure import SecureSocket
from usbbridge.spice.sockets import TlsOptions
from usbbridge.spice.targets import SpiceTarget, parse_target

PASSWORD = "a ticket"


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(password=PASSWORD, channels=2) as running:
        yield running


def target_of(vm: LoopbackVm) -> SpiceTarget:
    target = parse_target(vm.target)
    assert isinstance(target, SpiceTarget)
    return target


def forget(error: UsbBridgeError) -> None:
    raise AssertionError(f"the session was lost: {error}")


async def opened(vm: LoopbackVm, password: str = PASSWORD) -> Session:
    return await Session.open(target_of(vm), password, TlsOptions(), forget)


def test_a_session_has_an_id_and_channels(vm: LoopbackVm) -> None:
    async def run() -> tuple[int, tuple[int, ...]]:
        session = await opened(vm)
        known = session.session_id, session.usb_channels()
        session.close()
        session.close()
        return known

    session_id, channels = asyncio.run(run())
    assert session_id > 0
    assert channels == (0, 1)
    assert vm.violations == []


def test_channels_can_be_linked_while_it_is_open(vm: LoopbackVm) -> None:
    async def run() -> None:
        session = await opened(vm)
        linked = await asyncio.to_thread(
            open_channel,
            target_of(vm),
            ChannelType.USBREDIR,
            0,
            connection_id=session.session_id,
            password=PASSWORD,
        )
        linked.sock.close()
        session.close()

    asyncio.run(run())


def test_a_wrong_ticket_is_told(vm: LoopbackVm) -> None:
    with pytest.raises(WrongTicketError):
        asyncio.run(opened(vm, "wrong"))


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PortClosedError):
        asyncio.run(Session.open(SpiceTarget("127.0.0.1", port), "", TlsOptions(), forget))


def test_the_end_of_the_session_is_told_once(vm: LoopbackVm) -> None:
    async def run() -> list[UsbBridgeError]:
        lost: list[UsbBridgeError] = []
        over = asyncio.Event()

        def on_lost(error: UsbBridgeError) -> None:
            lost.append(error)
            over.set()

        await Session.open(target_of(vm), PASSWORD, TlsOptions(), on_lost)
        vm.kill()
        await over.wait()
        return lost

    (error,) = asyncio.run(run())
    assert isinstance(error, ConnectionLostError)


def test_a_second_client_ends_the_first_ones_session_and_the_message_says_so(vm: LoopbackVm) -> None:
    async def run() -> UsbBridgeError:
        lost: asyncio.Future[UsbBridgeError] = asyncio.get_running_loop().create_future()
        await Session.open(target_of(vm), PASSWORD, TlsOptions(), lost.set_result)
        second = await opened(vm)
        error = await lost
        second.close()
        return error

    error = asyncio.run(run())
    assert "ended the session" in error.message
    assert "Another SPICE client has connected" in error.hint


@pytest.fixture
def vm_that(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackVm]:
    """A server that links MAIN, and then does something else than begin a session."""
    monkeypatch.setattr(SpiceConnection, "_begin_main", lambda self, link: request.param(self.transport))
    with LoopbackVm(password=PASSWORD) as running:
        yield running


@pytest.mark.parametrize("vm_that", [lambda transport: None], indirect=True, ids=["says nothing"])
def test_a_session_that_does_not_begin_is_given_up(vm_that: LoopbackVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_main", partial(open_main, timeout=0.1))
    with pytest.raises((NoSessionError, SilentServerError)):
        asyncio.run(opened(vm_that))


@pytest.mark.parametrize("vm_that", [lambda transport: transport.close()], indirect=True, ids=["goes"])
def test_a_server_that_ends_before_the_session_begins_is_told(vm_that: LoopbackVm) -> None:
    with pytest.raises(NoSessionError, match="closed the connection"):
        asyncio.run(opened(vm_that))


def test_an_opening_that_is_not_wanted_any_more_leaves_nothing_behind(vm: LoopbackVm) -> None:
    """The blocking part goes on in its thread, and what it brings is closed."""

    async def run() -> None:
        opening = asyncio.ensure_future(opened(vm))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        working = [t for t in threading.enumerate() if "work" in t.name or t.name.startswith("Thread-")]
        for thread in working:  # unless it has ended already
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)

    asyncio.run(run())


class Talkative:
    """In the place of MAIN: to whatever it hears it has a long answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._window = answer, memoryview(bytearray(100))

    def buffer(self) -> memoryview:
        return self._window

    def received(self, n: int) -> None:
        pass

    def take_output(self) -> bytes:
        answer, self._answer = self._answer, b""
        return answer


def test_what_tls_has_encrypted_and_the_socket_has_no_room_for_goes_when_it_has(tmp_path: Path) -> None:
    answer = bytes(60_000)

    def hear(theirs: ssl.SSLSocket) -> bytes:
        theirs.settimeout(20)
        got = b""
        while len(got) < len(answer):
            got += theirs.recv(1 << 14)
        return got

    async def run(ours: SecureSocket, theirs: ssl.SSLSocket) -> bytes:
        session = Session(ours, Talkative(answer), forget)
        theirs.sendall(b"well?")
        got = await asyncio.to_thread(hear, theirs)
        session.close()
        return got

    with connected(tmp_path) as (ours, theirs):
        assert asyncio.run(run(ours, theirs)) == answer
