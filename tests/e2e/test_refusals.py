"""Each reason for which a device cannot be attached has a message and, by kind, a status of its own."""

from collections.abc import Callable

import pytest

from tests.e2e.rig import CA_FILE, Usbbridge, complaint, detach, with_ticket
from tests.e2e.session_thief import SessionThief
from tools.lab import HOST_ADDRESS, Client, Vm, VmOptions
from tools.lab.certificates import SUBJECT
from tools.lab.host import free_ports

NOT_PERMITTED, NOT_FOUND, REFUSED = 3, 4, 5

DISK = "disk:/tmp/small.img"


@pytest.fixture(autouse=True)
def small_image(client: Client) -> None:
    """The image behind DISK."""
    client.shell("head -c 1M /dev/zero > /tmp/small.img")


def test_wrong_ticket(client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    client.put("/tmp/wrong-ticket", b"not this one\n")

    done = usbbridge.fail(DISK, vm.spice, *with_ticket("/tmp/wrong-ticket"))

    assert "refused the password" in complaint(done)
    assert done.status == NOT_PERMITTED


def test_missing_ticket(vm: Vm, usbbridge: Usbbridge) -> None:
    done = usbbridge.fail(DISK, vm.spice)

    assert "wants a password, and none was given" in complaint(done)
    assert done.status == NOT_PERMITTED


def test_vm_without_usb_channel(server: Callable[[VmOptions], Vm], usbbridge: Usbbridge) -> None:
    bare = server(VmOptions(guest=False, channels=0, raw_ports=0))

    done = usbbridge.fail(DISK, bare.spice, *with_ticket())

    assert "no USB redirection channel" in complaint(done)
    assert done.status == NOT_FOUND


def test_channel_in_use(server: Callable[[VmOptions], Vm], usbbridge: Usbbridge) -> None:
    bare = server(VmOptions(guest=False, channels=1, raw_ports=0))
    assert bare.options.ticket is not None

    with SessionThief(bare.spice_port, bare.options.ticket) as thief:
        done = usbbridge.fail(DISK, f"spice://{HOST_ADDRESS}:{thief.port}", *with_ticket())

    assert "busy" in complaint(done)
    assert done.status == REFUSED


def test_raw_port_in_use(vm: Vm, usbbridge: Usbbridge) -> None:
    with usbbridge.attach(DISK, vm.tcp) as attached:
        done = usbbridge.fail(DISK, vm.tcp)
        assert complaint(done)
        assert attached.running
        detach(attached)


def test_unreachable_vm(usbbridge: Usbbridge) -> None:
    [port] = free_ports(1)

    done = usbbridge.fail(DISK, f"spice://{HOST_ADDRESS}:{port}", *with_ticket())

    assert "connection refused" in complaint(done)
    assert done.status == NOT_FOUND


def test_port_that_is_not_spice(vm: Vm, usbbridge: Usbbridge) -> None:
    done = usbbridge.fail(DISK, vm.tcp.replace("tcp:", "spice:"), *with_ticket())

    assert "is not a SPICE port" in complaint(done)
    assert done.status == 1


def test_untrusted_certificate(vm: Vm, usbbridge: Usbbridge) -> None:
    done = usbbridge.fail(DISK, vm.spice_tls, *with_ticket())

    assert "its certificate is not trusted" in complaint(done)
    assert done.status == 1


def test_certificate_with_another_subject(vm: Vm, usbbridge: Usbbridge) -> None:
    options = [*with_ticket(), "--ca-file", CA_FILE, "--host-subject", SUBJECT.replace("vm.lab", "vm.elsewhere")]

    done = usbbridge.fail(DISK, vm.spice_tls, *options)

    assert SUBJECT in complaint(done)
    assert done.status == 1


def test_certificate_with_the_subject_asked_for(vm: Vm, usbbridge: Usbbridge) -> None:
    options = [*with_ticket(), "--ca-file", CA_FILE, "--host-subject", SUBJECT]

    with usbbridge.attach(DISK, vm.spice_tls, *options) as attached:
        vm.wait_block_device()
        detach(attached)


def test_absent_device(client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    client.plug("usb-kbd")

    done = usbbridge.fail("1234:5678", vm.spice, *with_ticket())

    assert "1234:5678" in complaint(done)
    assert done.status == NOT_FOUND
