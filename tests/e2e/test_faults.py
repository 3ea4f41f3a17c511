"""What goes wrong in real life, in the middle of a read."""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.rig import MIB, SOON, Measured, Usbbridge, complaint, detach, sha256, with_ticket
from tools.lab import Client, Plugged, Process, Vm

# The read is under way once this much of it has come.
UNDER_WAY = 2 * MIB

# How long a VM is paused: longer than any time limit of a channel that is merely slow.
PAUSED_SECONDS = 10.0


def reading(vm: Vm) -> Process:
    """A read of the whole disk in the guest, under way; what is read comes out on its standard output."""
    reader = vm.start(["dd", f"if={vm.wait_block_device()}", "bs=1M", "iflag=direct", "status=none"])
    reader.wait_bytes(UNDER_WAY)
    return reader


def returned(client: Client, stick: Plugged, since: float) -> float:
    """When the device came back to its kernel driver after `since`, both by the client machine's clock."""
    client.wait_driver(stick, "usb-storage")
    bound = client.uevents(ACTION="bind", SUBSYSTEM="usb", DRIVER="usb-storage")
    return min(at for at, event in bound if at > since and f"/{stick.bus_port}:" in event["DEVPATH"])


@pytest.mark.parametrize("way", ["spice", "tcp"])
def test_unplugging_during_a_read_ends_the_command_and_is_seen_by_the_guest(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path, measured: Measured, way: str
) -> None:
    stick = client.plug("usb-storage", image=image)
    where, options = (vm.spice, with_ticket()) if way == "spice" else (vm.tcp, [])
    with usbbridge.attach(stick.bus_port, where, *options) as attached, reading(vm) as reader:
        client.pull(stick)
        done = attached.wait()
        vm.wait_no_block_device()
        assert reader.wait().status != 0

    [pulled] = [
        at
        for at, event in client.uevents(ACTION="remove", DEVTYPE="usb_device")
        if event["DEVPATH"].endswith(f"/{stick.bus_port}") and at > attached.began
    ]
    assert done.status == 1
    assert complaint(done)
    measured(f"from unplugging to the command's end ({way})", done.ended - pulled)
    assert done.ended - pulled < SOON


def test_vm_that_dies_during_a_read_gives_the_device_back_to_the_client(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as attached, reading(vm):
        killed = client.now()
        vm.kill()
        done = attached.wait()
        back = returned(client, stick, killed)

    assert done.status == 1
    assert complaint(done)
    measured("from the VM's death to the device's return", back - killed)
    measured("from the VM's death to the command's end", done.ended - killed)
    assert back - killed < SOON
    assert client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0] == sha256(image)


def test_killed_command_leaves_nothing_behind(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as attached, reading(vm) as reader:
        node = client.node(stick)
        assert client.holders(node)
        killed = client.now()
        client.shell(f"kill -KILL {attached.pid}")
        assert attached.wait().status == -9
        client.wait_until(lambda: not client.processes("usbbridge.encoder"), "end of the encoder")
        assert client.holders(node) == []
        measured("from SIGKILL to the device's return", returned(client, stick, killed) - killed)
        assert reader.wait().status != 0
        vm.wait_no_block_device()

    assert client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0] == sha256(image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as again:
        vm.wait_block_device()
        detach(again)


def test_killed_encoder_ends_the_command_and_gives_the_device_back(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path
) -> None:
    stick = client.plug("usb-storage", image=image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as attached, reading(vm):
        [encoder] = client.processes("usbbridge.encoder")
        client.shell(f"kill -KILL {encoder}")
        done = attached.wait()
        client.wait_driver(stick, "usb-storage")
        vm.wait_no_block_device()

    assert done.status == 1
    assert complaint(done)
    assert client.holders(client.node(stick)) == []


def test_paused_vm_goes_on_with_its_read_when_it_is_resumed(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as attached, reading(vm) as reader:
        vm.pause()
        threading.Event().wait(PAUSED_SECONDS)  # the passing of real time is what is tested here
        assert attached.running
        read, resumed = len(reader.stdout), time.monotonic()
        vm.resume()
        reader.wait_bytes(read + UNDER_WAY)
        measured("from the VM's resumption to its read's going on", time.monotonic() - resumed)
        done = reader.wait()
        assert done.status == 0
        assert hashlib.sha256(done.stdout).hexdigest() == sha256(image)
        # the answer was waiting: the guest's driver has not had to reset the device after its 30 seconds
        assert "reset" not in vm.shell("dmesg").text.rpartition("Attached SCSI removable disk")[2]
        detach(attached)


def test_network_that_is_cut_for_a_moment_does_not_end_the_read(
    client: Client, vm: Vm, usbbridge: Usbbridge, image: Path
) -> None:
    stick = client.plug("usb-storage", image=image)
    with usbbridge.attach(stick.bus_port, vm.spice, *with_ticket()) as attached, reading(vm) as reader:
        client.network(up=False)
        assert client.run(["cat", "/sys/class/net/eth0/carrier"]).text == "0"
        client.network(up=True)
        done = reader.wait()
        assert done.status == 0
        assert hashlib.sha256(done.stdout).hexdigest() == sha256(image)
        detach(attached)
