"""`usbbridge attach --foreground` up to the point where a device is attached: what is asked for, and what is said."""

import json
import socket
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from usbbridge.cli import foreground
from usbbridge.cli.foreground import JsonLines, Lines, Terminal
from usbbridge.errors import RefusedError, UsageError
from usbbridge.ipc.messages import Ended, Progressed, Stats
from usbbridge.monitor import inventory


@pytest.fixture(autouse=True)
def no_password_or_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USBBRIDGE_PASSWORD", raising=False)
    monkeypatch.delenv("USBBRIDGE_LIBUSB", raising=False)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    return f"disk:{path}"


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_the_vm_has_to_be_named(run: Run) -> None:
    status, _, err = run(["attach", "--foreground", "1-1"])
    assert status == 2
    assert "--vm" in err


def test_a_target_that_is_none_is_told_before_anything_is_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(device: str | None, serial: str | None) -> dict[str, object]:
        raise AssertionError("the device was opened")

    monkeypatch.setattr(foreground, "choose", opened)
    status, _, err = run(["attach", "--foreground", "1-1", "--vm", "gopher://x"])
    assert status == 2
    assert "'gopher' is not a kind of target" in err


def test_a_capture_of_what_was_never_attached_leaves_no_file(
    run: Run, image: str, closed_port: int, tmp_path: Path
) -> None:
    options = ["--vm", f"tcp://127.0.0.1:{closed_port}", "--capture", str(tmp_path / "x")]
    assert run(["attach", "--foreground", image, *options])[0] == 4
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("file", "expected"), [("-", 2), (__file__, 5)])
def test_where_a_capture_can_not_go_is_told_before_anything_is_opened(
    run: Run, monkeypatch: pytest.MonkeyPatch, file: str, expected: int
) -> None:
    def opened(device: str | None, serial: str | None) -> dict[str, object]:
        raise AssertionError("the device was opened")

    monkeypatch.setattr(foreground, "choose", opened)
    options = ["--vm", "tcp://127.0.0.1:1", "--capture", file]
    assert run(["attach", "--foreground", "1-1", *options])[0] == expected


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_vm_that_is_not_there_is_status_4(run: Run, image: str, closed_port: int, json_lines: bool) -> None:
    options = ["--json"] if json_lines else []
    status, out, err = run(["attach", "--foreground", image, "--vm", f"spice://127.0.0.1:{closed_port}", *options])
    assert status == 4
    assert "connection refused" in err
    if json_lines:
        (ended,) = map(json.loads, out.splitlines())
        assert (ended["event"], ended["status"], ended["error"]) == ("ended", 4, "PortClosedError")
        assert "connection refused" in ended["message"]
        assert ended["hint"]
    else:
        assert out == ""


def test_a_machine_without_usb_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory.devices, "__defaults__", (tmp_path,))
    status, _, err = run(["attach", "--foreground", "1-1", "--vm", "tcp://127.0.0.1:1"])
    assert status == 4
    assert "this machine has no USB devices" in err


def test_a_device_in_use_is_refused(run: Run, sysfs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory.devices, "__defaults__", (sysfs.root,))
    status, _, err = run(["attach", "--foreground", "1-2", "--vm", "tcp://127.0.0.1:1"])
    assert status == 5
    assert "mounted at /media/stick" in err


def test_no_device_at_all_is_wrong_usage(run: Run, sysfs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory.devices, "__defaults__", (sysfs.root,))
    status, _, err = run(["attach", "--foreground", "--vm", "tcp://127.0.0.1:1"])
    assert status == 2
    assert "no device was named" in err


def test_a_serial_number_is_not_for_images(run: Run, image: str) -> None:
    status, _, err = run(["attach", "--foreground", image, "--serial", "1", "--vm", "tcp://127.0.0.1:1"])
    assert status == 2
    assert "--serial is for USB devices" in err


@pytest.mark.parametrize("spec", ["disk:", "disk:,ro"])
def test_an_image_without_a_path_is_wrong_usage(run: Run, spec: str, closed_port: int) -> None:
    status, _, err = run(["attach", "--foreground", spec, "--vm", f"tcp://127.0.0.1:{closed_port}"])
    assert status == 2
    assert "names no disk image" in err


