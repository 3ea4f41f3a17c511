"""What is measured, and what has to come out: the matrix of the benchmark, as data.

A workload is one or more emulated devices (`rig/fakeusb.c` tells their settings) and what the guest does with each
(`rig/guestgen.c` tells its operations), over a raw usbredir connection or through a SPICE server.
"""

from dataclasses import dataclass
from typing import Literal

Path = Literal["raw", "spice", "tls"]
"Between host and guest: a raw usbredir connection, or a real SPICE server, without and with TLS."
Quantity = Literal["rate", "cpu", "p99"]

RATE = "MBps"
MEAN = "mean_us"
"The metric of workloads that wait for each answer: a mean, as a host that spins buys its median with a whole core."


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that has to hold: our `quantity` against that of `peer` (`local` and `model` are peers too).

    rate: ours by theirs, of what is done in a second, at least `limit`. cpu (seconds of a URB) and p99: ours by
    theirs, at most `limit`.
    """

    peer: str
    quantity: Quantity
    limit: float


@dataclass(frozen=True, slots=True)
class Device:
    """An emulated device and the work on it: fakeusb's settings, guestgen's operations."""

    model: str
    ops: str
    settings: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that meets the device."""
        return {"FAKEUSB_MODEL": self.model} | dict(each.split("=", 1) for each in self.settings)


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table. `rtt`: microseconds of a round trip that a proxy adds; None: no proxy."""

    name: str
    group: str
    devices: tuple[Device, ...]
    metric: str
    targets: tuple[Target, ...] = ()
    path: Path = "raw"
    rtt: int | None = None
    seconds: float = 1.5
    "Longest time of an operation that has no other end."
    peers: tuple[str, ...] = ("usbbridge", "usbredirect", "chost")
    local: bool = True
    "Whether the same work without redirection says anything."
    runs: int | None = None
    "How often, if not as often as all others."
    lossless: bool = False
    "Whether each report or packet has to arrive."

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is a rate."""
        return self.metric in (RATE, "per_s")


USB2 = ("FAKEUSB_LAT_US=125", "FAKEUSB_MBPS=30")
"A USB 2 stick: 125 us a URB, 30 MB/s."
USB3 = ("FAKEUSB_SPEED=super", "FAKEUSB_LAT_US=30", "FAKEUSB_MBPS=350")
"A USB 3 stick: 30 us a URB, 350 MB/s."
SIZES = ((4, "4k"), (64, "64k"), (120, "120k"), (1024, "1m"))
"Of one command, in KiB: what guests ask for at a time."
PLENTY = 1 << 20
"MiB or messages: more than can be done in the time."

BEHIND = Target("usbredirect", "rate", 1.0)
"Nowhere behind the program that everybody has."


def _storage() -> list[Workload]:
    found = []
    for stick, settings in (("", ()), ("usb2", USB2), ("usb3", USB3)):
        for op, way in (("seq", "read"), ("wseq", "write")):
            for kib, size in SIZES:
                name = "_".join(filter(None, (stick, way, size)))
                device = Device("msc", f"{op} {kib} {PLENTY}", settings)
                targets = _storage_targets(stick, way, size)
                found.append(Workload(name, stick or "storage", (device,), RATE, targets))
    return found


def _storage_targets(stick: str, way: str, size: str) -> tuple[Target, ...]:
    if stick:
        least = {("usb2", "120k"): 0.95, ("usb2", "1m"): 0.97, ("usb3", "120k"): 0.75, ("usb3", "1m"): 0.85}
        of_local = least.get((stick, size)) if way == "read" else None
        return (BEHIND, Target("chost", "rate", 1.0), *([Target("local", "rate", of_local)] if of_local else []))
    large = size == "1m"
    by_rate = (Target("usbredirect", "rate", 1.5 if large else 1.0), Target("chost", "rate", 1.0 if large else 0.7))
    of_cpu = {"64k": 1.5, "1m": 0.5}.get(size) if way == "read" else None
    return (*by_rate, *([Target("chost", "cpu", of_cpu)] if of_cpu else []))


def _latency() -> list[Workload]:
    cpu, p99 = Target("chost", "cpu", 1.5), Target("chost", "p99", 1.3)
    return [
        Workload("control", "latency", (Device("msc", f"ctrl {PLENTY}"),), MEAN, (BEHIND, cpu, p99)),
        Workload("random_4k", "latency", (Device("msc", f"rand 4 {PLENTY}"),), MEAN, (BEHIND, p99)),
        *(
            Workload(f"{stick}_random_4k", "latency", (Device("msc", f"rand 4 {PLENTY}", settings),), MEAN, (BEHIND,))
            for stick, settings in (("usb2", USB2), ("usb3", USB3))
        ),
        *(
            Workload(
                f"hid_{khz}khz",
                "latency",
                (Device("hid", "hid 2", (f"FAKEUSB_INTERVAL_US={1000 // khz}",)),),
                MEAN,
                (BEHIND, p99),
                lossless=True,
            )
            for khz in (1, 8)
        ),
    ]


