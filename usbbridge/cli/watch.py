"""`usbbridge watch`: devices and VMs as they change, as a live table, as lines in pipes, as JSON lines for programs."""

import contextlib
import select
import sys
import time
from functools import partial
from typing import Any, Final, NoReturn, Protocol

import click

from usbbridge.cli import tables
from usbbridge.cli.status import is_hub
from usbbridge.errors import ConnectionLostError, NotFoundError
from usbbridge.ipc.api import Choice, DeviceStatus, Status, VmStatus
from usbbridge.ipc.client import ServiceClient, read
from usbbridge.usb.identity import bus_port_key

LOST: Final = "the service has ended; waiting for it to come back"
BACK: Final = "the service is back"
RETRY_SECONDS: Final = 1.0
"Between looks whether a service that has ended is back: its socket is new then, there is nothing to wait on."


@click.command("watch", epilog="\b\nExamples:\n  usbbridge watch\n  usbbridge watch --json | jq -c .event")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line (see usbbridge-api(7)).")
def command(as_json: bool) -> int:
    """Show devices and VMs as they change, until Ctrl-C.

    On a terminal it is a table; otherwise a line for each thing that changes, after one for each that is there. If the
    service is restarted, it goes on by itself.
    """
    display: Display = JsonLines() if as_json else LiveTable() if sys.stdout.isatty() else Lines()
    try:
        follow(display)
    except KeyboardInterrupt:
        return 0
    finally:
        display.close()


def follow(display: "Display") -> NoReturn:
    """Tell `display` everything, for ever. Raises NotFoundError if no service runs at first."""
    service = ServiceClient.connect()
    while True:
        try:
            with service:
                display.begin(service.call("subscribe"))
                service.before_waiting = partial(_wait, service)
                for event, data in service.events():
                    display.event(event, data)
        except ConnectionLostError:
            display.lost()
        service = _again()
        display.back()


def _wait(service: ServiceClient) -> None:
    """Until the service says something. Raises BrokenPipeError when nobody reads what we print any more."""
    poll = select.poll()
    poll.register(service.fileno(), select.POLLIN)
    with contextlib.suppress(OSError, ValueError):  # it is closed, or no file at all: writing to it tells
        poll.register(sys.stdout.fileno(), 0)  # errors are told unasked (poll(2)); that is all we want of it
    ready = dict(poll.poll())
    if service.fileno() not in ready:
        raise BrokenPipeError


def _again() -> ServiceClient:
    while True:
        try:
            return ServiceClient.connect()
        except (NotFoundError, ConnectionLostError):
            time.sleep(RETRY_SECONDS)


class Display(Protocol):
    """Where it is shown. Data are as JSON has them."""

    def begin(self, status: Any) -> None:
        """What there is."""

    def event(self, name: str, data: Any) -> None:
        """Something has changed."""

    def lost(self) -> None:
        """The service has ended."""

    def back(self) -> None:
        """It is back, and `begin` follows."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonLines:
    """Events as the service tells them, one a line; `status` is first, and again when the service is back."""

    def begin(self, status: Any) -> None:
        self.event("status", status)

    def event(self, name: str, data: Any) -> None:
        tables.print_json_line({"event": name, "data": data})
        sys.stdout.flush()

    def lost(self) -> None:
        self.event("service", {"connected": False})

    def back(self) -> None:
        self.event("service", {"connected": True})

    def close(self) -> None:
        """Nothing is held."""


class Picture:
    """Everything as it is now: what was there at the beginning, and what has changed since."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceStatus] = {}
        self.vms: dict[str, VmStatus] = {}
        self.choices: tuple[Choice, ...] = ()
        self.monitor = True

    def begin(self, status: Status) -> None:
        """Forget what was; this is what there is."""
        self.devices = {device.device.id: device for device in status.devices if not is_hub(device)}
        self.vms = {vm.name: vm for vm in status.vms}
        self.choices, self.monitor = status.choices, status.monitor

    def apply(self, name: str, data: Any) -> str:
        """Take an event in; what has happened in a line, empty if nothing that anybody sees."""
        if name == "device":
            return self._device(read(DeviceStatus, data))
        if name == "device-gone":
            gone = self.devices.pop(data["id"], None)
            return f"{gone.device.entry}: unplugged" if gone else ""
        if name == "vm":
            return self._vm(read(VmStatus, data))
        if name == "choices":
            self.choices = tuple(read(Choice, found) for found in data)
            return f"remembered: {'; '.join(map(tables.choice, self.choices)) or 'nothing'}"
        if name == "monitor":
            self.monitor = data["connected"] is True
            return monitor_line(connected=self.monitor)
        return ""  # a newer service tells more

    def _device(self, device: DeviceStatus) -> str:
        if is_hub(device):
            return ""
        before = self.devices.get(device.device.id)
        self.devices[device.device.id] = device
        line = device_line(device)
        return "" if before and device_line(before) == line else line

    def _vm(self, vm: VmStatus) -> str:
        before = self.vms.get(vm.name)
        self.vms[vm.name] = vm
        line = vm_line(vm)
        return "" if before and vm_line(before) == line else line


