"""Which failures are tried again: the table, held against the classes there are."""

import inspect

import pytest

from usbbridge import errors
from usbbridge.control import foreground
from usbbridge.control.actions import Failure
from usbbridge.control.backoff import Backoff, Pace
from usbbridge.control.failures import FATES, OF_THE_DEVICE, Fate, concerns_model, fate
from usbbridge.errors import UsbBridgeError
from usbbridge.spice import errors as spice_errors
from usbbridge.usb import descriptors
from usbbridge.usbredir import errors as usbredir_errors

MODULES = (errors, spice_errors, usbredir_errors, descriptors, foreground)
CLASSES = {
    name: found
    for module in MODULES
    for name, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, UsbBridgeError) and found is not UsbBridgeError
}


def test_every_error_that_an_encoder_can_end_with_is_in_the_table_and_nothing_else() -> None:
    assert set(CLASSES) == set(FATES)


def test_what_concerns_the_model_are_errors_there_are() -> None:
    assert set(CLASSES) >= OF_THE_DEVICE


@pytest.mark.parametrize(("status", "expected"), [(1, Fate.RETRY), (2, Fate.GIVE_UP), (3, Fate.GIVE_UP)])
def test_an_unknown_error_is_judged_by_its_status(status: int, expected: Fate) -> None:
    assert fate(Failure(status, "SomethingNewError", "?")) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("PortClosedError", Fate.RETRY),
        ("WrongTicketError", Fate.GIVE_UP),
        ("WrongHostError", Fate.GIVE_UP),
        ("RefusedError", Fate.GIVE_UP),
        ("ChannelBusyError", Fate.OTHER_CHANNEL),
        ("BadSessionError", Fate.NEW_SESSION),
        ("EncoderError", Fate.RETRY),
    ],
)
def test_a_known_error_is_judged_by_its_name(error: str, expected: Fate) -> None:
    assert fate(Failure(1, error, "?")) is expected


def test_a_failure_is_the_error_in_words() -> None:
    error = errors.RefusedError("no", hint="do this")
    assert Failure.of(error) == Failure(5, "RefusedError", "no", "do this")


def test_a_pulled_plug_is_not_the_models_fault() -> None:
    assert concerns_model(Failure(1, "DeviceError", "SET_CONFIGURATION failed"))
    assert not concerns_model(Failure(1, "DeviceLostError", "unplugged"))


def test_a_pace_is_never_a_busy_loop_and_never_overflows() -> None:
    pace = Pace(lambda: 0.5, first=0.0, longest=0.0)
    assert pace.seconds(1) > 0
    assert Pace(lambda: 1.0).seconds(10**9) == 60


def test_hurrying_forgets_the_wait_but_not_the_failures() -> None:
    backoff, pace = Backoff(), Pace(lambda: 1.0)
    backoff.failed(0, pace)
    assert backoff.waits(0.5)
    backoff.hurry()
    assert not backoff.waits(0.5)
    backoff.failed(1, pace)
    assert backoff.until == 3
