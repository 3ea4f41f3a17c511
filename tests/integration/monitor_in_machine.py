"""Runs inside a machine with dummy_hcd and configfs gadgets, as root: the monitor as a process, a drive and a keyboard.
Prints what happened, as JSON by name; `test_monitor.py` judges it."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.integration.redirect_in_machine import REPORT_DESCRIPTOR, gadget, wait
from usbbridge.ipc.channel import MessageChannel
from usbbridge.ipc.monitoring import (
    ANSWERS,
    VERSION,
    Adopt,
    Gone,
    Hello,
    Listed,
    Open,
    Opened,
    Outcome,
    Plugged,
    PluggedDevice,
    Refused,
    Reload,
    Returned,
    Synced,
)

RUN = Path("/tmp/bridge")
SOCKET = RUN / "run/monitor.sock"
IMAGE = Path("/dev/shm/image")
PLACE = Path("/tmp/my stick")
INTERFACE = Path("/sys/bus/usb/devices/1-1:1.0")
DAEMON, NOBODY = 1, 65534
CLAIM_INTERFACE = 0x8004550F  # linux/usbdevice_fs.h
USBDEVFS_IOCTL = 0xC0105512
DISCONNECT = 0x5516


def driver() -> str:
    link = INTERFACE / "driver"
    return link.readlink().name if link.is_symlink() else ""


class Monitor:
    """The process."""

    def __init__(self) -> None:
        self.log = (RUN / "log").open("a")
        command = [sys.executable, "-P", "-m", "usbbridge", "monitor"]
        environment = os.environ | {"USBBRIDGE_CONFIG": str(RUN / "usbbridge.toml"), "USBBRIDGE_MODE": "system"}
        self.process = subprocess.Popen(command, stderr=self.log, env=environment)

    def fds(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def status(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    def end(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        self.log.close()
        return self.process.wait()


class Client:
    """Control, as the monitor sees it."""

    def __init__(self, *, greet: bool = True) -> None:
        self.sock = wait(connect)
        self.sock.settimeout(20)
        self.channel = MessageChannel(self.sock, ANSWERS)
        self.devices: dict[str, PluggedDevice] = {}
        self.heard: list[Any] = []
        if greet:
            self.channel.send(Hello(VERSION))
            self.until(Listed)

    def hear(self) -> tuple[Any, tuple[int, ...]] | None:
        received = self.channel.receive()
        if received is not None:
            message = received[0]
            self.heard.append(message)
            if isinstance(message, Plugged):
                self.devices[message.device.id] = message.device
            elif isinstance(message, Gone):
                del self.devices[message.device]
        return received

    def until(self, kind: type, what: Callable[[Any], object] = lambda _: True) -> tuple[Any, tuple[int, ...]]:
        while True:
            received = self.hear()
            assert received is not None, f"it ended before {kind.__name__}"
            if isinstance(received[0], kind) and what(received[0]):
                return received

    def stick(self) -> PluggedDevice:
        return next(d for d in self.devices.values() if d.entry.bus_port == "1-1")

    def wait_for(self, what: Callable[[PluggedDevice], object]) -> PluggedDevice:
        """Until the device in port 1 is so."""
        while True:
            for device in self.devices.values():
                if device.entry.bus_port == "1-1" and what(device):
                    return device
            assert self.hear() is not None

    def open(self, **options: bool) -> tuple[Any, int, socket.socket]:
        """The answer, the device's descriptor (-1 if none came), and the holder's end of the lease."""
        answer, fd, lease, theirs = self.open_and_keep(**options)
        theirs.close()
        return answer, fd, lease

    def open_and_keep(self, **options: bool) -> tuple[Any, int, socket.socket, socket.socket]:
        """And the monitor's end, which control keeps for the next monitor."""
        lease, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.send(Open(7, self.stick().id, **({"asked": True} | options)), theirs.fileno())
        while True:
            received = self.hear()
            assert received is not None
            if isinstance(received[0], Opened | Refused):
                return received[0], received[1][0] if received[1] else -1, lease, theirs

    def ended(self) -> bool:
        """Whether the monitor ends the connection, whatever else it says before."""
        try:
            while self.hear() is not None:
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()