def device_line(device: DeviceStatus) -> str:
    """`1-2 0781:5567 SanDisk Cruzer Blade: attached to desk`."""
    return f"{device.device.entry}: {tables.place(device)}"


def vm_line(vm: VmStatus) -> str:
    """`VM desk: connected, 1 of 2 channels in use`."""
    return f"VM {vm.name}: {tables.session(vm)}"


def monitor_line(*, connected: bool) -> str:
    """Said of the monitor."""
    return "the monitor is connected" if connected else "the monitor is not connected: no device can be attached"


class Lines:
    """For pipes and logs: a line for what is there, and one for what changes, each with its time."""

    def __init__(self) -> None:
        self._picture = Picture()

    def begin(self, status: Any) -> None:
        self._picture.begin(read(Status, status))
        for vm in self._picture.vms.values():
            self._say(vm_line(vm))
        for device in self._picture.devices.values():
            self._say(device_line(device))
        if not self._picture.monitor:
            self._say(monitor_line(connected=False))

    def event(self, name: str, data: Any) -> None:
        line = self._picture.apply(name, data)
        if line:
            self._say(line)

    def lost(self) -> None:
        self._say(LOST)

    def back(self) -> None:
        self._say(BACK)

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _say(line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {line}")
        sys.stdout.flush()


class LiveTable:
    """For people: a table that is always as things are, and below it what happened last."""

    def __init__(self) -> None:
        from rich.console import Console  # only for a terminal: it takes a while to import
        from rich.live import Live

        self._picture = Picture()
        self._last = ""
        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._live.start()

    def begin(self, status: Any) -> None:
        self._picture.begin(read(Status, status))
        self._draw()

    def event(self, name: str, data: Any) -> None:
        line = self._picture.apply(name, data)
        self._last = f"{time.strftime('%H:%M:%S')} {line}" if line else self._last
        self._draw()

    def lost(self) -> None:
        self._picture = Picture()
        self._last = LOST
        self._draw()

    def back(self) -> None:
        self._last = BACK

    def close(self) -> None:
        """Give the terminal its cursor back."""
        self._live.stop()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.text import Text

        notes = [self._last] if self._last else []
        notes += [] if self._picture.monitor else [monitor_line(connected=False)]
        parts = [self._devices(), Text(), self._vms(), *(Text(note, style="dim") for note in notes)]
        self._live.update(Group(*parts), refresh=True)

    def _devices(self) -> Any:
        from rich.text import Text

        table = _table("BUS-PORT", "ID", "NAME", "STATE")
        for device in sorted(self._picture.devices.values(), key=lambda d: bus_port_key(d.device.entry.bus_port)):
            entry = device.device.entry
            state = Text(tables.place(device), style=tables.STYLES.get(device.state, ""))
            table.add_row(entry.bus_port, entry.ids, Text(entry.name or "-"), state)
        return table

    def _vms(self) -> Any:
        from rich.text import Text

        table = _table("VM", "TARGET", "SESSION")
        for vm in self._picture.vms.values():
            table.add_row(*(Text(cell) for cell in (vm.name, vm.target, tables.session(vm))))
        return table


def _table(*headings: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("BUS-PORT", "ID"))
    return table
