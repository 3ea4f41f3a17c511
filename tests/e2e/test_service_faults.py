"""What goes wrong in real life, and is put right without anybody's help: dead processes, VMs and networks."""

import threading
from pathlib import Path

from tests.e2e.conftest import Machines
from tests.e2e.rig import Measured, sha256
from tests.e2e.service_rig import VM_NAME, Service, eventually, given_back, reading
from tools.lab import Client, Vm

CUT_SECONDS = 30.0


def test_vm_that_is_switched_off_and_on_has_its_devices_again(
    service: Service, machines: Machines, client: Client, small: Path, measured: Measured
) -> None:
    stick = client.plug("usb-storage", image=small, serial="POWER")
    service.wait_attached(stick)
    with reading(machines.vm):
        killed = client.now()
        machines.vm.kill()
        back = client.wait_until(lambda: given_back(client, stick, killed), "the device's return")
        assert back is not None
    measured("from the VM's death to the device's return by the service", back - killed)
    said = service.wait_state(stick, "waiting")
    assert said["message"]

    vm = machines.vm  # booted again, at the same place
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)
    service.wait_attached(stick)
    assert service.watch.vms[VM_NAME]["state"] == "connected"


def test_network_that_is_cut_for_half_a_minute_comes_back_with_the_device(
    service: Service, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="CUT")
    service.wait_attached(stick)
    with reading(vm):
        client.network(up=False)
        threading.Event().wait(CUT_SECONDS)  # the passing of real time is what is tested here
        client.network(up=True)

        def whole() -> bool:
            disks = vm.block_devices()
            return bool(disks) and service.watch.state(stick.bus_port) == "attached"

        eventually(whole, "the device in the guest")
    disk = vm.wait_block_device()
    assert vm.shell(f"sha256sum < {disk}").text.split()[0] == sha256(small)
    service.wait_attached(stick)


def test_service_that_is_stopped_gives_everything_back_and_leaves_nothing(
    service: Service, client: Client, vm: Vm, small: Path
) -> None:
    stick = client.plug("usb-storage", image=small, serial="STOPPED")
    service.wait_attached(stick)
    vm.wait_block_device()

    done = service.stop()

    assert done.status == 0
    vm.wait_no_block_device()
    client.wait_driver(stick, "usb-storage")
    assert client.glob("/run/usbbridge*/*.sock") == []
    assert client.shell(f"sha256sum < {client.wait_block_device()}").text.split()[0] == sha256(small)

    service.start()  # and knows the device again
    service.wait_attached(stick)
