"""What is said of a device that a VM has refused without a word."""

import pytest

from usbbridge.redirect.refusal import hint
from usbbridge.usb.ch9 import Speed
from usbbridge.usb.descriptors import Endpoint

BULK = Endpoint(0x81, 2, 512, 0)
REPORT = Endpoint(0x82, 3, 8, 10)
LARGE_REPORT = Endpoint(0x82, 3, 512, 4)
SOUND = Endpoint(0x03, 1, 192, 1)


@pytest.mark.parametrize(
    ("speed", "endpoint", "words"),
    [
        (Speed.LOW, REPORT, "it is a low speed device, which EHCI alone (usb-ehci) does not carry"),
        (Speed.FULL, BULK, "it is a full speed device, which EHCI alone (usb-ehci) does not carry"),
        (
            Speed.HIGH,
            SOUND,
            "it is a high speed device with isochronous endpoints, "
            "which UHCI or OHCI alone (piix3-uhci, pci-ohci) does not carry",
        ),
        (
            Speed.HIGH,
            LARGE_REPORT,
            "it is a high speed device with interrupt packets of 512 bytes, "
            "which UHCI or OHCI alone (piix3-uhci, pci-ohci) does not carry",
        ),
        (
            Speed.SUPER,
            SOUND,
            "it is a SuperSpeed device with isochronous endpoints, which UHCI or OHCI alone (piix3-uhci, pci-ohci) or "
            "EHCI alone (usb-ehci) or EHCI with UHCI beside it (ich9-ehci1) does not carry",
        ),
    ],
)
def test_a_controller_that_does_not_carry_it_is_named_with_the_one_that_does(
    speed: Speed, endpoint: Endpoint, words: str
) -> None:
    said = hint(speed, [endpoint], filtered=True)
    assert said.startswith(words + ": ")
    assert "<controller type='usb' model='qemu-xhci'/>" in said
    assert "-device qemu-xhci" in said
    assert "filter" not in said


def test_as_long_as_the_vm_has_told_no_filter_that_may_be_the_reason_as_well() -> None:
    said = hint(Speed.LOW, [REPORT], filtered=False)
    assert "qemu-xhci" in said
    assert "<redirfilter>" in said


def test_the_filter_is_to_blame_for_a_device_that_any_controller_takes() -> None:
    said = hint(Speed.HIGH, [BULK, REPORT], filtered=False)
    assert "so that its USB filter denies it" in said
    assert "xhci" not in said


def test_nothing_is_made_up_if_neither_can_be_the_reason() -> None:
    assert "QEMU's log" in hint(Speed.SUPER, [BULK], filtered=True)
