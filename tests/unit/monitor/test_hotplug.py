"""Where events come from, and what they look like."""

import ctypes.util
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbbridge.errors import UsbBridgeError
from usbbridge.monitor import hotplug
from usbbridge.monitor.hotplug import Event, EventsLost, KernelSource, UdevSource, open_source, parse_uevent

ADD = b"add@/devices/pci0/usb1/1-2/1-2:1.0\0ACTION=add\0DEVPATH=/devices/pci0/usb1/1-2/1-2:1.0\0SUBSYSTEM=usb\0SEQNUM=7"


def test_an_event_of_the_kernel_is_read() -> None:
    event = parse_uevent(ADD)
    assert event == Event("add", "usb", "1-2:1.0")
    assert event.bus_port == "1-2"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"add@/devices/x",
        b"libudev\0\xfe\xed\xca\xfe",
        ADD.replace(b"SUBSYSTEM", b"SYSTEM"),
        ADD.replace(b"add@", b"remove@"),
        ADD.replace(b"\0", b"\n"),
    ],
)
def test_what_is_no_event_is_none(data: bytes) -> None:
    assert parse_uevent(data) is None


@pytest.fixture(params=[lambda: UdevSource("kernel"), lambda: UdevSource("udev"), KernelSource])
def source(request: pytest.FixtureRequest) -> Iterator[hotplug.Source]:
    made = request.param()
    yield made
    made.close()


def test_a_source_does_not_wait(source: hotplug.Source) -> None:
    assert source.fileno() >= 0
    list(source.events())  # some may be there: this machine is not the test's alone
    assert source.name


def test_a_closed_source_leaves_no_descriptor() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    for made in (UdevSource("kernel"), KernelSource()):
        made.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("privileged", [True, False])
def test_without_a_library_there_is_as_much_room_for_events_as_may_be(
    privileged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def setsockopt(sock: socket.socket, level: int, option: int, value: int) -> None:
        asked.append(option)
        assert (level, value) == (socket.SOL_SOCKET, hotplug.BUFFER)
        if option == hotplug._SO_RCVBUFFORCE and not privileged:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt, raising=False)
    KernelSource().close()
    assert asked == [hotplug._SO_RCVBUFFORCE, *([] if privileged else [socket.SO_RCVBUF])]


class NoRoom:
    """A netlink socket whose buffer has overflowed."""

    def recvfrom(self, size: int) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    def poll(self, timeout: float) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")


@pytest.mark.parametrize(("cls", "field"), [(KernelSource, "_sock"), (UdevSource, "_monitor")])
def test_an_overflow_is_told(cls: type[KernelSource] | type[UdevSource], field: str) -> None:
    made = cls.__new__(cls)
    made.name = "the test"
    setattr(made, field, NoRoom())
    with pytest.raises(EventsLost):
        list(made.events())


def test_messages_that_are_not_the_kernels_are_not_believed() -> None:
    source = KernelSource()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as forger:
        address = source._sock.getsockname()
        try:
            forger.sendto(ADD, (address[0], 0))
        except OSError:
            pytest.skip("this user may not even send it")
        assert [event for event in source.events() if event.name == "1-2:1.0"] == []
    source.close()


def test_udevd_is_listened_to_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotplug, "UDEVD", tmp_path / "control")
    assert open_source().name == "the kernel"
    (tmp_path / "control").touch()
    assert open_source().name == "udevd"
    assert open_source("kernel").name == "the kernel"


def test_without_libudev_the_kernel_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyudev._ctypeslib.utils.find_library", lambda name: None)
    source = open_source("kernel")
    assert isinstance(source, KernelSource)
    source.close()
    with pytest.raises(UsbBridgeError, match="udevd can't be listened to") as caught:
        open_source("udev")
    assert "kernel" in caught.value.hint
    assert ctypes.util.find_library("udev"), "here it is installed"
