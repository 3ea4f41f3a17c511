"""First process of a machine: runs what the lab asks for and reports every uevent of the kernel.

One thread, one selector. It must not end: the kernel would panic and the machine with it, which is exactly how the lab
learns of a defect here. In a machine with systemd it is a service.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import json
import os
import pathlib
import selectors
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import TypedDict

from tools.lab.guest.frames import CHUNK, Kind, Splitter, pack

PORT_NAME = "lab.agent"
NETLINK_KOBJECT_UEVENT = 15
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
KERNEL_UEVENTS = 1  # multicast group of the kernel's own messages; udevd's are group 2

# A process that does not read its standard input keeps at most this much of it waiting here.
MAX_STDIN = 256 * 1024 * 1024


class Request(TypedDict):
    """What to start: body of a SPAWN frame."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    tty: tuple[int, int] | None  # rows and columns of the terminal, if it is to have one


class Child:
    """One process started for the lab, with what is still to be read from it and written to it."""

    def __init__(self, number: int, pid: int, stdin: int, outputs: dict[int, Kind]) -> None:
        self.number = number
        self.pid = pid
        self.stdin = stdin
        self.outputs = outputs
        self.waiting = bytearray()
        self.stdin_ends = False
        self.status: int | None = None


class Agent:
    """Serves one virtio-serial port, or connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = Splitter()
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._queries: dict[str, Callable[[str], object]] = {"glob": _glob, "read": _read, "links": _links}

    def serve(self) -> None:
        """Serve for ever."""
        if os.getpid() != 1:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of what we start come to us here too
        self._listen(self._port, self._requests)
        self._listen(self._uevent_socket(), self._uevent)
        _announce_disks()
        self._listen(_signal_pipe(signal.SIGCHLD), self._reap)
        self._send(Kind.READY, 0, {"release": os.uname().release})
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fileobj) is key:  # else one before it in this round has closed it
                    key.data()

    def _listen(self, source: int | socket.socket, handler: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, handler)

    def _send(self, kind: Kind, number: int, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        frame = memoryview(pack(kind, number, data, time.monotonic()))
        while frame:
            frame = frame[os.write(self._port, frame) :]

    def _requests(self) -> None:
        try:
            data = os.read(self._port, CHUNK)
        except TimeoutError:
            data = b""
        if not data:
            sys.exit("the lab has hung up")
        for kind, number, _, body in self._frames.feed(data):
            match kind:
                case Kind.SPAWN:
                    self._spawn(number, json.loads(body))
                case Kind.STDIN:
                    self._feed(number, body)
                case Kind.SIGNAL:
                    self._signal(number, json.loads(body))
                case Kind.QUERY:
                    self._answer(number, json.loads(body))

    def _answer(self, number: int, query: dict[str, str]) -> None:
        try:
            self._send(Kind.ANSWER, number, self._queries[query["op"]](query["path"]))
        except OSError as error:
            self._send(Kind.FAILED, number, str(error))

    # Processes

    def _spawn(self, number: int, request: Request) -> None:
        try:
            child = _start(number, request)
        except OSError as error:
            self._send(Kind.FAILED, number, str(error))
            return
        self._children[number] = child
        self._send(Kind.SPAWNED, number, child.pid)
        for fd in child.outputs:
            os.set_blocking(fd, False)
            self._listen(fd, functools.partial(self._output, child, fd))
        os.set_blocking(child.stdin, False)

    def _output(self, child: Child, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except OSError as error:  # EIO: the other side of a pseudo-terminal has closed
            if error.errno != errno.EIO:
                raise
            data = b""
        if data:
            self._send(child.outputs[fd], child.number, data)
            return
        self._selector.unregister(fd)
        del child.outputs[fd]
        if fd != child.stdin:
            os.close(fd)
        self._end(child)

    def _feed(self, number: int, data: bytes) -> None:
        child = self._children.get(number)
        if child is None or child.stdin < 0:
            return
        if len(child.waiting) + len(data) > MAX_STDIN:
            self._signal(number, signal.SIGKILL)
            return
        child.waiting += data
        child.stdin_ends = child.stdin_ends or not data
        self._push(child)

    def _push(self, child: Child) -> None:
        """Write what waits; while the pipe is full its own watcher goes on with it."""
        try:
            while child.waiting:
                del child.waiting[: os.write(child.stdin, child.waiting[:CHUNK])]
        except BlockingIOError:
            self._watch_stdin(child)
            return
        except OSError:  # the reader has gone; its exit is reported anyway
            child.waiting.clear()
            child.stdin_ends = True
        self._unwatch_stdin(child)
        if child.stdin_ends:
            self._close_stdin(child)

    def _watch_stdin(self, child: Child) -> None:
        if child.stdin not in self._selector.get_map():
            self._selector.register(child.stdin, selectors.EVENT_WRITE, lambda: self._push(child))

    def _unwatch_stdin(self, child: Child) -> None:
        key = self._selector.get_map().get(child.stdin)
        if key is not None and key.events == selectors.EVENT_WRITE:
            self._selector.unregister(child.stdin)

    def _close_stdin(self, child: Child) -> None:
        if child.stdin >= 0 and child.stdin not in child.outputs:
            self._unwatch_stdin(child)
            os.close(child.stdin)
            child.stdin = -1

    def _signal(self, number: int, signum: int) -> None:
        child = self._children.get(number)
        if child is not None and child.status is None:
            os.killpg(child.pid, signum)

    def _reap(self) -> None:
        os.read(_signal_pipes[signal.SIGCHLD], CHUNK)
        for pid, status in _ended():
            child = next((child for child in self._children.values() if child.pid == pid), None)
            if child is None:
                self._send(Kind.REAPED, 0, pid)
                continue
            child.status = os.waitstatus_to_exitcode(status)
            self._end(child)

    def _end(self, child: Child) -> None:
        """Report the exit once the process has ended and all it wrote has been sent.

        A grandchild that keeps an output open must not hold the report back: what is in the pipe now is all there is.
        """
        if child.status is None or child.number not in self._children:
            return
        del self._children[child.number]
        for fd in list(child.outputs):
            self._drain(child, fd)
        self._close_stdin(child)
        self._send(Kind.EXITED, child.number, child.status)

    def _drain(self, child: Child, fd: int) -> None:
        with contextlib.suppress(OSError):  # nothing more for now, or a closed pseudo-terminal
            while data := os.read(fd, CHUNK):
                self._send(child.outputs[fd], child.number, data)
        self._selector.unregister(fd)
        os.close(fd)
        if fd == child.stdin:
            child.stdin = -1
        del child.outputs[fd]

    # Uevents

    def _uevent_socket(self) -> socket.socket:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
        self._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._netlink.bind((0, KERNEL_UEVENTS))
        return self._netlink

    def _uevent(self) -> None:
        fields = self._netlink.recv(CHUNK).decode(errors="replace").split("\0")[1:]
        self._send(Kind.UEVENT, 0, dict(field.partition("=")[::2] for field in fields if field))


def _announce_disks() -> None:
    """Have the kernel announce again the disks it has found before anybody listened."""
    for path in _glob("/sys/block/s[dr]*/uevent"):
        pathlib.Path(path).write_text("add")


def _start(number: int, request: Request) -> Child:
    """Fork and execute; raises OSError when the program cannot be executed."""
    if request["tty"]:
        master, slave = os.openpty()
        termios.tcsetwinsize(slave, request["tty"])
        pid = _fork_exec(request, (slave, slave, slave), terminal=True)
        os.close(slave)
        return Child(number, pid, master, {master: Kind.STDOUT})
    stdin, ours = os.pipe()
    out, stdout = os.pipe()
    err, stderr = os.pipe()
    try:
        pid = _fork_exec(request, (stdin, stdout, stderr), terminal=False)
    except OSError:
        for fd in (ours, out, err):
            os.close(fd)
        raise
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
    return Child(number, pid, ours, {out: Kind.STDOUT, err: Kind.STDERR})


def _fork_exec(request: Request, fds: tuple[int, int, int], *, terminal: bool) -> int:
    # The pipe closes on exec; an errno in it says that the execution failed.
    report, failure = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(request, fds, terminal)
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(failure)
    failed = os.read(report, 16)
    os.close(report)
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), f"{os.strerror(int(failed))}: {request['argv'][0]}")
    return pid


def _become(request: Request, fds: tuple[int, int, int], terminal: bool) -> None:
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal stays so over exec
    os.chdir(request["cwd"])
    os.execvpe(request["argv"][0], request["argv"], request["env"])


def _ended() -> list[tuple[int, int]]:
    """Every process that has ended: orphans come to the first process of the machine too."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


