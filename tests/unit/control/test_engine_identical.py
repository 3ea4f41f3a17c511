"""Devices that look the same, and what is remembered of them."""

import pytest

from tests.unit.control.engine_rig import DESK, LAB, Rig, config, error_of, printer, stick
from usbbridge.config import Auto
from usbbridge.control.choices import MAX_CHOICES, Choices
from usbbridge.errors import NotFoundError, UsageError
from usbbridge.ipc.api import Choice, Forget, Remember, State

BY_SERIAL = Choice(0x0951, 0x1666, "A1", "", "desk", "Kingston Stick")
FIRST_PORT = Choice(0x0951, 0x1666, "", "1-2", "desk", "Kingston Stick")
SECOND_PORT = Choice(0x0951, 0x1666, "", "1-4", "lab", "Kingston Stick")


def two_vms(*choices: Choice) -> Rig:
    return Rig(config(DESK, LAB), choices=choices)


def test_two_with_the_same_serial_number_are_known_by_their_ports() -> None:
    rig = two_vms()
    rig.begin(stick("1-2", 5), stick("1-4", 6))
    rig.attach("1-2", "desk")
    rig.attach("1-4", "lab")
    assert rig.saved == (FIRST_PORT, SECOND_PORT)


def test_they_go_where_each_belongs_after_both_were_replugged() -> None:
    rig = two_vms(FIRST_PORT, SECOND_PORT)
    rig.begin(stick("1-4", 6), stick("1-2", 5))
    rig.succeed()
    assert (rig.status("1-2#5").vm, rig.status("1-4#6").vm) == ("desk", "lab")
    for port, devnum in (("1-2", 5), ("1-4", 6)):
        rig.unplug(f"{port}#{devnum}")
        rig.succeed()
        rig.plug(stick(port, devnum + 10))
    rig.succeed()
    assert (rig.status("1-2#15").vm, rig.status("1-4#16").vm) == ("desk", "lab")


def test_the_first_is_known_by_its_port_from_when_the_second_turns_up() -> None:
    rig = two_vms(BY_SERIAL)
    rig.begin(stick("1-2", 5))
    rig.succeed()
    rig.plug(stick("1-4", 6))
    assert rig.saved == (FIRST_PORT,)
    assert (rig.state("1-2#5"), rig.state("1-4#6")) == (State.ATTACHED, State.LOCAL)
    assert rig.status("1-2#5").remembered
    assert not rig.status("1-4#6").remembered


def test_if_both_turn_up_at_once_neither_is_taken_for_the_one_that_was_chosen() -> None:
    rig = two_vms(BY_SERIAL)
    rig.begin(stick("1-2", 5), stick("1-4", 6))
    assert (rig.state("1-2#5"), rig.state("1-4#6")) == (State.LOCAL, State.LOCAL)
    assert rig.saved == (BY_SERIAL,)


def test_if_the_other_is_known_by_its_port_the_one_must_be_this() -> None:
    rig = two_vms(BY_SERIAL, SECOND_PORT)
    rig.begin(stick("1-2", 5), stick("1-4", 6))
    rig.succeed()
    assert (rig.status("1-2#5").vm, rig.status("1-4#6").vm) == ("desk", "lab")
    assert rig.saved == (FIRST_PORT, SECOND_PORT)


def test_the_same_model_with_serial_numbers_of_their_own_is_told_apart_by_them() -> None:
    rig = two_vms()
    rig.begin(stick("1-2", 5, serial="A1"), stick("1-4", 6, serial="B2"))
    rig.attach("1-2", "desk")
    rig.attach("1-4", "lab")
    rig.succeed()
    for device in ("1-2#5", "1-4#6"):
        rig.unplug(device)
        rig.succeed()
    rig.plug(stick("1-2", 7, serial="B2"))
    rig.plug(stick("1-4", 8, serial="A1"))
    rig.succeed()
    assert (rig.status("1-2#7").vm, rig.status("1-4#8").vm) == ("lab", "desk")


