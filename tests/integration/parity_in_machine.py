"""Runs inside a machine with vhci-hcd, as root: every script with both hosts, one after the other, on the same
emulated device. Prints a line of JSON for each: what was heard (host -> step -> lines), and what the hosts logged.

    python parity_in_machine.py [WORD ...]      only scripts whose names contain one of the words
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.parity import cusbredirhost, our_host
from tests.integration.parity.differences import OURS, REFERENCE, expected_packets
from tests.integration.parity.guest import Guest, Heard
from tests.integration.parity.script import Act, Script
from tests.integration.parity.scripts import SCRIPTS
from tests.machine.usb import DEVICES, node
from tests.machine.waiting import wait_end
from tools.lab.plug import Plugs, Port
from usbbridge.backend import libusb_library
from usbbridge.usb.ch9 import Speed

VERSION = "parity"
"What both hosts call themselves in their hello."
HOSTS = {REFERENCE: cusbredirhost.serve, OURS: our_host.serve}
PROCESS = "the host's process"
"A step of every script: how the host's process ended, if not well."
Kind = tuple[Speed, bool]
"A device: its speed, and whether it may be reset."
PORTS: dict[Kind, int] = {
    (Speed.HIGH, False): 0,
    (Speed.HIGH, True): 1,
    (Speed.FULL, False): 2,
    (Speed.SUPER, False): 8,
}
NEVER_RESET = "1210:001c"
"""A device that both hosts know not to bear a reset. That saves a third of a second each time: so long the kernel takes
for one."""
PLUG_SECONDS = 20.0
END_SECONDS = 10.0
"How long a host has to give the device back. Ours waits for a guest's acknowledgement that does not come, 1 s."
LOG = Path("/tmp/log")


class Bench:
    """The devices, plugged in when they are wanted first. Each is served by a process of its own: to end one with
    isochronous transfers under way in the process that serves the device would hang this machine."""

    def __init__(self) -> None:
        self._servers: dict[Kind, int] = {}
        self._folders: dict[Kind, Path] = {}

    def node(self, kind: Kind) -> Path:
        """The node of a device that is as if it had just been plugged in."""
        if kind in self._servers and not self._folders[kind].exists():
            self.unplug(kind)
        if kind not in self._servers:
            self._plug(kind)
        folder = self._folders[kind]
        (folder / "bConfigurationValue").write_text("1")  # the device forgets whatever it was told to do
        return node(folder)

    def _plug(self, kind: Kind) -> None:
        speed, resets = kind
        spec = f"paragon,speed={speed.name.lower()}" + ("" if resets else f",ids={NEVER_RESET}")
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(writer, 1)
            _to_log()
            _and_out(lambda: Plugs([(PORTS[kind], spec)]).serve())
        os.close(writer)
        assert select.select([reader], [], [], PLUG_SECONDS)[0], f"{spec} was not plugged in"
        words = os.read(reader, 100).decode().split()
        os.close(reader)
        self._servers[kind], self._folders[kind] = pid, DEVICES / words[1]

    def unplug(self, kind: Kind) -> None:
        """Pull it out, and wait for it to be gone."""
        if kind in self._servers:
            Port(PORTS[kind]).detach()
            _end(self._servers.pop(kind))

    def close(self) -> None:
        """Pull all out."""
        for kind in list(self._servers):
            self.unplug(kind)


def _and_out(work: Callable[[], None]) -> None:
    """What a forked process does; it never returns."""
    try:
        work()
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def _to_log() -> None:
    with LOG.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)


def _end(pid: int) -> str:
    """Wait for a process; how it ended, if not well."""
    if not wait_end(pid, END_SECONDS):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "did not end"
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"ended with {code}" if code else ""


def play(script: Script, host: str, bench: Bench) -> Heard:
    """One run: a host in a process of its own, the guest in this one."""
    node = bench.node((script.speed, script.resets))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        _to_log()
        _and_out(lambda: HOSTS[host](os.open(node, os.O_RDWR), theirs, VERSION))
    theirs.close()
    with ours:
        expected = expected_packets(host, script.name)
        heard = Guest(ours, script, lambda act: _act(act, script, bench), expected).play()
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
    ended = _end(pid)
    heard[PROCESS] = [ended] if ended else []
    return heard


def _act(act: Act, script: Script, bench: Bench) -> None:
    if act is Act.UNPLUG:
        bench.unplug((script.speed, script.resets))


def main() -> None:
    """See the top."""
    libusb_library.load()  # once, for all that are forked; after libusbredirhost has got the one that it wants
    bench, words = Bench(), sys.argv[1:]
    for script in SCRIPTS:
        if words and not any(word in script.name for word in words):
            continue
        begun = time.monotonic()
        heard = {host: play(script, host, bench) for host in HOSTS}
        facts = {"script": script.name, "heard": heard, "seconds": time.monotonic() - begun, "log": LOG.read_text()}
        print(json.dumps(facts), flush=True)
        LOG.unlink()
    bench.close()


if __name__ == "__main__":
    main()
