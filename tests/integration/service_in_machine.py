"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: `usbbridge service`, all of it, a drive, and a VM
of the loopback kind. Prints what happened, as JSON by name; `test_service_control.py` judges it."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.machine.gadgets import digest, driver, plug_in_stick
from tests.machine.processes import children
from tests.machine.steps import Facts
from tests.machine.usb import NODES
from tests.machine.waiting import Manager, poll_for, wait, wait_end, writes
from usbbridge.ipc.client import ServiceClient, connected
from usbbridge.loopback.vm import LoopbackVm

RUN = Path("/tmp/bridge")
CONTROL = RUN / "control/control.sock"
USER = "daemon"
"Every Debian has it, and a group of that name."
PASSWORD = "a ticket"
ROUNDS = int(os.environ.get("USBBRIDGE_ROUNDS", "1"))
"How often each process is killed."
MOMENTS = random.Random(ROUNDS)


class Service:
    """`usbbridge service`, its processes, and a client of it."""

    def __init__(self) -> None:
        self.manager = Manager(str(RUN / "notify"))
        self.log = (RUN / "log").open("w")
        environment = os.environ | self.manager.environment
        environment |= {"USBBRIDGE_CONFIG": str(RUN / "usbbridge.toml"), "USBBRIDGE_MODE": "system"}
        command = [sys.executable, "-P", "-m", "usbbridge", "service"]
        self.process = subprocess.Popen(command, env=environment, stderr=self.log)
        self.manager.wait_ready()

    @property
    def parts(self) -> dict[str, int]:
        """Process ids of monitor and control."""
        found = {}
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError, IndexError):  # it has ended; one that is not reaped yet has no command
                module = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
                found[module.removeprefix("usbbridge.")] = pid
        return found

    def encoders(self) -> list[int]:
        """Process ids of encoders, the spare among them, of this control or of an earlier one."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"usbbridge.encoder" in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return found

    def call(self, method: str, **params: Any) -> Any:
        with ServiceClient(connected([CONTROL])) as client:
            client.patience = 60.0
            return client.call(method, **params)

    def wait(self, look: Callable[[], object], *told: int) -> None:
        """Wait for something of this service or of the kernel: the service writes into its log whatever happens to a
        device and to its parts."""
        with writes(RUN / "log") as lines:
            wait(look, 60, lines, *told)

    def wait_encoders(self) -> None:
        """Wait until there are two, the one at work and the next. When the next is there nothing tells: it is nobody's
        business but control's, and this kernel has no process events (CONFIG_PROC_EVENTS)."""
        poll_for(lambda: len(self.encoders()) == 2, 60)

    def said(self, words: str) -> int:
        """How often that stands in its log."""
        return (RUN / "log").read_text().count(words)

    def stick(self) -> dict[str, Any] | None:
        """What is said of the drive; None if it is not known, or nobody is there to ask."""
        with contextlib.suppress(Exception):
            devices = self.call("status")["devices"]
            return next((d for d in devices if d["device"]["entry"]["bus_port"] == "1-1"), None)
        return None

    def is_in(self, state: str) -> bool:
        return (self.stick() or {}).get("state") == state


