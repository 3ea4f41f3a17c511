"""Control as a whole: real sockets and processes on every side of the engine."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.control import Bench, bench
from tests.fakes.monitor import plugged
from usbbridge.capture.pcapng import (
    ENHANCED_PACKET,
    INTERFACE_DESCRIPTION,
    INTERFACE_STATISTICS,
    SECTION_HEADER,
    Splitter,
)
from usbbridge.compat.rule import Verdict
from usbbridge.config import Vm
from usbbridge.control import world
from usbbridge.ipc.messages import Capture
from usbbridge.ipc.monitoring import Adopt, Open, Outcome, PluggedDevice, Refused, Synced
from usbbridge.loopback.vm import LoopbackVm

PASSWORD = "a ticket"
STICK = plugged()


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[LoopbackVm]:
    (tmp_path / "ticket").write_text(PASSWORD + "\n")
    with LoopbackVm(password=PASSWORD, channels=2) as running:
        yield running


def desk(vm: LoopbackVm, folder: Path) -> Vm:
    return Vm("desk", (vm.target,), password_file=folder / "ticket")


Scenario = Callable[[Bench], Awaitable[None]]


def run(folder: Path, vms: tuple[Vm, ...], scenario: Scenario, *devices: PluggedDevice) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30), bench(folder, *devices, vms=vms) as running:
            await scenario(running)

    asyncio.run(whole())


def test_a_device_is_attached_and_detached(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        attached = await client.result("attach", device="1-2")
        assert (attached["state"], attached["vm"], attached["channel"]) == ("attached", "desk", 0)
        assert attached["encoder"] in b.control.encoders.pids
        outcome = await b.monitor.hears(Outcome)
        assert (outcome.device, outcome.result) == (STICK.id, "attached")
        status = await client.result("status", stats=True)
        assert (status["devices"][0]["to_vm"], status["devices"][0]["from_vm"]) == (1234, 5678)
        assert status["vms"][0]["state"] == "connected"
        detached = await client.result("detach", device="1-2")
        assert detached["state"] == "local"
        assert b.monitor.leases == {}

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)
    assert vm.violations == []


def test_a_detached_device_is_answered_for_as_soon_as_it_is_back(
    vm: LoopbackVm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor often says so before the encoder has been reaped; then nothing is left to be waited for."""
    monkeypatch.setattr(world, "GIVE_BACK_SECONDS", 1000.0)

    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        for _ in range(5):
            await client.result("attach", device="1-2")
            assert (await client.result("detach", device="1-2"))["state"] == "local"

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_what_the_list_connects_goes_by_itself_and_again_after_its_encoder_died(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        client = await b.client()
        await client.result("subscribe")
        b.monitor.devices.clear()
        stick = plugged(verdict=Verdict.CONNECT)
        await b.monitor.hears(Synced)
        b.monitor.plug(stick)
        first = await client.state("attached")
        os.kill(first["encoder"], signal.SIGKILL)
        waiting = await client.state("waiting")
        assert "SIGKILL" in waiting["message"]
        assert waiting["retry_in"] <= 0.1
        again = await client.state("attached")
        assert again["encoder"] != first["encoder"]

    run(tmp_path, (desk(vm, tmp_path),), scenario)


def test_encoders_outlive_the_monitor_and_are_adopted_by_the_next(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        client = await b.client()
        await b.monitor.hears(Synced)
        attached = await client.result("attach", device="1-2")
        await client.result("subscribe")
        b.monitor.stop()
        assert (await client.event(lambda name, _: name == "monitor")) == {"connected": False}
        b.monitor.restart()
        adopted = await b.monitor.hears(Adopt)
        assert adopted.device == STICK.id
        await b.monitor.hears(Synced)
        assert b.monitor.of(Open) == []
        (device,) = (await client.result("status"))["devices"]
        assert (device["state"], device["encoder"]) == ("attached", attached["encoder"])
        assert (await client.result("detach", device="1-2"))["state"] == "local"

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_a_capture_comes_from_the_devices_encoder_on_the_connection_that_asked(vm: LoopbackVm, tmp_path: Path) -> None:
    stick = replace(STICK, descriptors="1201")

    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        await client.result("attach", device="1-2")
        reader = await b.client()
        assert (await reader.result("capture", device="kingston", headers_only=True))["state"] == "attached"
        kinds = [(block.kind, block.data) for block in Splitter().feed(await reader.rest())]
        assert [kind for kind, _ in kinds] == [
            SECTION_HEADER,
            INTERFACE_DESCRIPTION,
            ENHANCED_PACKET,
            INTERFACE_STATISTICS,
        ]
        assert repr(Capture(1, 7, "1201", headers_only=True)).encode() in kinds[2][1]
        assert await client.result("status"), "other connections go on"

    run(tmp_path, (desk(vm, tmp_path),), scenario, stick)


def test_what_is_not_at_a_vm_can_not_be_captured(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        assert (await client.call("capture", device="1-2"))["error"]["error"] == "RefusedError"
        assert (await client.call("capture", device="9-9"))["error"]["error"] == "NotFoundError"
        assert await client.result("status"), "the connection is still one for lines"

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_a_refusal_is_the_answer_and_its_encoder_serves_the_next(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        pids = b.control.encoders.pids
        b.monitor.refusal = lambda asked: Refused(asked.request, 5, "RefusedError", "its disk is in use", "unmount it")
        client = await b.client()
        answer = await client.call("attach", device="1-2")
        assert answer["error"] == {
            "status": 5,
            "error": "RefusedError",
            "message": "its disk is in use",
            "hint": "unmount it",
        }
        b.monitor.refusal = lambda asked: None
        assert (await client.result("attach", device="1-2"))["encoder"] == pids[0]

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_a_device_that_is_not_wanted_any_more_when_it_comes_goes_back(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        b.monitor.silent = True
        client = await b.client()
        await client.result("attach", device="1-2", wait=False)
        await b.monitor.hears(Open)
        b.monitor.disconnect()
        b.monitor.silent = False
        assert (await client.result("detach", device="1-2"))["state"] == "local"

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_devices_wait_in_a_queue_for_channels(vm: LoopbackVm, tmp_path: Path) -> None:
    sticks = [plugged(f"1-{n}", n, serial=f"S{n}") for n in (1, 2, 3)]

    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        states = [(await client.result("attach", device=f"1-{n}"))["state"] for n in (1, 2, 3)]
        assert states == ["attached", "attached", "queued"]
        await client.result("subscribe")
        await client.result("detach", device="1-1")
        await client.state("attached", "1-3#3")

    run(tmp_path, (desk(vm, tmp_path),), scenario, *sticks)


def test_raw_targets_are_channels_without_a_session(tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        attached = await client.result("attach", device="1-2")
        assert (attached["state"], attached["channel"]) == ("attached", None)

    run(tmp_path, (Vm("raw", ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")),), scenario, STICK)


def test_a_vm_that_is_not_there_is_waited_for(vm: LoopbackVm, tmp_path: Path) -> None:
    gone = Vm("gone", ("spice://127.0.0.1:1",))

    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        waiting = await client.result("attach", device="1-2")
        assert (waiting["state"], waiting["error"]) == ("waiting", "PortClosedError")
        assert (await client.result("vm-check", vm="desk"))["state"] == "connected"
        checked = await client.result("vm-check", vm="gone")
        assert (checked["state"], checked["status"]) == ("waiting", 4)

    run(tmp_path, (gone, desk(vm, tmp_path)), scenario, STICK)


def test_a_vm_without_channels_is_not_connected_to_again_and_again(tmp_path: Path) -> None:
    """Each try would end the session of a viewer."""

    async def scenario(b: Bench) -> None:
        checked = await (await b.client()).result("vm-check", vm="bare")
        assert (checked["state"], checked["channels"], checked["status"]) == ("failed", 0, 4)
        assert "usb-redir" in checked["hint"]

    with LoopbackVm(channels=0) as bare:
        run(tmp_path, (Vm("bare", (bare.target,)),), scenario)


def test_a_raw_port_that_is_checked_is_connected_to(tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        client = await b.client()
        assert (await client.result("vm-check", vm="there"))["status"] == 0
        closed = await client.result("vm-check", vm="closed")
        assert (closed["state"], closed["error"], closed["status"]) == ("failed", "PortClosedError", 4)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = Vm("there", (f"tcp://127.0.0.1:{listener.getsockname()[1]}",))
        run(tmp_path, (there, Vm("closed", ("tcp://127.0.0.1:1",))), scenario)


def test_what_follows_from_a_refused_request_is_carried_out_at_once(tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        before = b.control.engine.take_actions()
        answer = await client.call("attach", device="1-2", vm="spice://127.0.0.1:2", remember="serial")
        assert (before, answer["error"]["error"]) == ([], "UsageError")
        assert b.control.engine.take_actions() == []

    plain = replace(STICK, entry=replace(STICK.entry, serial=""))
    run(tmp_path, (), scenario, plain)


def test_a_wrong_password_is_not_tried_again(vm: LoopbackVm, tmp_path: Path) -> None:
    settings = desk(vm, tmp_path)
    (tmp_path / "ticket").write_text("wrong\n")

    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        answer = await client.call("attach", device="1-2")
        assert (answer["error"]["error"], answer["error"]["status"]) == ("WrongTicketError", 3)

    run(tmp_path, (settings,), scenario, STICK)


def test_a_lost_session_is_opened_again_and_the_device_is_there_again(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        first = await client.result("attach", device="1-2")
        await client.result("subscribe")
        await asyncio.to_thread(vm.kill)
        await client.event(lambda name, data: name == "vm" and data["state"] == "connected")
        again = await client.state("attached")
        assert again["encoder"] != first["encoder"]

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_what_was_chosen_is_remembered_by_the_next_process(vm: LoopbackVm, tmp_path: Path) -> None:
    async def first(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        assert (await client.result("attach", device="1-2"))["remembered"]

    run(tmp_path, (desk(vm, tmp_path),), first, STICK)
    assert '"4C530001"' in (tmp_path / "choices.json").read_text()

    async def reattached(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        assert (await client.result("attach", device="1-2"))["state"] == "attached"
        assert len(b.monitor.of(Open)) == 1, "it was on its way by itself"

    run(tmp_path, (desk(vm, tmp_path),), reattached, STICK)


def test_suspend_takes_everything_back_and_resume_brings_it_again(vm: LoopbackVm, tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        client = await b.client()
        await client.result("attach", device="1-2")
        await client.result("subscribe")
        assert await client.result("suspend") == {}
        assert b.monitor.leases == {}
        status = await client.result("status")
        assert (status["suspended"], status["devices"][0]["state"]) == (True, "suspended")
        assert await client.result("resume") == {}
        await client.state("attached")

    run(tmp_path, (desk(vm, tmp_path),), scenario, STICK)


def test_a_reload_brings_a_new_vm_and_keeps_the_old_configuration_if_it_is_wrong(tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        client = await b.client()
        b.config.paths.config.write_text('[vm.new]\ntarget = "tcp://127.0.0.1:1"\n')
        assert await client.result("reload") == {}
        assert [vm["name"] for vm in (await client.result("status"))["vms"]] == ["new"]
        b.config.paths.config.write_text('[vm.new]\ntarget = "nonsense"\n')
        answer = await client.call("reload")
        assert answer["error"]["status"] == 2
        assert [vm["name"] for vm in (await client.result("status"))["vms"]] == ["new"]

    run(tmp_path, (), scenario)
