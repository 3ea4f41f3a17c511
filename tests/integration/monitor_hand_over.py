"""Steps of `monitor_in_machine.py`: a device is handed over, and comes back whatever becomes of who has it, of the
monitor, and of itself."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.integration.monitor_rig import RUN, Client, Monitor, Rig, back, give_back, held, kill, plug, run, unplug
from tests.machine.gadgets import INTERFACE, driver
from tests.machine.waiting import wait
from usbbridge.ipc.monitoring import Adopt, Gone, Outcome, Returned, Synced

PLACE = Path("/tmp/my stick")


def listed() -> list[dict[str, object]]:
    """What the monitor's file says is handed out."""
    found: list[dict[str, object]] = json.loads((RUN / "run/handed-out.json").read_text())["devices"]
    return found


def handed_over(rig: Rig) -> dict[str, object]:
    client = Client()
    answer, fd, lease = client.open()
    facts: dict[str, object] = {
        "answer": [answer.kind, answer.request],
        "node": str(Path(f"/proc/self/fd/{fd}").readlink()),
    }
    facts["listed"] = listed()[0]["bus_port"]
    pid = held(fd, lease)
    (INTERFACE / "uevent").write_text("change")  # usbfs claims in silence
    claimed = client.wait_for(lambda d: d.entry.drivers == ("usbfs",))
    facts["no obstacle of our own"] = claimed.entry.obstacle is None
    wait(lambda: not Path("/dev/sda").exists())
    facts["holds"] = [name for name in open_files(rig.monitor) if name.startswith("/dev/sd")]
    facts["while out"] = second(client)
    facts |= {"driver": give_back(client, pid), "listed after": listed()}
    client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
    client.close()
    return facts


def second(client: Client) -> list[object]:
    """Another request while it is out."""
    answer, _, lease = client.open()
    lease.close()
    return [answer.kind, answer.status, answer.message]