def of_process(pid: int) -> dict[str, Any]:
    """Who it is, what it may, and what of USB it has open."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was open for a moment only
            links.append(link.readlink())
    return {
        "uids": sorted(set(status["Uid"].split())),
        "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        "no new privileges": status["NoNewPrivs"].strip(),
        "nodes": sum(link.is_relative_to(NODES) for link in links),
        "fds": len(links),
        "RSS": int(status["VmRSS"].split()[0]),
    }


def rows() -> dict[str, int]:
    """How many there are in each table of the list, which is sound, and in what is remembered."""
    with contextlib.closing(sqlite3.connect(f"file:{RUN}/monitor/compat.db?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
    choices = json.loads((RUN / "state/choices.json").read_text())
    return counts | {"choices": len(choices["choices"])}


def read(vm: LoopbackVm) -> bool:
    """Whether the VM reads the drive as it is."""
    return vm.read_all(timeout=60).sha256 == digest()


class Steps:
    def __init__(self, vm: LoopbackVm) -> None:
        self.vm = vm
        self.service = Service()

    def attach(self) -> dict[str, Any]:
        self.service.wait(lambda: self.service.is_in("local"))
        status = self.service.call("attach", device="1-1")
        self.vm.mount(timeout=60)
        facts = {"state": status["state"], "driver": driver(), "same": read(self.vm)}
        parts = self.service.parts
        self.service.wait_encoders()
        facts |= {name: of_process(pid) for name, pid in parts.items()}
        return facts | {"encoder": of_process(status["encoder"]), "encoders": len(self.service.encoders())}

    def detach(self) -> dict[str, Any]:
        status = self.service.call("detach", device="1-1", keep=True)
        found = {"state": status["state"], "driver": driver()}
        self.vm.wait_for_detach(timeout=60)
        return found

    def encoder(self) -> int | None:
        """Process id of the drive's."""
        return (self.service.stick() or {}).get("encoder")

    def killed(self, whom: str) -> dict[str, Any]:
        """One of them dies at a random moment of a read, as often as is wanted; each time the drive is at the VM again,
        and can be read. What is counted is the most of all rounds."""
        if not self.service.is_in("attached"):
            self.service.call("attach", device="1-1")
        rounds = [self.round(whom) for _ in range(ROUNDS)]
        return {
            "reads": sorted({each["read"] for each in rounds}),
            "same": all(each["same"] for each in rounds),
            "same encoder": sorted({each["same encoder"] for each in rounds}),
            "fds": {part: max(each["fds"][part] for each in rounds) for part in ("monitor", "control")},
            "sockets": max(each["sockets"] for each in rounds),
            "encoders": max(each["encoders"] for each in rounds),
            "placed": max(each["placed"] for each in rounds),
            "lost": [each["lost"] for each in rounds if each["lost"]],
        }

    def round(self, whom: str) -> dict[str, Any]:
        self.vm.mount(timeout=60)
        stick = self.service.stick()
        assert stick is not None
        pid = {"encoder": stick["encoder"]} | self.service.parts
        moment, killed_at = MOMENTS.random(), 0.0
        connections, had = self.service.said("connected to the monitor"), rows()

        def at_a_moment(at: int, size: int) -> None:
            nonlocal killed_at
            if at >= size * moment and not killed_at:
                killed_at = time.monotonic()
                os.kill(pid[whom], signal.SIGKILL)

        facts: dict[str, Any] = {"read": "whole"}
        try:
            self.vm.read_all(at_a_moment, timeout=60)
        except Exception as error:
            facts["read"] = type(error).__name__
        assert wait_end(pid[whom], 60), f"{whom} can't be killed"
        self.service.wait(lambda: driver() == "usb-storage" or self.encoder() not in (None, pid[whom]))
        facts["placed"] = time.monotonic() - killed_at
        self.service.wait(lambda: len(self.service.parts) == 2)
        if whom != "encoder":
            self.service.wait(lambda: self.service.said("connected to the monitor") > connections)
        self.service.wait(lambda: self.service.is_in("attached") and self.encoder() != pid[whom])
        self.service.wait_encoders()
        again = self.service.stick()
        assert again is not None
        self.vm.mount(timeout=60)
        return facts | {
            "same encoder": again["encoder"] == stick["encoder"],
            "same": read(self.vm),
            "fds": {name: of_process(pid)["fds"] for name, pid in self.service.parts.items()},
            "sockets": sum(path.is_socket() for path in RUN.rglob("*")),
            "encoders": len(self.service.encoders()),
            "lost": {table: count for table, count in had.items() if rows()[table] < count},
        }

    def end(self) -> dict[str, Any]:
        self.service.process.terminate()
        status = self.service.process.wait(60)
        return {
            "status": status,
            "driver": driver(),
            "processes": len(self.service.encoders()),
            "left": sorted(str(p.relative_to(RUN)) for p in RUN.rglob("*") if p.is_socket() and p.name != "notify"),
        }


def reachable() -> None:
    """Let the other user run this interpreter: it may lie in root's home. The machine's files are thrown away."""
    for folder in Path(sys.executable).resolve().parents:
        folder.chmod(folder.stat().st_mode | 0o055)


def configure(vm: LoopbackVm) -> None:
    RUN.mkdir(mode=0o755)
    (RUN / "ticket").write_text(PASSWORD)
    (RUN / "usbbridge.toml").write_text(
        f"""[vm.desk]
target = "{vm.target}"
password-file = "{RUN}/ticket"
[retry]
first = 0.2
longest = 1.0
[monitor]
user = "{USER}"
[paths]
monitor-socket = "{RUN}/monitor/monitor.sock"
control-socket = "{CONTROL}"
database = "{RUN}/monitor/compat.db"
handed-out = "{RUN}/monitor/handed-out.json"
choices = "{RUN}/state/choices.json"
"""
    )


def main() -> dict[str, object]:
    facts = Facts()
    reachable()
    plug_in_stick()
    with LoopbackVm(password=PASSWORD, channels=1) as vm:
        configure(vm)
        steps = Steps(vm)
        facts.step("attach", steps.attach)
        facts.step("detach", steps.detach)
        for whom in ("encoder", "control", "monitor"):
            facts.step(f"{whom} killed", lambda whom=whom: steps.killed(whom))
        facts.step("end", steps.end)
    facts["violations"] = vm.violations
    facts["log"] = (RUN / "log").read_text()
    return facts


if __name__ == "__main__":
    print(json.dumps(main()))