def connect() -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def held(fd: int, lease: socket.socket) -> int:
    """A process that has claimed the device and holds the lease, as an encoder does; its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with contextlib.suppress(OSError):  # it has no driver at this moment
                fcntl.ioctl(fd, USBDEVFS_IOCTL, struct.pack("@iiP", 0, DISCONNECT, 0))
            fcntl.ioctl(fd, CLAIM_INTERFACE, struct.pack("I", 0))
            os.write(writer, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1), "it could not be claimed"
    os.close(reader)
    os.close(fd)
    lease.close()
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(*command: str) -> int:
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def plug(folder: Path) -> None:
    (folder / "UDC").write_text("dummy_udc.0")


def unplug(folder: Path) -> None:
    (folder / "UDC").write_text("\n")


def back() -> bool:
    return driver() == "usb-storage" and Path("/dev/sda1").exists()


def as_user(uid: int, work: Callable[[], object]) -> Any:
    """What `work` returns in a process of that user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = work()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    answer = json.loads(os.read(reader, 1 << 16))
    os.waitpid(pid, 0)
    os.close(reader)
    return answer


# ---- the steps


class Steps:
    def __init__(self) -> None:
        self.stick = gadget("stick", "mass_storage.0", {"lun.0/file": str(IMAGE)})
        attributes = {"protocol": "1", "subclass": "1", "report_length": "8", "report_desc": REPORT_DESCRIPTOR}
        plug(self.stick)
        wait(back)
        self.keys_attributes = attributes
        self.monitor = Monitor()

    def present(self) -> dict[str, object]:
        client = Client()
        device = client.stick()
        facts = {"entry": [device.entry.ids, device.entry.serial, list(device.entry.drivers)]}
        facts |= {"obstacle": device.entry.obstacle is None, "verdict": device.verdict}
        facts |= {"descriptors": device.descriptors[:36], "id": device.id == f"1-1#{device.entry.devnum}"}
        client.close()
        return facts

    def plugged(self) -> dict[str, object]:
        """Unplugged and plugged in while a client listens."""
        client = Client()
        gone = client.stick().id
        unplug(self.stick)
        facts: dict[str, object] = {"gone": client.until(Gone)[0].device == gone}
        plug(self.stick)
        first = client.until(Plugged, lambda m: m.device.entry.bus_port == "1-1")[0].device
        facts |= {"complete at once": len(first.entry.interfaces), "another id": first.id != gone}
        client.wait_for(lambda d: d.entry.drivers == ("usb-storage",))
        facts["told"] = sum(isinstance(m, Plugged) and m.device.id == first.id for m in client.heard)
        client.close()
        wait(back)
        return facts

    def handed_over(self) -> dict[str, object]:
        client = Client()
        answer, fd, lease = client.open()
        facts: dict[str, object] = {
            "answer": [answer.kind, answer.request],
            "node": str(Path(f"/proc/self/fd/{fd}").readlink()),
        }
        facts["listed"] = json.loads((RUN / "run/handed-out.json").read_text())["devices"][0]["bus_port"]
        pid = held(fd, lease)
        claimed = client.wait_for(lambda d: d.entry.drivers == ("usbfs",))
        facts["no obstacle of our own"] = claimed.entry.obstacle is None
        wait(lambda: not Path("/dev/sda").exists())
        facts["holds"] = [name for name in self.open_files() if name.startswith("/dev/sd")]
        facts["while out"] = self.second(client)
        kill(pid)
        client.until(Returned)
        wait(back)
        facts |= {"driver": driver(), "listed after": json.loads((RUN / "run/handed-out.json").read_text())["devices"]}
        client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
        client.close()
        return facts

    def second(self, client: Client) -> list[object]:
        """Another request while it is out."""
        answer, _, lease = client.open()
        lease.close()
        return [answer.kind, answer.status, answer.message]

    def open_files(self) -> list[str]:
        found = []
        for link in Path(f"/proc/{self.monitor.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(link.readlink()))
        return found

    def guarded(self) -> dict[str, object]:
        PLACE.mkdir(exist_ok=True)
        client = Client()
        assert run("mount", "/dev/sda1", str(PLACE)) == 0
        obstacle = client.wait_for(lambda d: d.entry.obstacle).entry.obstacle
        facts: dict[str, object] = {"told": obstacle.message, "fds": self.monitor.fds()}
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

    def busy(self) -> dict[str, object]:
        """Mounts that can't be ended or seen, and swap."""
        client = Client()
        facts: dict[str, object] = {}
        run("mount", "/dev/sda1", str(PLACE))
        with (PLACE / "file").open("w"):
            answer, _, lease = client.open(unmount=True)
            facts["used"] = [answer.status, answer.message]
            lease.close()
        run("umount", str(PLACE))
        wait(lambda: Path("/dev/sda1").exists())
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
        facts["swap told"] = client.wait_for(lambda d: d.entry.obstacle).entry.obstacle.message
        answer, _, lease = client.open()
        facts["swap"] = [answer.status, answer.message]
        lease.close()
        run("swapoff", "/dev/sda1")
        client.wait_for(lambda d: d.entry.obstacle is None)
        run("mkfs.ext4", "-q", "-F", "/dev/sda1")
        client.close()
        return facts

    def restart(self) -> None:
        self.monitor.end(signal.SIGKILL)
        self.monitor = Monitor()

    def adopted(self) -> dict[str, object]:
        """The monitor is killed; the holder lives, is adopted, and dies."""
        client = Client()
        _, fd, lease, theirs = client.open_and_keep()
        pid = held(fd, lease)
        self.restart()
        client = Client()
        facts: dict[str, object] = {"still claimed": driver(), "obstacle": client.stick().entry.obstacle is None}
        client.channel.send(Adopt(client.stick().id), theirs.fileno())
        client.channel.send(Synced())
        theirs.close()
        answer, _, other = client.open()
        other.close()
        facts |= {"asked for meanwhile": answer.kind, "claimed": driver()}
        kill(pid)
        client.until(Returned)
        wait(back)
        facts["driver"] = driver()
        client.close()
        return facts

    def orphaned(self) -> dict[str, object]:
        """The monitor is killed, and the holder before the next one begins."""
        client = Client()
        _, fd, lease = client.open()
        pid = held(fd, lease)
        self.monitor.end(signal.SIGKILL)
        kill(pid)
        facts: dict[str, object] = {"left": driver()}
        self.monitor = Monitor()
        wait(back)
        facts["at start"] = driver()
        client = Client()
        client.channel.send(Synced())
        client.until(Returned)
        facts["listed after"] = json.loads((RUN / "run/handed-out.json").read_text())["devices"]
        client.close()
        return facts

    def unclaimed(self) -> dict[str, object]:
        """The monitor is killed, nobody knows the holder, and it dies later."""
        client = Client()
        _, fd, lease = client.open()
        pid = held(fd, lease)
        self.restart()
        client = Client()
        client.channel.send(Synced())
        facts: dict[str, object] = {"obstacle": client.wait_for(lambda d: d.entry.obstacle).entry.obstacle.reason}
        kill(pid)
        client.until(Returned)
        wait(back)
        facts["driver"] = driver()
        client.close()
        return facts

    def unplugged_while_out(self) -> dict[str, object]:
        client = Client()
        _, fd, lease = client.open()
        pid = held(fd, lease)
        unplug(self.stick)
        client.until(Gone)
        client.channel.send(Outcome("1-1#999", "ended"))
        kill(pid)
        plug(self.stick)
        wait(back)
        client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
        answer, fd, lease = client.open()
        os.close(fd)
        lease.close()
        client.until(Returned)
        client.close()
        return {"again": answer.kind, "returned": sum(isinstance(m, Returned) for m in client.heard)}

    def rounds(self) -> dict[str, object]:
        """Fifty times handed out and given back."""
        client = Client()

        def once() -> None:
            _, fd, lease = client.open()
            os.close(fd)
            lease.close()
            client.until(Returned)

        once()
        before = self.monitor.fds()
        for _ in range(50):
            once()
        facts = {"fds": self.monitor.fds() - before, "memory": self.monitor.status("VmRSS")}
        facts["threads"] = self.monitor.status("Threads")
        client.close()
        return facts

    def lost(self) -> dict[str, object]:
        """More events than there is room for, while the monitor does not look; and a device that goes meanwhile."""
        client = Client()
        before = client.stick().id
        self.monitor.process.send_signal(signal.SIGSTOP)
        for _ in range(30_000):
            Path("/sys/bus/usb/devices/usb1/uevent").write_text("change")
        unplug(self.stick)
        wait(lambda: not INTERFACE.exists())
        plug(self.stick)
        wait(back)
        self.monitor.process.send_signal(signal.SIGCONT)
        client.until(Gone, lambda gone: gone.device == before)
        client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
        client.close()
        return {"said": (RUN / "log").read_text().count("events were lost") > 0}

    def with_udevd(self) -> dict[str, object]:
        """The same monitor where udevd runs: a device that is plugged in, and what is said of the source."""
        udevd = subprocess.Popen(["/lib/systemd/systemd-udevd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(Path("/run/udev/control").exists)
        self.monitor.end()
        self.monitor = Monitor()
        client = Client()
        before = client.stick().id
        unplug(self.stick)
        client.until(Gone, lambda gone: gone.device == before)
        plug(self.stick)
        client.wait_for(lambda d: d.entry.drivers == ("usb-storage",) and d.entry.obstacle is None)
        wait(back)
        answer, fd, lease = client.open()
        pid = held(fd, lease)
        kill(pid)
        client.until(Returned)
        wait(back)
        client.close()
        udevd.terminate()
        udevd.wait()
        Path("/run/udev/control").unlink(missing_ok=True)
        self.monitor.end()
        self.monitor = Monitor()
        return {"answer": answer.kind, "said": "told of others by udevd" in (RUN / "log").read_text()}

    def not_permitted(self) -> dict[str, object]:
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
            "another user": as_user(NOBODY, self.of_another_user),
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

    @staticmethod
    def of_another_user() -> str:
        try:
            connect()
        except OSError as error:
            return type(error).__name__
        return "connected"

    def denied(self) -> dict[str, object]:
        """A keyboard, and who asks for it all the same."""
        unplug(self.stick)
        client = Client()
        keys = gadget("keys", "hid.usb0", self.keys_attributes)
        plug(keys)
        device = client.wait_for(lambda d: d.entry.drivers == ("usbhid",) and d.entry.interfaces[0].usages)
        facts: dict[str, object] = {"verdict": device.verdict, "usages": list(device.entry.interfaces[0].usages)}
        answer, fd, _ = client.open(force=True)
        facts |= {"answer": [answer.kind, answer.status], "fd": fd, "ended": client.ended()}
        client.close()
        lines = (RUN / "log").read_text()
        facts["said"] = f"process {os.getpid()} of user 0 was ended: it asked for 1-1" in lines
        unplug(keys)
        return facts

    def a_second_instance(self) -> dict[str, object]:
        second = Monitor()
        status = second.process.wait()
        Client().close()
        return {"status": status}

    def end(self) -> dict[str, object]:
        facts: dict[str, object] = {"status": self.monitor.end()}
        facts["left"] = sorted(path.name for path in (RUN / "run").iterdir())
        return facts


def partitioned_image() -> None:
    """32 MiB with one Linux partition that begins at sector 2048, and an ext4 in it."""
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 63488)
    with IMAGE.open("wb") as image:
        image.truncate(32 << 20)
        image.seek(446)
        image.write(entry)
        image.seek(510)
        image.write(b"\x55\xaa")


def steps() -> Iterator[tuple[str, Callable[[], object]]]:
    s = Steps()
    yield "present", s.present
    assert run("mkfs.ext4", "-q", "-F", "/dev/sda1") == 0
    yield "plugged", s.plugged
    yield "handed over", s.handed_over
    yield "guarded", s.guarded
    yield "busy", s.busy
    yield "adopted", s.adopted
    yield "orphaned", s.orphaned
    yield "unclaimed", s.unclaimed
    yield "unplugged while out", s.unplugged_while_out
    yield "rounds", s.rounds
    yield "lost", s.lost
    if Path("/lib/systemd/systemd-udevd").exists():
        yield "with udevd", s.with_udevd
    yield "not permitted", s.not_permitted
    yield "denied", s.denied
    yield "a second instance", s.a_second_instance
    yield "end", s.end


def main() -> dict[str, object]:
    (RUN / "run").mkdir(parents=True)
    paths = {"monitor-socket": SOCKET, "control-socket": RUN / "run/control.sock", "database": RUN / "compat.db"}
    paths |= {"choices": RUN / "choices.json", "handed-out": RUN / "run/handed-out.json"}
    lines = ['[monitor]\nuser = "daemon"\n[paths]', *(f'{key} = "{path}"' for key, path in paths.items())]
    (RUN / "usbbridge.toml").write_text("\n".join(lines))
    partitioned_image()
    facts: dict[str, object] = {}
    for name, work in steps():
        try:
            facts[name] = work()
        except BaseException:
            facts[name] = traceback.format_exc()
    facts["log"] = (RUN / "log").read_text()
    return facts


if __name__ == "__main__":
    print(json.dumps(main()))