def open_files(monitor: Monitor) -> list[str]:
    found = []
    for link in Path(f"/proc/{monitor.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return found


def guarded(rig: Rig) -> dict[str, object]:
    PLACE.mkdir(exist_ok=True)
    client = Client()
    assert run("mount", "/dev/sda1", str(PLACE)) == 0
    obstacle = client.wait_for(lambda d: d.entry.obstacle).entry.obstacle
    facts: dict[str, object] = {"told": obstacle.message, "fds": rig.monitor.fds()}
    answer, _, lease = client.open()
    facts["refused"] = [answer.kind, answer.status, answer.message, "--unmount" in answer.hint]
    lease.close()
    answer, fd, lease = client.open(unmount=True)
    facts["unmounted"] = [answer.kind, PLACE.is_mount()]
    facts["mount while it is out"] = [run("mount", node, str(PLACE)) for node in ("/dev/sda1", "/dev/sda")]
    os.close(fd)
    lease.close()
    client.until(Returned)
    facts["mount after"] = run("mount", "/dev/sda1", str(PLACE))
    client.wait_for(lambda d: d.entry.obstacle)
    answer, fd, lease = client.open(force=True)
    facts["forced"] = [answer.kind, PLACE.is_mount()]
    os.close(fd)
    lease.close()
    client.until(Returned)
    run("umount", str(PLACE))
    client.wait_for(lambda d: d.entry.obstacle is None)
    client.close()
    return facts


def busy(rig: Rig) -> dict[str, object]:
    """Mounts that can't be ended or seen, and swap."""
    client = Client()
    facts: dict[str, object] = {}
    run("mount", "/dev/sda1", str(PLACE))
    with (PLACE / "file").open("w"):
        answer, _, lease = client.open(unmount=True)
        facts["used"] = [answer.status, answer.message]
        lease.close()
    run("umount", str(PLACE))
    wait(Path("/dev/sda1").exists)
    script = f"mount /dev/sda1 '{PLACE}' && echo up && exec cat"
    hidden = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert hidden.stdout is not None
    hidden.stdout.readline()
    answer, _, lease = client.open()
    facts["hidden"] = [answer.status, answer.message, PLACE.is_mount()]
    lease.close()
    hidden.communicate()
    run("mkswap", "/dev/sda1")
    run("swapon", "/dev/sda1")
    told = client.wait_for(lambda d: d.entry.obstacle and "swap" in d.entry.obstacle.message)
    facts["swap told"] = told.entry.obstacle.message
    answer, _, lease = client.open()
    facts["swap"] = [answer.status, answer.message]
    lease.close()
    run("swapoff", "/dev/sda1")
    client.wait_for(lambda d: d.entry.obstacle is None)
    run("mkfs.ext4", "-q", "-F", "/dev/sda1")
    client.close()
    return facts


def adopted(rig: Rig) -> dict[str, object]:
    """The monitor is killed; the holder lives, is adopted, and dies."""
    client = Client()
    _, fd, lease, theirs = client.open_and_keep()
    pid = held(fd, lease)
    rig.restart(signal.SIGKILL)
    client = Client()
    facts: dict[str, object] = {"still claimed": driver(), "obstacle": client.stick().entry.obstacle is None}
    client.channel.send(Adopt(client.stick().id), theirs.fileno())
    client.channel.send(Synced())
    theirs.close()
    answer, _, other = client.open()
    other.close()
    facts |= {"asked for meanwhile": answer.kind, "claimed": driver()}
    facts["driver"] = give_back(client, pid)
    client.close()
    return facts


def orphaned(rig: Rig) -> dict[str, object]:
    """The monitor is killed, and the holder before the next one begins."""
    client = Client()
    _, fd, lease = client.open()
    pid = held(fd, lease)
    rig.monitor.end(signal.SIGKILL)
    kill(pid)
    facts: dict[str, object] = {"left": driver()}
    rig.monitor = Monitor()
    wait(back)
    facts["at start"] = driver()
    client = Client()
    client.channel.send(Synced())
    client.until(Returned)
    facts["listed after"] = listed()
    client.close()
    return facts


def unclaimed(rig: Rig) -> dict[str, object]:
    """The monitor is killed, nobody knows the holder, and it dies later."""
    client = Client()
    _, fd, lease = client.open()
    pid = held(fd, lease)
    rig.restart(signal.SIGKILL)
    client = Client()
    client.channel.send(Synced())
    facts: dict[str, object] = {"obstacle": client.wait_for(lambda d: d.entry.obstacle).entry.obstacle.reason}
    facts["driver"] = give_back(client, pid)
    client.close()
    return facts


def unplugged_while_out(rig: Rig) -> dict[str, object]:
    client = Client()
    _, fd, lease = client.open()
    pid = held(fd, lease)
    unplug(rig.stick)
    client.until(Gone)
    client.channel.send(Outcome("1-1#999", "ended"))
    kill(pid)
    plug(rig.stick)
    wait(back)
    client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
    answer, fd, lease = client.open()
    os.close(fd)
    lease.close()
    client.until(Returned)
    client.close()
    return {"again": answer.kind, "returned": sum(isinstance(m, Returned) for m in client.heard)}


def rounds(rig: Rig) -> dict[str, object]:
    """Fifty times handed out and given back."""
    client = Client()

    def once() -> None:
        _, fd, lease = client.open()
        os.close(fd)
        lease.close()
        client.until(Returned)

    once()
    before = rig.monitor.fds()
    for _ in range(50):
        once()
    facts = {"fds": rig.monitor.fds() - before, "memory": rig.monitor.status("VmRSS")}
    facts["threads"] = rig.monitor.status("Threads")
    client.close()
    return facts


STEPS: dict[str, Callable[[Rig], object]] = {
    "handed over": handed_over,
    "guarded": guarded,
    "busy": busy,
    "adopted": adopted,
    "orphaned": orphaned,
    "unclaimed": unclaimed,
    "unplugged while out": unplugged_while_out,
    "rounds": rounds,
}
"By name; each leaves the stick plugged in and the monitor running."
