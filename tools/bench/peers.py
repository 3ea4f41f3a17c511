"""The programs that are compared: how each is started on a device of the rig."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tools.bench import rig
from tools.bench.workloads import Path

DISPLAY = ":77"
"Of the X server that spicy needs."


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a host can connect to: the raw usbredir port, or the SPICE server's two."""

    raw: int = 0
    plain: int = 0
    tls: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """One program. `command` gets VID:PID, the path and the ports."""

    command: Callable[[str, Path, Ports], list[str]]
    what: str
    environment: tuple[tuple[str, str], ...] = ()


def _usbbridge(device: str, path: Path, ports: Ports) -> list[str]:
    target = {
        "raw": f"tcp://127.0.0.1:{ports.raw}",
        "spice": f"spice://127.0.0.1:{ports.plain}",
        "tls": f"spice+tls://127.0.0.1:{ports.tls}",
    }[path]
    command = [sys.executable, "-m", "usbbridge", "attach", "--foreground", device, "--vm", target]
    return [*command, "--ca-file", str(rig.CERTIFICATES / "ca-cert.pem")] if path == "tls" else command


def _usbredirect(device: str, path: Path, ports: Ports) -> list[str]:
    return ["usbredirect", "--device", device, "--to", f"127.0.0.1:{ports.raw}"]


def _chost(device: str, path: Path, ports: Ports) -> list[str]:
    return [rig.program("chost"), device, str(ports.raw)]


def _spicy(device: str, path: Path, ports: Ports) -> list[str]:
    everything = "--spice-usbredir-redirect-on-connect=-1,-1,-1,-1,1"
    if path == "spice":
        return ["spicy", f"--uri=spice://127.0.0.1:{ports.plain}", everything]
    secure = [f"--spice-ca-file={rig.CERTIFICATES / 'ca-cert.pem'}", "--spice-secure-channels=all"]
    return ["spicy", f"--uri=spice://127.0.0.1?tls-port={ports.tls}", *secure, everything]


PEERS = {
    "usbbridge": Peer(_usbbridge, "this program", (("USBBRIDGE_LIBUSB", str(rig.LIBUSB)),)),
    "usbredirect": Peer(_usbredirect, "the C program of the usbredir project"),
    "chost": Peer(_chost, "libusbredirhost in the best loop one can give it: one thread, no delay"),
    "spicy": Peer(_spicy, "the viewer of spice-gtk", (("DISPLAY", DISPLAY),)),
}


def environment(peer: str) -> dict[str, str]:
    """Of the peer's process: with the emulated libusb instead of the system's."""
    return os.environ | {"LD_LIBRARY_PATH": str(rig.FAKEUSB)} | dict(PEERS[peer].environment)
