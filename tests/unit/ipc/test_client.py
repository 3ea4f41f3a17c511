"""The blocking client of control's API, against a service on a real socket."""

import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.service import GREETING, REMEMBERED, FakeService, Peer, device, status, stick
from usbbridge.config import Paths
from usbbridge.errors import (
    ConnectionLostError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    RemoteProtocolError,
    UsageError,
    UsbBridgeError,
)
from usbbridge.ipc.api import MAX_LINE, Choice, DeviceStatus, State, Status
from usbbridge.ipc.client import ServiceClient, as_error, connected, read
from usbbridge.ipc.codec import to_json


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    service = FakeService(tmp_path / "control.sock")
    yield service
    service.stop()


@pytest.fixture
def client(service: FakeService) -> Iterator[ServiceClient]:
    with ServiceClient(connected([service.path])) as client:
        yield client


# ---- connecting


def user_paths(tmp_path: Path) -> Paths:
    return dataclasses.replace(Paths.of_user({"HOME": str(tmp_path)}), control_socket=tmp_path / "control.sock")


def test_the_users_own_service_comes_first(service: FakeService, tmp_path: Path) -> None:
    with ServiceClient.connect(user_paths(tmp_path)) as client:
        assert client.version == "0.1.0"
        assert client.may == {"view", "attach", "admin"}


def test_the_next_socket_is_tried_where_nobody_listens(service: FakeService, tmp_path: Path) -> None:
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(stale))
    connected([stale, tmp_path / "missing.sock", service.path]).close()


def test_a_service_that_does_not_run_is_not_found_and_the_hint_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not running") as raised:
        connected([tmp_path / "control.sock"])
    assert "systemctl start" in raised.value.hint
    assert "--foreground" in raised.value.hint


def test_a_socket_that_may_not_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError

    monkeypatch.setattr(socket, "socket", Denied)
    with pytest.raises(NotPermittedError, match="no permission"):
        connected([tmp_path / "control.sock", tmp_path / "other.sock"])


def test_a_service_that_takes_no_connections_is_told_from_none(tmp_path: Path) -> None:
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen(0)
        with pytest.raises(ConnectionLostError, match="takes no connections") as raised:  # noqa: PT012  # it is soon full
            while True:
                waiting.append(connected([tmp_path / "control.sock"]))
    for connection in waiting:
        connection.close()
    assert raised.value.hint


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_of_the_api_is_not_talked_to(service: FakeService, version: int) -> None:
    service.greeting = GREETING | {"usbbridge": version}
    with pytest.raises(UsbBridgeError, match=f"API has version {version}") as raised:
        ServiceClient(connected([service.path]))
    assert "restart the service" in raised.value.hint


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"[1]\n",
        b"{}\n",
        b'{"usbbridge": true, "version": "1", "may": []}\n',
        b'{"usbbridge": 1, "version": 1, "may": []}\n',
        b'{"usbbridge": 1, "version": "1", "may": "all"}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_something_else_that_listens_there_is_recognized(service: FakeService, greeting: bytes) -> None:
    service.greeting = greeting
    with pytest.raises(RemoteProtocolError):
        ServiceClient(connected([service.path]))


def test_a_service_that_says_nothing_is_not_waited_for(service: FakeService) -> None:
    service.greeting = b""
    with pytest.raises(ConnectionLostError, match="not answered for"):
        ServiceClient(connected([service.path]), greeting_seconds=0.01)


def test_a_service_that_greets_with_an_error_is_believed(service: FakeService) -> None:
    error = {"status": 2, "error": "UsageError", "message": "too many clients", "hint": "close some"}
    service.greeting = {"id": None, "error": error}
    with pytest.raises(UsageError, match="too many clients"):
        ServiceClient(connected([service.path]))


def test_an_error_without_an_id_is_ours(service: FakeService, client: ServiceClient) -> None:
    error = {"status": 2, "error": "UsageError", "message": "too long", "hint": ""}
    service.answers["status"] = lambda params, peer: peer.say({"id": None, "error": error})
    with pytest.raises(UsageError):
        client.status()