def _iso() -> list[Workload]:
    def device(model: str, op: str, size: int) -> tuple[Device, ...]:
        return (Device(model, f"{op} 2 32", (f"FAKEUSB_ISO_PKT={size}",)),)

    return [
        Workload("iso_in_1024", "iso", device("iso", "iso", 1024), "per_s", lossless=True),
        Workload("iso_in_3072", "iso", device("iso", "iso", 3072), "per_s", lossless=True),
        Workload("iso_out_1024", "iso", device("sound", "isoout", 1024), "per_s", lossless=True),
    ]


def _pipelined() -> list[Workload]:
    found = []
    for kib, size, least in (("0.5", "512", 10.0), ("64", "64k", 1.0)):
        for depth in (1, 16, 64):
            targets = [Target("usbredirect", "rate", least)]
            if size == "512":
                targets.append(Target("chost", "cpu", 1.5))
            device = Device("loop", f"loop {kib} 100000 {depth}")
            name = f"pipelined_{size}_{depth}"
            found.append(Workload(name, "pipelined", (device,), "us_per_message", tuple(targets)))
    return found


def _round_trips() -> list[Workload]:
    found = []
    for rtt in (0, 1, 10):
        for kib, size in SIZES[1:]:
            device = Device("msc", f"seq {kib} {PLENTY}")
            targets = (BEHIND, *([Target("model", "rate", 0.95)] if rtt else []))
            name = f"rtt{rtt}_read_{size}"
            peers = ("usbbridge", "usbredirect")
            found.append(Workload(name, "rtt", (device,), RATE, targets, rtt=1000 * rtt, peers=peers, local=False))
    return found


def _spice() -> list[Workload]:
    found = []
    ahead = (Target("spicy", "rate", 1.5),)
    for path in ("spice", "tls"):
        ops = {f"read_{size}": f"seq {kib} {PLENTY}" for kib, size in SIZES}
        ops |= {f"write_{size}": f"wseq {kib} {PLENTY}" for kib, size in SIZES}
        ops |= {"random_4k": f"rand 4 {PLENTY}", "control": f"ctrl {PLENTY}"}
        for name, op in ops.items():
            metric = MEAN if name in ("random_4k", "control") else RATE
            found.append(
                Workload(
                    f"{path}_{name}", path, (Device("msc", op),), metric, ahead, path=path,
                    peers=("usbbridge", "spicy"), local=False,
                )
            )  # fmt: skip
    return found


def _together() -> list[Workload]:
    """Several devices at once: what one URB costs must not depend on how many there are."""
    device, ours = Device("msc", f"seq 64 {PLENTY}"), ("usbbridge",)
    return [Workload(f"devices_{n}", "devices", (device,) * n, RATE, peers=ours, local=False) for n in (1, 2, 4, 8)]


def _endurance() -> list[Workload]:
    """A minute of reports beside a bulk copy, on the same device and on another; a minute of isochronous packets."""
    found = []
    for khz in (1, 8):
        interval = (f"FAKEUSB_INTERVAL_US={1000 // khz}",)
        same = (Device("combo", "both 60 120", interval),)
        other = (Device("hid", "hid 60", interval), Device("msc", f"seq 120 {PLENTY}"))
        for name, devices in (("same", same), ("other", other)):
            found.append(
                Workload(
                    f"hid_{khz}khz_copy_{name}", "endurance", devices, MEAN, (), seconds=60,
                    peers=("usbbridge",), local=False, runs=1, lossless=True,
                )
            )  # fmt: skip
    iso = (Device("iso", "iso 60 32", ("FAKEUSB_ISO_PKT=3072",)),)
    found.append(
        Workload(
            "iso_in_3072_minute", "endurance", iso, "per_s", (), seconds=60,
            peers=("usbbridge",), local=False, runs=1, lossless=True,
        )
    )  # fmt: skip
    return found


WORKLOADS: tuple[Workload, ...] = (
    *_storage(),
    *_latency(),
    *_iso(),
    *_pipelined(),
    *_round_trips(),
    *_spice(),
    *_together(),
    *_endurance(),
)
GROUPS = tuple(dict.fromkeys(workload.group for workload in WORKLOADS))
