"""The API's server: lines, rights, limits; and what it says to those who keep to none."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.control import ApiClient, Bench, bench, descriptors, until
from tests.fakes.monitor import plugged
from usbbridge import __version__
from usbbridge.control import api as module
from usbbridge.control.api import ApiServer
from usbbridge.errors import NotPermittedError, RefusedError
from usbbridge.ipc import api
from usbbridge.ipc.api import Right, Status
from usbbridge.ipc.codec import from_json
from usbbridge.ipc.listener import Peer, listen
from usbbridge.ipc.monitoring import Synced

ALL = frozenset(Right)


class FakeService:
    """A service whose methods the test ends."""

    def __init__(self) -> None:
        self.may = ALL
        self.called: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.size = 0
        self.taken: list[socket.socket] = []
        "Connections that were handed over."

    def rights(self, peer: Peer) -> frozenset[Right]:
        return self.may

    def lacking(self, peer: Peer, right: Right) -> NotPermittedError:
        return NotPermittedError(f"{right} is not for you", hint="ask")

    async def call(self, method: str, parameters: Any) -> Any:
        self.called.append(parameters)
        await self.gate.wait()
        match parameters:
            case api.Attach(device="refused"):
                raise RefusedError("no", hint="leave it")
            case api.Attach(device="bug"):
                raise ZeroDivisionError
        return {"method": method, "filling": "x" * self.size}

    def hand_over(self, method: str, parameters: Any, connection: int, peer: Peer) -> None:
        self.taken.append(socket.socket(fileno=os.dup(connection)))


class Rig:
    """A server, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.service = FakeService()
        self.server = ApiServer(self.service)
        self.clients: list[ApiClient] = []

    async def client(self) -> ApiClient:
        client = await ApiClient.connect(self.path)
        self.clients.append(client)
        return client

    async def greeted(self) -> ApiClient:
        client = await self.client()
        await client.line()
        return client