def test_rights_of_a_later_version_do_no_harm(service: FakeService) -> None:
    service.greeting = GREETING | {"may": ["view", "configure", 7], "more": {}}
    with ServiceClient(connected([service.path])) as client:
        assert client.may == {"view", "configure"}


# ---- calling


def test_a_call_returns_the_result(service: FakeService, client: ServiceClient) -> None:
    service.answers["forget"] = (REMEMBERED,)
    assert client.call("forget", device="1-2", all=False) == [to_json(REMEMBERED)]
    assert service.asked == [("forget", {"device": "1-2", "all": False})]


def test_the_status_comes_as_an_object(service: FakeService, client: ServiceClient) -> None:
    expected = status(device(State.ATTACHED, channel=1, since=5.0), choices=(REMEMBERED,))
    service.serve(expected)
    assert client.status(stats=True) == expected
    assert service.asked == [("status", {"stats": True})]


def test_answers_to_others_are_passed_over(service: FakeService, client: ServiceClient) -> None:
    def answer(params: object, peer: Peer) -> dict[str, int]:
        peer.say({"id": 99, "result": "not yours"})
        return {"yours": 1}

    service.answers["reload"] = answer
    assert client.call("reload") == {"yours": 1}


@pytest.mark.parametrize("error", [NotFoundError("no", hint="do"), RefusedError("no"), UsageError("no")])
def test_an_error_is_raised_as_what_it_is(
    service: FakeService, client: ServiceClient, error: UsbBridgeError
) -> None:
    service.answers["attach"] = error
    with pytest.raises(type(error)) as raised:
        client.call("attach", device="1-2")
    assert (raised.value.message, raised.value.hint) == (error.message, error.hint)
    assert raised.value.exit_status == error.exit_status


def test_an_error_of_a_class_known_elsewhere_keeps_its_name_and_status() -> None:
    error = as_error({"status": 3, "error": "WrongTicketError", "message": "wrong password", "hint": "look it up"})
    assert isinstance(error, NotPermittedError)
    assert (type(error).__name__, error.exit_status, error.hint) == ("WrongTicketError", 3, "look it up")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": 4, "error": "NotFoundError", "message": "m"}, 4),
        ({"status": 0, "error": "UsbBridgeError", "message": "m"}, 1),
        ({"status": 5, "error": "__import__", "message": "m"}, 5),
        ({"status": True, "error": None, "message": None, "hint": None}, 1),
        ({"status": 4000, "error": "annotations", "message": "m"}, 1),
        ({}, 1),
        ("it broke", 1),
    ],
)
def test_errors_that_are_told_badly_are_errors_still(answer: object, status: int) -> None:
    error = as_error(answer)
    assert isinstance(error, UsbBridgeError)
    assert error.exit_status == status


def test_what_an_error_says_does_nothing_to_a_terminal() -> None:
    error = as_error({"status": 1, "error": "UsbBridgeError", "message": "a\x1b[2J\n  b", "hint": "\x07c"})
    assert (error.message, error.hint) == ("a [2J\n  b", " c")


def test_a_service_that_ends_meanwhile_is_a_lost_connection_with_a_hint(
    service: FakeService, client: ServiceClient
) -> None:
    service.answers["attach"] = lambda params, peer: peer.hang_up()
    with pytest.raises(ConnectionLostError, match="the service has ended") as raised:
        client.call("attach", device="1-2")
    assert raised.value.hint


def test_a_service_that_has_ended_can_not_be_called(service: FakeService, client: ServiceClient) -> None:
    service.stop()
    with pytest.raises(ConnectionLostError):
        client.call("status")


