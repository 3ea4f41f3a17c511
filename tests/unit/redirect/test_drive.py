"""A host whose device is exchanged for one that stands before it, and back, while it is used."""

from tests.fakes.device import BULK_IN, INTERRUPT_IN, INTERRUPT_OUT, ISO_IN, ISO_OUT, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.usbredir.packets import (
    Reset,
    SetAltSetting,
    StartBulkReceiving,
    StartInterruptReceiving,
    StartIsoStream,
)


class Watched:
    """Stands before a device and writes down which of its methods are called."""

    def __init__(self, device: FakeDevice) -> None:
        self.device, self.called = device, set[str]()

    def __getattr__(self, name: str) -> object:
        found = getattr(self.device, name)

        def called(*arguments: object) -> object:
            self.called.add(name)
            return found(*arguments)

        return called if callable(found) else found


def use(rig: Rig) -> None:
    """Everything that a guest can have done."""
    rig.guest.control(1, 0xC0, 1, 0, 0, 8)
    rig.guest.bulk(2, BULK_IN, 512)
    rig.guest.interrupt(3, INTERRUPT_OUT, b"x")
    rig.guest.say(StartInterruptReceiving(INTERRUPT_IN))
    rig.guest.say(StartIsoStream(ISO_IN, 2, 2))
    rig.guest.say(StartIsoStream(ISO_OUT, 1, 2))
    rig.guest.iso(4, ISO_OUT, b"x")
    rig.settle()


SUBMITS = {"submit_control", "submit_bulk", "submit_interrupt", "submit_iso"}


def test_everything_goes_to_the_device_that_is_driven_and_what_is_in_flight_is_known(device: FakeDevice) -> None:
    rig = Rig(device).attach()
    use(rig)
    assert {*rig.host.drive(device)} == {*device.flying}
    watched = Watched(device)
    rig.host.drive(watched)
    rig.ask(Reset())
    assert {"reset", "cancel", "drain", "give_back"} <= watched.called
    rig.ask(SetAltSetting(0, 0))
    use(rig)
    rig.guest.say(StartBulkReceiving(0, 512, BULK_IN, 1))
    rig.settle()
    assert SUBMITS | {"set_interface", "take", "take_iso"} <= watched.called
    assert {*rig.host.drive(device)} == {*device.flying}
    watched.called.clear()
    rig.ask(Reset())
    use(rig)
    assert watched.called == set()
    rig.host.disconnect()
    rig.settle()
    assert device.outstanding == 0