def test_images_are_named_from_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    chosen = foreground.choose("disk:a,ro", None)
    assert chosen == {"name": "disk:a,ro", "disk": f"disk:{tmp_path}/a,ro"}


def test_another_libusb_may_have_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBBRIDGE_LIBUSB", "/some/libusb.so")
    assert foreground.choose("1-7", None) == {"name": "1-7", "selector": "1-7"}


def test_another_libusb_does_not_get_a_device_that_is_in_use(sysfs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBBRIDGE_LIBUSB", "/some/libusb.so")
    monkeypatch.setattr(inventory.devices, "__defaults__", (sysfs.root,))
    with pytest.raises(RefusedError, match="mounted at /media/stick"):
        foreground.choose("1-2", None)
    assert foreground.choose("1-3", None) == {"name": "1-3", "selector": "1-3"}


@pytest.mark.parametrize("option", ["--ca-file", "--host-subject"])
@pytest.mark.parametrize("target", ["spice://127.0.0.1:1", "spice+unix:/no/socket", "tcp://127.0.0.1:1"])
def test_whom_to_trust_is_not_said_in_vain(run: Run, image: str, tmp_path: Path, target: str, option: str) -> None:
    value = str(tmp_path / "image") if option == "--ca-file" else "CN=host"
    status, _, err = run(["attach", "--foreground", image, "--vm", target, option, value])
    assert status == 2
    assert "are for TLS" in err


def test_a_tls_port_in_the_query_is_one(run: Run, image: str, closed_port: int) -> None:
    target = f"spice://127.0.0.1:1?tls-port={closed_port}"
    status, _, err = run(["attach", "--foreground", image, "--vm", target, "--host-subject", "CN=host"])
    assert status == 4
    assert "connection refused" in err


# ---- the password


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\nmore\n", "secret"),
        (b" spaces \n", " spaces "),
        ("pässword\n".encode(), "pässword"),
        (b"", ""),
    ],
)
def test_a_password_file_holds_the_password_in_its_first_line(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    assert foreground.password_of(file) == password


@pytest.mark.parametrize("content", [b"x" * 4097, b"\xff\xfe\n"])
def test_another_file_is_told_from_a_password_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"(too long to be a password file|is not UTF-8 text)$"):
        foreground.password_of(file)


def test_the_environment_comes_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBBRIDGE_PASSWORD", "from the environment")
    assert foreground.password_of(None) == "from the environment"
    file = tmp_path / "password"
    file.write_text("from the file")
    assert foreground.password_of(file) == "from the file"


# ---- what is shown

STATS = Stats(2_500_000, 1200, 0)


def test_plain_lines_tell_the_steps_and_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    display = Lines()
    steps = {"linked": "1", "hello": "QEMU", "announced": "1-2 Stick", "attached": "", "new": "x"}
    for step, detail in steps.items():
        display.show(Progressed(step, detail))
    display.show(STATS)
    display.end(Ended(0))
    assert capsys.readouterr().out.splitlines() == [
        "connected to the VM (channel 1)",
        "the VM's USB port answers: QEMU",
        "announced to the VM: 1-2 Stick",
        "attached",
        "new: x",
        "detached (2.5 MB to the VM, 1.2 kB from it)",
    ]


def test_plain_lines_leave_an_error_to_the_error_message(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().end(Ended(1, "it broke"))
    assert capsys.readouterr().out == ""


def test_json_lines_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonLines()
    display.show(Progressed("hello", "QEMU ü"))
    display.show(STATS)
    display.end(Ended(5, "no", "do", "RefusedError"))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "hello", "detail": "QEMU ü"},
        {"event": "stats", "to_vm": 2_500_000, "from_vm": 1200, "dropped": 0},
        {"event": "ended", "status": 5, "error": "RefusedError", "message": "no", "hint": "do"},
    ]


def test_a_terminal_shows_rates_and_is_left_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    display = Terminal()
    display.show(Progressed("attached", "1-2 Stick"))
    display.close()
    assert "\x1b" not in capsys.readouterr().out, "nothing is held before there are numbers"
    display.show(Stats(0, 0, 0))
    display.show(STATS)
    display.end(Ended(0))
    display.close()
    out = capsys.readouterr().out
    assert "2.5 MB and 1.2 kB in all" in out
    assert "Ctrl-C takes it back" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is back"
