"""What QEMU's controllers refuse, as hw/usb/redirect.c and the controllers' own speed masks have it."""

import pytest

from usbbridge.usb.ch9 import Speed
from usbbridge.usb.controllers import Rates, in_words, rates, refused_by, refusing
from usbbridge.usb.descriptors import Configuration, Endpoint, Interface

BULK = Endpoint(0x81, 2, 512, 0)
REPORT = Endpoint(0x82, 3, 8, 10)
LARGE_REPORT = Endpoint(0x82, 3, 512, 4)
TWO_REPORTS_A_MICROFRAME = Endpoint(0x82, 3, 1 << 11 | 64, 1)
IMPOSSIBLE_REPORT = Endpoint(0x82, 3, 1025, 1)
SOUND = Endpoint(0x03, 1, 192, 1)


def device(*endpoints: Endpoint) -> Configuration:
    return Configuration(1, 0x80, 50, 0, (Interface(0, 0, 255, 0, 0, 0, endpoints),))


@pytest.mark.parametrize(
    ("speed", "endpoints", "expected"),
    [
        (Speed.LOW, (REPORT,), Rates.LOW),
        (Speed.FULL, (REPORT,), Rates.FULL),
        (Speed.FULL, (SOUND,), Rates.FULL),
        (Speed.HIGH, (BULK, REPORT), Rates.FULL | Rates.HIGH),
        (Speed.HIGH, (TWO_REPORTS_A_MICROFRAME,), Rates.FULL | Rates.HIGH),
        (Speed.HIGH, (LARGE_REPORT,), Rates.HIGH),
        (Speed.HIGH, (SOUND,), Rates.HIGH),
        (Speed.SUPER, (BULK,), Rates.FULL | Rates.HIGH | Rates.SUPER),
        (Speed.SUPER, (LARGE_REPORT,), Rates.HIGH | Rates.SUPER),
        (Speed.SUPER, (IMPOSSIBLE_REPORT,), Rates.SUPER),
        (Speed.SUPER, (SOUND,), Rates.SUPER),
        (Speed.SUPER_PLUS, (SOUND,), Rates.SUPER),
        (Speed.UNKNOWN, (), Rates.FULL | Rates.HIGH),
    ],
)
def test_a_device_can_be_attached_at_its_own_speed_and_at_those_its_endpoints_fit_into(
    speed: Speed, endpoints: tuple[Endpoint, ...], expected: Rates
) -> None:
    assert rates(speed, endpoints) == expected


@pytest.mark.parametrize(
    ("speed", "configuration", "models"),
    [
        (Speed.LOW, device(REPORT), ["usb-ehci"]),
        (Speed.FULL, device(BULK), ["usb-ehci"]),
        (Speed.HIGH, device(BULK), []),
        (Speed.HIGH, device(LARGE_REPORT), ["piix3-uhci, pci-ohci"]),
        (Speed.SUPER, device(BULK), []),
        (Speed.SUPER, device(SOUND), ["piix3-uhci, pci-ohci", "usb-ehci", "ich9-ehci1"]),
        (Speed.HIGH, None, []),
    ],
)
def test_the_controllers_that_refuse_it_are_named(
    speed: Speed, configuration: Configuration | None, models: list[str]
) -> None:
    assert [controller.models for controller in refusing(speed, configuration)] == models


@pytest.mark.parametrize("speed", Speed)
@pytest.mark.parametrize("endpoints", [(), (SOUND,), (IMPOSSIBLE_REPORT,)])
def test_xhci_takes_everything(speed: Speed, endpoints: tuple[Endpoint, ...]) -> None:
    assert "qemu-xhci" not in [controller.models for controller in refusing(speed, device(*endpoints))]


def test_settings_that_the_guest_chooses_later_count() -> None:
    settings = (Interface(1, 0, 1, 2, 0), Interface(1, 1, 1, 2, 0, 0, (SOUND,)))
    assert len(refusing(Speed.SUPER, Configuration(1, 0x80, 50, 0, settings))) == 3
    assert refused_by(Speed.SUPER, settings[0].endpoints) == ()


def test_every_speed_has_a_name() -> None:
    assert len({in_words(speed) for speed in Speed}) == len(Speed)