_signal_pipes: dict[int, int] = {}


def _signal_pipe(signum: int) -> int:
    """A descriptor that becomes readable whenever the signal arrives."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signum, lambda *_: None)
    _signal_pipes[signum] = reader
    return reader


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))  # noqa: PTH207  # pathlib's raises when a process ends under /proc/*/fd


def _read(path: str) -> str:
    return pathlib.Path(path).read_text(errors="replace")


def _links(pattern: str) -> dict[str, str]:
    """The symbolic links that match, and where each points; those that go away meanwhile are left out."""
    found = {}
    for path in _glob(pattern):
        with contextlib.suppress(OSError):
            found[path] = str(pathlib.Path(path).readlink())
    return found


def _open_port() -> int:
    for name in _glob("/sys/class/virtio-ports/*/name"):
        if _read(name).strip() == PORT_NAME:
            return os.open("/dev/" + name.split("/")[-2], os.O_RDWR)
    sys.exit(f"no virtio-serial port named {PORT_NAME}")


def _connect(address: str) -> int:
    """A connection to HOST:PORT, for a machine without virtio-serial."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A lab that was killed has taken the network with it, and says nothing: this machine must not live on for that.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection.detach()


if __name__ == "__main__":
    Agent(_connect(sys.argv[1]) if sys.argv[1:] else _open_port()).serve()
