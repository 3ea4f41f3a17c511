"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: the monitor as a process, a drive and a keyboard.
Prints what happened, as JSON by name; `test_monitor.py` judges it."""

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration import monitor_hand_over
from tests.integration.hotplug_storm import flood
from tests.integration.monitor_rig import (
    LOG,
    RUN,
    SOCKET,
    Client,
    Monitor,
    Rig,
    back,
    connect,
    give_back,
    held,
    plug,
    unplug,
)
from tests.machine.gadgets import IMAGE, INTERFACE, KEYBOARD, gadget
from tests.machine.processes import NOBODY, as_user
from tests.machine.steps import Facts
from tests.machine.waiting import Manager, wait
from usbbridge.ipc.monitoring import VERSION, Gone, Hello, Open, Outcome, Plugged, Refused, Reload, Synced

DAEMON = 1
UDEVD = Path("/lib/systemd/systemd-udevd")


# ---- what it tells of


def present(rig: Rig) -> dict[str, object]:
    client = Client()
    device = client.stick()
    facts = {"entry": [device.entry.ids, device.entry.serial, list(device.entry.drivers)]}
    facts |= {"obstacle": device.entry.obstacle is None, "verdict": device.verdict}
    facts |= {"descriptors": device.descriptors[:36], "id": device.id == f"1-1#{device.entry.devnum}"}
    client.close()
    return facts


def plugged(rig: Rig) -> dict[str, object]:
    """Unplugged and plugged in while a client listens."""
    client = Client()
    gone = client.stick().id
    unplug(rig.stick)
    facts: dict[str, object] = {"gone": client.until(Gone)[0].device == gone}
    plug(rig.stick)
    first = client.until(Plugged, lambda m: m.device.entry.bus_port == "1-1")[0].device
    facts |= {"complete at once": len(first.entry.interfaces), "another id": first.id != gone}
    client.wait_for(lambda d: d.entry.drivers == ("usb-storage",))
    facts["told"] = sum(isinstance(m, Plugged) and m.device.id == first.id for m in client.heard)
    client.close()
    wait(back)
    return facts


def lost(rig: Rig) -> dict[str, object]:
    """More events than there is room for, while the monitor does not look; and a device that goes meanwhile."""
    client = Client()
    before = client.stick().id
    rig.monitor.process.send_signal(signal.SIGSTOP)
    flood(20_000)
    unplug(rig.stick)
    wait(lambda: not INTERFACE.exists())
    plug(rig.stick)
    wait(back)
    rig.monitor.process.send_signal(signal.SIGCONT)
    client.until(Gone, lambda gone: gone.device == before)
    client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
    client.close()
    return {"said": LOG.read_text().count("events were lost") > 0}


def with_udevd(rig: Rig) -> dict[str, object]:
    """The same monitor where udevd runs: a device that is plugged in, and what is said of the source."""
    manager, silent = Manager(), subprocess.DEVNULL
    udevd = subprocess.Popen([UDEVD], stdout=silent, stderr=silent, env=os.environ | manager.environment)
    manager.wait_ready()
    rig.restart()
    client = Client()
    before = client.stick().id
    unplug(rig.stick)
    client.until(Gone, lambda gone: gone.device == before)
    plug(rig.stick)
    client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
    wait(back)
    answer, fd, lease = client.open()
    give_back(client, held(fd, lease))
    client.close()
    udevd.terminate()
    udevd.wait()
    manager.close()
    Path("/run/udev/control").unlink(missing_ok=True)
    rig.restart()
    return {"answer": answer.kind, "said": "told of others by udevd" in LOG.read_text()}


# ---- whom it serves


def not_permitted(rig: Rig) -> dict[str, object]:
    """Every request that is not in the table for whoever makes it."""

    def ends(*said: Any, greet: bool = True, fds: tuple[int, ...] = ()) -> bool:
        client = Client(greet=greet)
        for data in said:
            if isinstance(data, bytes):
                socket.send_fds(client.sock, [data], fds)
            else:
                client.channel.send(data, *fds)
        return client.ended()

    null = os.open("/dev/null", os.O_RDONLY)
    facts: dict[str, object] = {
        "unknown kind": ends(b'{"kind":"shell"}'),
        "no json": ends(b"\xff\xfe"),
        "wrong field": ends(b'{"kind":"open","request":"1","device":"1-1#2"}'),
        "before hello": ends(Synced(), greet=False),
        "hello twice": ends(Hello(VERSION)),
        "other version": ends(Hello(VERSION + 1), greet=False),
        "open without a lease": ends(Open(1, "1-1#2")),
        "a lease that is a file": ends(Open(1, "1-1#2"), fds=(null,)),
        "a descriptor too many": ends(Synced(), fds=(null,)),
        "outcome": ends(Outcome("1-1#2", "won")),
        "control reloads": as_user(DAEMON, lambda: ends(Reload())),
        "control is greeted": as_user(DAEMON, lambda: len(Client().devices)),
        "another user": as_user(NOBODY, of_another_user),
    }
    client = Client()
    client.channel.send(Reload())
    client.channel.send(Synced())
    lease, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.channel.send(Open(3, "1-1#2000"), theirs.fileno())
    facts["not there"] = client.until(Refused)[0].status
    lease.close()
    client.close()
    os.close(null)
    return facts


def of_another_user() -> str:
    try:
        connect()
    except OSError as error:
        return type(error).__name__
    return "connected"


def denied(rig: Rig) -> dict[str, object]:
    """A keyboard, and who asks for it all the same."""
    unplug(rig.stick)
    client = Client()
    keys = gadget("keys", "hid.usb0", KEYBOARD)
    plug(keys)
    device = client.wait_for(lambda d: d.entry.drivers == ("usbhid",) and d.entry.interfaces[0].usages)
    facts: dict[str, object] = {"verdict": device.verdict, "usages": list(device.entry.interfaces[0].usages)}
    answer, fd, _ = client.open(force=True)
    facts |= {"answer": [answer.kind, answer.status], "fd": fd, "ended": client.ended()}
    client.close()
    lines = LOG.read_text()
    facts["said"] = f"process {os.getpid()} of user 0 was ended: it asked for 1-1" in lines
    unplug(keys)
    return facts


def a_second_instance(rig: Rig) -> dict[str, object]:
    second = Monitor(serves=False)
    status = second.process.wait()
    Client().close()
    return {"status": status}


def end(rig: Rig) -> dict[str, object]:
    facts: dict[str, object] = {"status": rig.monitor.end()}
    facts["left"] = sorted(path.name for path in (RUN / "run").iterdir())
    return facts


# ---- all of it


def partitioned_image() -> None:
    """32 MiB with one Linux partition that begins at sector 2048."""
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 63488)
    with IMAGE.open("wb") as image:
        image.truncate(32 << 20)
        image.seek(446)
        image.write(entry)
        image.seek(510)
        image.write(b"\x55\xaa")


def steps() -> dict[str, Callable[[Rig], object]]:
    """In the order in which they are gone through."""
    return {
        "present": present,
        "plugged": plugged,
        **monitor_hand_over.STEPS,
        "lost": lost,
        **({"with udevd": with_udevd} if UDEVD.exists() else {}),
        "not permitted": not_permitted,
        "denied": denied,
        "a second instance": a_second_instance,
        "end": end,
    }


def main() -> dict[str, object]:
    (RUN / "run").mkdir(parents=True)
    paths = {"monitor-socket": SOCKET, "control-socket": RUN / "run/control.sock", "database": RUN / "compat.db"}
    paths |= {"choices": RUN / "choices.json", "handed-out": RUN / "run/handed-out.json"}
    lines = ['[monitor]\nuser = "daemon"\n[paths]', *(f'{key} = "{path}"' for key, path in paths.items())]
    (RUN / "usbbridge.toml").write_text("\n".join(lines))
    partitioned_image()
    facts, rig = Facts(), Rig()
    for name, work in steps().items():
        facts.step(name, lambda work=work: work(rig))
    facts["log"] = LOG.read_text()
    return facts


if __name__ == "__main__":
    print(json.dumps(main()))