def test_a_serial_number_says_more_than_a_port() -> None:
    rig = two_vms(BY_SERIAL, SECOND_PORT)
    rig.begin(stick("1-4", 6))
    assert rig.status("1-4#6").vm == "desk"


def test_a_device_in_the_port_of_another_model_is_not_meant() -> None:
    rig = two_vms(SECOND_PORT)
    rig.begin(printer("1-4"))
    assert rig.state("1-4#6") is State.LOCAL


@pytest.mark.parametrize(
    ("serial", "others", "says"), [("", (), "has no serial number"), ("A1", ("1-4",), "and so has")]
)
def test_to_remember_by_a_serial_number_that_is_none_is_a_mistake(
    serial: str, others: tuple[str, ...], says: str
) -> None:
    rig = two_vms()
    rig.begin(stick(serial=serial), *(stick(port, 6, serial=serial) for port in others))
    error = error_of(lambda: rig.attach("1-2", remember=Remember.SERIAL))
    assert isinstance(error, UsageError)
    assert says in error.message
    assert rig.state("1-2#5") is State.LOCAL


@pytest.mark.parametrize(("how", "saved"), [("no", ()), ("port", (FIRST_PORT,)), ("serial", (BY_SERIAL,))])
def test_the_configuration_says_how_to_remember_if_nobody_else_does(how: str, saved: tuple[Choice, ...]) -> None:
    rig = Rig(config(DESK, auto=Auto(remember=how)))
    rig.begin(stick())
    rig.attach()
    assert rig.saved == saved


def test_a_new_choice_takes_the_place_of_the_old_one() -> None:
    rig = two_vms(BY_SERIAL)
    rig.begin(stick())
    rig.attach(vm="lab", remember=Remember.PORT)
    assert rig.saved == (Choice(0x0951, 0x1666, "", "1-2", "lab", "Kingston Stick"),)


def test_detaching_forgets_every_choice_that_could_bring_the_device_back() -> None:
    rig = two_vms(BY_SERIAL, FIRST_PORT)
    rig.begin(stick())
    rig.detach()
    assert rig.saved == ()


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (Forget("1-4"), (BY_SERIAL,)),
        (Forget("1-2"), (SECOND_PORT,)),  # the one that is plugged in there
        (Forget("0951:1666"), ()),
        (Forget("kingston"), ()),
        (Forget(serial="A1"), (SECOND_PORT,)),
        (Forget(all=True), ()),
    ],
)
def test_what_is_forgotten_is_named_like_a_device_and_stays_attached(
    request_: Forget, left: tuple[Choice, ...]
) -> None:
    rig = two_vms(BY_SERIAL, SECOND_PORT)
    rig.begin(stick())
    rig.succeed()
    assert rig.do(rig.engine.forget, request_) == left
    assert rig.saved == left
    assert rig.state("1-2#5") is State.ATTACHED


def test_to_forget_nothing_or_something_unknown_is_an_error() -> None:
    rig = two_vms(BY_SERIAL)
    assert isinstance(error_of(lambda: rig.do(rig.engine.forget, Forget())), UsageError)
    assert isinstance(error_of(lambda: rig.do(rig.engine.forget, Forget("2-2"))), NotFoundError)


def test_the_choices_are_bounded_and_the_oldest_goes_first() -> None:
    choices = Choices(Choice(1, n, "S", "", "desk") for n in range(MAX_CHOICES))
    assert choices.remember(stick().entry, "desk", Remember.AUTO, [])
    assert len(choices.all) == MAX_CHOICES
    assert (choices.all[0].product, choices.all[-1].serial) == (1, "A1")


def test_a_choice_that_names_nothing_is_about_nothing() -> None:
    assert Choices([Choice(0x0951, 0x1666, "", "", "desk")]).find(stick().entry, []) is None
