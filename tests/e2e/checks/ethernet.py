"""A CDC-ECM network adapter, through cdc_ether: a ping, and datagrams that come back as they were sent."""

import os
import re
import socket
from pathlib import Path

from tests.e2e.checks.common import expect, fail, load, program, report, wait_for
from tests.e2e.checks.drivers import arguments, attribute, child, identity, interface_of
from tests.machine.waiting import netlink
from tools.lab.devices.peer import ADDRESS, NETWORK, OTHER_ADDRESS

PING_SIZES = (56, 1472)
"Bytes of data: the usual, and as many as a frame holds."
PINGS = 3
ECHO_PORT = 7
DATAGRAMS = 200
AT_ONCE = 8
"Datagrams under way: fewer than the adapter keeps for a host that doesn't fetch them."
MAX_DATAGRAM = 1472
RTMGRP_LINK = 1
"The multicast group of changes of network interfaces (rtnetlink(7))."
PATIENCE = 10.0


def link_of(interface: Path) -> str:
    """The network interface that the driver has made of a USB interface."""
    return child(interface, "net/*")


def ping(size: int) -> int:
    """How many of `PINGS` were answered; the check ends unless all were."""
    text = program(["busybox", "ping", "-c", str(PINGS), "-s", str(size), "-W", "10", ADDRESS]).stdout
    found = re.search(r"(\d+) packets transmitted, (\d+) packets received", text)
    if found is None or found[1] != found[2]:
        fail(f"pings of {size} bytes: {text}")
    return int(found[2])


def datagrams() -> dict[str, object]:
    """UDP to the host's echo port; each must come back, whole and in order."""
    sizes = [1 + (MAX_DATAGRAM - 1) * i // (DATAGRAMS - 1) for i in range(DATAGRAMS)]
    waiting: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, ECHO_PORT))
        sock.settimeout(PATIENCE)
        for number, size in enumerate(sizes):
            waiting.append(os.urandom(size))
            sock.send(waiting[-1])
            while len(waiting) >= AT_ONCE or (waiting and number == DATAGRAMS - 1):
                sent = waiting.pop(0)
                expect(receive(sock) == sent, f"another datagram came back than one of {len(sent)} bytes")
    return {"datagrams": DATAGRAMS, "bytes": sum(sizes)}


def receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(2 * MAX_DATAGRAM)
    except TimeoutError:
        fail("a datagram did not come back")


def bring_up(link: str) -> str:
    """Give the link its address, wait for its cable; its hardware address."""
    folder = Path("/sys/class/net") / link
    program(["ip", "address", "replace", f"{OTHER_ADDRESS}/{NETWORK.rpartition('/')[2]}", "dev", link])
    program(["ip", "link", "set", link, "up"])
    with netlink(socket.NETLINK_ROUTE, RTMGRP_LINK) as links:
        wait_for(lambda: attribute(folder, "carrier") == "1", f"carrier of {link}", links)
    return attribute(folder, "address")


def main() -> None:
    """See the top."""
    options = arguments()
    load("cdc_ether")
    interface = interface_of("cdc_ether", link_of, options.serial)
    link = link_of(interface)
    mac = bring_up(link)
    pings = {f"pings_{size}": ping(size) for size in PING_SIZES}
    report(link=link, mac=mac, **identity(interface), **pings, **datagrams())


if __name__ == "__main__":
    main()
