"""sd_notify(3), with the test for a service manager."""

import os
import socket
from pathlib import Path

import pytest

from usbbridge.ipc.notify import notify, watchdog_seconds


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"\0usbbridge-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        notify("READY=1\nSTATUS=well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/notify", "/" + "x" * 200])
def test_that_nobody_listens_is_no_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.mark.parametrize(
    ("text", "seconds"), [("2000000", 2.0), ("", None), ("0", None), ("-1", None), ("soon", None), ("٣", None)]
)
def test_the_watchdogs_time_is_read(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", text)
    assert watchdog_seconds() == seconds


def test_a_watchdog_for_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 1.0