def test_a_service_that_hangs_is_not_waited_for_for_ever(service: FakeService, client: ServiceClient) -> None:
    service.answers["status"] = lambda params, peer: None
    client.patience = 0.01
    with pytest.raises(ConnectionLostError, match="not answered") as raised:
        client.status()
    assert raised.value.hint


@pytest.mark.parametrize("line", [b"nonsense\n", b"7\n", b'{"event": 7}\n', b"x" * (MAX_LINE + 70_000)])
def test_nonsense_ends_the_conversation(service: FakeService, client: ServiceClient, line: bytes) -> None:
    service.answers["status"] = lambda params, peer: peer.say_bytes(line)
    with pytest.raises(RemoteProtocolError):
        client.status()


def test_a_line_that_comes_byte_by_byte_is_one_line(service: FakeService, client: ServiceClient) -> None:
    def answer(params: object, peer: Peer) -> None:
        for byte in json.dumps({"id": 1, "result": "whole"}).encode() + b"\n":
            peer.say_bytes(bytes([byte]))

    service.answers["status"] = answer
    assert client.call("status") == "whole"


def test_a_request_that_is_too_long_is_not_sent(service: FakeService, client: ServiceClient) -> None:
    with pytest.raises(UsageError, match="too long"):
        client.call("attach", device="x" * (64 << 10))
    assert service.asked == []


# ---- events


def test_events_come_after_what_was_subscribed_to(service: FakeService, client: ServiceClient) -> None:
    service.serve(status())
    client.call("subscribe")
    peer = service.subscribers.get()
    peer.tell("device", device())
    peer.tell("monitor", {"connected": False})
    events = client.events()
    assert next(events) == ("device", to_json(device()))
    assert next(events) == ("monitor", {"connected": False})
    peer.hang_up()
    with pytest.raises(ConnectionLostError):
        next(events)


def test_events_during_a_call_are_kept(service: FakeService, client: ServiceClient) -> None:
    service.answers["attach"] = lambda params, peer: peer.tell("monitor", {"connected": True}) or {}
    client.call("attach")
    assert next(client.events()) == ("monitor", {"connected": True})


def test_events_during_a_call_are_told_at_once_to_who_wants_them(service: FakeService, client: ServiceClient) -> None:
    heard: list[tuple[str, object]] = []

    def answer(params: object, peer: Peer) -> dict[str, object]:
        peer.tell("monitor", {"connected": True})
        return {}

    service.answers["attach"] = answer
    client.on_event = lambda name, data: heard.append((name, data))
    client.call("attach")
    assert heard == [("monitor", {"connected": True})]


# ---- objects


def test_what_a_newer_service_adds_is_left_out() -> None:
    found = to_json(status(device(State.ATTACHED), choices=(REMEMBERED,)))
    found["colour"] = "blue"
    found["devices"][0]["mood"] = None
    found["devices"][0]["device"]["entry"]["interfaces"][0]["more"] = [1]
    assert read(Status, found) == status(device(State.ATTACHED), choices=(REMEMBERED,))


def test_what_an_older_service_lacks_has_its_default() -> None:
    found = to_json(device())
    del found["hint"], found["to_vm"]
    assert read(DeviceStatus, found) == device()


def test_whole_numbers_pass_for_seconds() -> None:
    found = to_json(device(State.WAITING, retry_in=2.0)) | {"retry_in": 2}
    assert read(DeviceStatus, found).retry_in == 2.0


@pytest.mark.parametrize("broken", [{"vm": 7}, {"state": "lost"}, {"device": None}])
def test_what_the_api_does_not_say_is_not_understood(broken: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        read(DeviceStatus, to_json(device(plugged=stick())) | broken)


def test_a_list_is_not_a_choice() -> None:
    with pytest.raises(RemoteProtocolError):
        read(Choice, [])


def test_it_takes_nothing_heavy_to_ask_the_service() -> None:
    code = "import sys, usbbridge.ipc.client, usbbridge.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"asyncio", "ssl", "click", "rich", "construct", "cryptography", "sqlite3", "lz4", "usb1"}
