"""Sessions by name: opened as configured, lost with the reason, closed without a word."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from usbbridge.config import Vm
from usbbridge.control.actions import Failure
from usbbridge.control.sessions import Sessions, Ticket, answers, read_password
from usbbridge.errors import NotPermittedError, UsageError
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.targets import SpiceTarget, parse_target

PASSWORD = "a ticket"
SECONDS = 20.0


@pytest.fixture
def vm() -> Iterator[LoopbackVm]:
    with LoopbackVm(password=PASSWORD, channels=2) as running:
        yield running


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    (tmp_path / "ticket").write_text(f"{PASSWORD}\r\na second line\n")
    return tmp_path / "ticket"


class Rig:
    """Sessions, and what they have told."""

    def __init__(self) -> None:
        self.opened: dict[str, tuple[int, ...]] = {}
        self.failed: dict[str, Failure] = {}
        self.lost: dict[str, tuple[Failure, bool]] = {}
        self._happened = asyncio.Event()
        self.sessions = Sessions(
            lambda vm, channels: self._note(self.opened, vm, channels),
            lambda vm, failure: self._note(self.failed, vm, failure),
            lambda vm, failure, alive: self._note(self.lost, vm, (failure, alive)),
        )

    def _note(self, where: dict, vm: str, what: object) -> None:
        where[vm] = what
        self._happened.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._happened.clear()
                await self._happened.wait()


def run(scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        rig = Rig()
        await scenario(rig)
        rig.sessions.close_all()
        await asyncio.sleep(0)

    asyncio.run(whole())


def test_one_is_opened_with_the_password_of_its_file(vm: LoopbackVm, ticket: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sessions.open("desk", Vm("desk", (vm.target,), password_file=ticket))
        await rig.until(lambda: rig.opened)
        assert rig.opened == {"desk": (0, 1)}
        found = rig.sessions.ticket("desk")
        assert found.session_id > 0
        assert found.password == PASSWORD
        rig.sessions.close("desk")
        assert rig.sessions.ticket("desk") == Ticket()

    run(scenario)
    assert vm.violations == []


def test_each_failure_is_told_as_what_it_is(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sessions.open("no password", Vm("a", (vm.target,)))
        rig.sessions.open("nobody", Vm("b", ("spice://127.0.0.1:1",)))
        rig.sessions.open("no file", Vm("c", (vm.target,), password_file=tmp_path / "nothing"))
        rig.sessions.open("no CA", Vm("d", ("spice+tls://127.0.0.1:1",), ca_file=tmp_path / "nothing"))
        await rig.until(lambda: len(rig.failed) == 4)
        found = {name: failure.error for name, failure in rig.failed.items()}
        assert found == {
            "no password": "WrongTicketError",
            "nobody": "PortClosedError",
            "no file": "UsageError",
            "no CA": "UsageError",
        }
        assert rig.opened == {}

    run(scenario)


def test_a_vm_without_channels_is_told_as_one() -> None:
    async def scenario(rig: Rig) -> None:
        with LoopbackVm(channels=0) as bare:
            rig.sessions.open("bare", Vm("bare", (bare.target,)))
            await rig.until(lambda: rig.opened or rig.failed)
        assert (rig.opened, rig.failed) == ({"bare": ()}, {})

    run(scenario)


def test_one_that_is_taken_over_is_lost_while_the_server_is_alive(vm: LoopbackVm, ticket: Path) -> None:
    async def scenario(rig: Rig) -> None:
        settings = Vm("desk", (vm.target,), password_file=ticket)
        rig.sessions.open("desk", settings)
        await rig.until(lambda: rig.opened)
        rig.sessions.open("another client", settings)
        await rig.until(lambda: rig.lost)
        failure, alive = rig.lost["desk"]
        assert alive
        assert failure.message

    run(scenario)


def test_one_that_was_closed_is_not_told_of_again(vm: LoopbackVm, ticket: Path) -> None:
    async def scenario(rig: Rig) -> None:
        settings = Vm("desk", (vm.target,), password_file=ticket)
        rig.sessions.open("desk", settings)
        rig.sessions.close("desk")
        rig.sessions.close("desk")
        rig.sessions.open("desk", settings)
        await rig.until(lambda: rig.opened)
        rig.sessions.close("desk")
        await asyncio.to_thread(vm.kill)
        await asyncio.sleep(0)
        assert (rig.failed, rig.lost) == ({}, {})

    run(scenario)


def test_a_server_answers_or_not(vm: LoopbackVm) -> None:
    target = parse_target(vm.target)
    assert isinstance(target, SpiceTarget)
    assert answers(target)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not answers(SpiceTarget("127.0.0.1", port))
    assert not answers(SpiceTarget(socket_path="/nonexistent"))


def test_an_empty_password_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="nothing in its first line"):
        read_password(tmp_path / "empty")
    assert read_password(None) == ""


def test_a_password_file_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, mode: str) -> None:  # the tests may run as root, who is denied nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(NotPermittedError, match="may not be read"):
        read_password(tmp_path / "secret")