def run(folder: Path, scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        before = descriptors()
        rig = Rig(folder)
        listener = listen(rig.path, socket.SOCK_STREAM)
        await rig.server.begin(listener.sock)
        try:
            async with asyncio.timeout(30):
                await scenario(rig)
        finally:
            for client in rig.clients:
                client.writer.close()
            await rig.server.close()
            listener.close()
        await until(lambda: descriptors() <= before)

    asyncio.run(whole())


def test_it_speaks_first(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        greeting = await (await rig.client()).line()
        assert greeting == {"usbbridge": 1, "version": __version__, "may": ["view", "attach", "admin"]}

    run(tmp_path, scenario)


def test_each_request_has_an_answer_with_its_id(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        client.writer.write(b'{"id": 1, "method": "status"}\n{"id": "two", "method": "status", "params": {}}\n')
        assert [(await client.line() or {})["id"] for _ in range(2)] == [1, "two"]

    run(tmp_path, scenario)


def test_a_request_in_pieces_is_one(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        for byte in b'{"id": 1, "method": "status"}\n':
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert "result" in (await client.line() or {})

    run(tmp_path, scenario)


def test_errors_are_told_with_status_class_and_hint(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        answer = await client.call("attach", device="refused")
        assert answer["error"] == {"status": 5, "error": "RefusedError", "message": "no", "hint": "leave it"}
        assert (await client.call("attach", device="bug"))["error"]["error"] == "InternalError"
        assert "result" in await client.call("status")

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "params"),
    [("fly", {}), ("attach", {"device": 1}), ("attach", {"speed": "high"}), ("attach", {"remember": "often"})],
)
def test_what_it_does_not_know_is_an_error_of_usage_and_no_more(tmp_path: Path, method: str, params: Any) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        assert (await client.call(method, **params))["error"]["status"] == 2
        assert rig.service.called == []
        assert "result" in await client.call("status")

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b"{}\n",
        b'{"id": true, "method": "status"}\n',
        b'{"id": 1.5, "method": "status"}\n',
        b'{"id": 1, "method": 2}\n',
        b'{"id": 1, "method": "status", "params": []}\n',
        b'{"id": 1, "method": "status", "more": 1}\n',
        b'{"id": "' + b"x" * 100 + b'", "method": "status"}\n',
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b"x" * (api.MAX_REQUEST + 1),
        b" " * api.MAX_REQUEST + b"{}\n",
    ],
)
def test_who_sends_garbage_is_told_and_disconnected(tmp_path: Path, garbage: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        client.writer.write(garbage)
        answer = await client.line()
        assert answer is not None
        assert (answer["id"], answer["error"]["status"]) == (None, 2)
        assert await client.line() is None
        assert rig.service.called == []

    run(tmp_path, scenario)


def test_rights_are_looked_at_for_each_method(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service.may = frozenset({Right.VIEW})
        client = await rig.client()
        assert (await client.line() or {})["may"] == ["view"]
        assert "result" in await client.call("status")
        for method in ("attach", "detach", "forget", "vm-check", "suspend", "resume", "reload"):
            answer = await client.call(method)
            assert (answer["error"]["status"], answer["error"]["hint"]) == (3, "ask")
        assert len(rig.service.called) == 1

    run(tmp_path, scenario)


def test_events_follow_the_answer_to_subscribe(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client, other = await rig.greeted(), await rig.greeted()
        rig.server.publish("device", {"n": 0})
        assert not rig.server.has_subscribers
        assert "result" in await client.call("subscribe")
        rig.server.publish("device", {"n": 1})
        assert await client.line() == {"event": "device", "data": {"n": 1}}
        assert "result" in await other.call("status")
        assert other.events == []

    run(tmp_path, scenario)


def test_a_subscriber_whose_right_is_taken_hears_no_more(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        await client.call("subscribe")
        rig.service.may = frozenset()
        rig.server.look_up_rights()
        assert not rig.server.has_subscribers

    run(tmp_path, scenario)


def test_a_subscriber_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        await client.call("subscribe")
        client.writer.transport.pause_reading()
        for _ in range(100):
            rig.server.publish("device", "x" * 100_000)
        await asyncio.sleep(0)
        assert rig.server.clients == 0

    run(tmp_path, scenario)


def test_a_client_that_leaves_takes_its_waiting_requests_along(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service.gate.clear()
        client = await rig.greeted()
        client.writer.write(b'{"id": 1, "method": "status"}\n')
        await until(lambda: bool(rig.service.called))
        client.writer.close()
        await until(lambda: rig.server.clients == 0)
        rig.service.gate.set()

    run(tmp_path, scenario)


def test_requests_beyond_the_limit_are_read_when_others_are_answered(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service.gate.clear()
        client, number = await rig.greeted(), module.MAX_PENDING * 2
        for n in range(number):
            client.writer.write(json.dumps({"id": n, "method": "status"}).encode() + b"\n")
        await until(lambda: len(rig.service.called) == module.MAX_PENDING)
        other = await rig.greeted()
        other.writer.write(b'{"id": 1, "method": "status"}\n')
        await until(lambda: len(rig.service.called) == module.MAX_PENDING + 1)
        rig.service.gate.set()
        assert {(await client.line() or {})["id"] for _ in range(number)} == set(range(number))

    run(tmp_path, scenario)


def test_too_many_clients_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 2)

    async def scenario(rig: Rig) -> None:
        first, _ = await rig.greeted(), await rig.greeted()
        refused = await rig.client()
        error = (await refused.line() or {})["error"]
        assert (error["status"], "too many" in error["message"]) == (5, True), "it is no mistake of the one who asks"
        assert await refused.line() is None
        first.writer.close()
        await until(lambda: rig.server.clients == 1)
        assert "usbbridge" in (await (await rig.client()).line() or {})

    run(tmp_path, scenario)


def test_one_user_can_not_shut_the_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PER_USER", 1)
    uids = iter((1000, 1000, 1001, 0, 0))
    monkeypatch.setattr(module, "peer_of", lambda sock: Peer(1, next(uids), 1000))

    async def scenario(rig: Rig) -> None:
        greetings = [await (await rig.client()).line() or {} for _ in range(5)]
        assert ["error" in greeting for greeting in greetings] == [False, True, False, False, False]

    run(tmp_path, scenario)


# ---- the methods, served by control


def test_a_status_is_what_its_documentation_says(tmp_path: Path) -> None:
    async def scenario(b: Bench) -> None:
        await b.monitor.hears(Synced)
        status = from_json(Status, await (await b.client()).result("status"), "a status")
        assert status.monitor
        assert [device.device for device in status.devices] == [plugged()]

    async def whole() -> None:
        async with bench(tmp_path, plugged()) as running:
            await scenario(running)

    asyncio.run(whole())


def test_who_may_not_attach_is_told_which_group_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer_of", lambda sock: Peer(1, 54321, 54321))

    async def whole() -> None:
        async with bench(tmp_path, plugged()) as b:
            error = (await (await b.client()).call("attach", device="1-2"))["error"]
            assert (error["status"], error["error"]) == (3, "NotPermittedError")
            assert "plugdev" in error["message"]
            assert "usermod -aG" in error["hint"]
            assert "root" in (await (await b.client()).call("suspend"))["error"]["message"]

    asyncio.run(whole())


def test_a_device_that_is_unknown_or_denied_is_no_attachment(tmp_path: Path) -> None:
    async def whole() -> None:
        async with bench(tmp_path, plugged()) as b:
            await b.monitor.hears(Synced)
            client = await b.client()
            assert (await client.call("attach", device="9-9", vm="tcp://127.0.0.1:1"))["error"]["status"] == 4
            assert (await client.call("attach", device="1-2", vm="nonsense"))["error"]["status"] in (2, 4)

    asyncio.run(whole())


def test_after_a_capture_is_granted_the_connection_is_for_it_alone(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        assert (await client.result("capture", device="1-2"))["method"] == "capture"
        (taken,) = rig.service.taken
        await until(lambda: rig.server.clients == 0)
        taken.sendall(b"a capture")
        taken.close()
        assert await client.rest() == b"a capture"

    run(tmp_path, scenario)


def test_a_capture_is_for_those_who_may_attach(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service.may = frozenset({Right.VIEW})
        client = await rig.greeted()
        assert (await client.call("capture", device="1-2"))["error"]["status"] == 3
        assert rig.service.taken == []

    run(tmp_path, scenario)


@pytest.mark.parametrize("before", [b"", b'{"id": 1, "method": "subscribe"}\n'])
def test_a_capture_needs_a_connection_of_its_own(tmp_path: Path, before: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.greeted()
        client.writer.write(before)
        if before:
            await client.line()
        else:
            rig.service.gate.clear()
            client.writer.write(b'{"id": 1, "method": "status"}\n')
        client.writer.write(b'{"id": 2, "method": "capture"}\n')
        answer = await client.line() or {}
        assert (answer["id"], answer["error"]["status"]) == (2, 2)
        rig.service.gate.set()
        assert rig.service.taken == []

    run(tmp_path, scenario)


def test_a_client_that_goes_before_its_capture_begins_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service.gate.clear()
        client = await rig.greeted()
        client.writer.write(b'{"id": 1, "method": "capture"}\n')
        await until(lambda: bool(rig.service.called))
        client.writer.close()
        await until(lambda: rig.server.clients == 0)
        rig.service.gate.set()
        assert rig.service.taken == []

    run(tmp_path, scenario)
