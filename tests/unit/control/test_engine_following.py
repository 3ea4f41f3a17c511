"""Devices that come back on their port as another: boards and phones that change into their boot loader."""

from typing import Any

import pytest

from tests.unit.control.engine_rig import DESK, LAB, Rig, config, printer, stick
from usbbridge.compat.rule import Verdict
from usbbridge.config import Auto
from usbbridge.control.actions import Failure
from usbbridge.control.following import DECLARED_SECONDS, UNDECLARED_SECONDS
from usbbridge.ipc.api import Remember, State
from usbbridge.ipc.monitoring import PluggedDevice

BOARD, LOADER = "0951:1666", "0951:0003"
UNPLUGGED = Failure(6, "DeviceLostError", "1-2 (Stick) was unplugged")


def board(devnum: int = 5, **fields: Any) -> PluggedDevice:
    return stick("1-2", devnum, faces=(LOADER,), **fields)


def loader(devnum: int = 6, *, declared: bool = True, **fields: Any) -> PluggedDevice:
    faces = (BOARD,) if declared else ()
    return stick("1-2", devnum, **{"product": 3, "serial": "", "faces": faces, **fields})


def attached(device: PluggedDevice, *, settings: Any = None, **how: Any) -> Rig:
    rig = Rig(settings or config(DESK, LAB))
    rig.begin(device)
    rig.attach("1-2", "lab", **how)
    rig.succeed()
    assert rig.state(device.id) is State.ATTACHED
    return rig


def change(rig: Rig, old: PluggedDevice, new: PluggedDevice, seconds: float = 1.0) -> State:
    """The device goes, its encoder ends, and another comes."""
    rig.unplug(old.id)
    for key in list(rig.encoders):
        rig.end(key, UNPLUGGED)
    rig.wait(seconds)
    rig.plug(new)
    rig.succeed()
    return rig.state(new.id)


@pytest.mark.parametrize("remember", [Remember.AUTO, Remember.NO, Remember.PORT])
def test_another_face_goes_to_the_same_vm_and_so_does_the_first_again(remember: Remember) -> None:
    rig = attached(board(), remember=remember)
    assert change(rig, board(), loader()) is State.ATTACHED
    assert rig.status("1-2#6").vm == "lab"
    assert change(rig, loader(), board(7)) is State.ATTACHED
    assert rig.status("1-2#7").vm == "lab"


def test_it_may_be_the_one_that_is_asked_about() -> None:
    assert change(attached(board()), board(), loader(verdict=Verdict.ASK)) is State.ATTACHED


def test_not_for_ever_if_nothing_is_remembered() -> None:
    rig = attached(board(), remember=Remember.NO)
    assert change(rig, board(), loader(), DECLARED_SECONDS + 1) is State.LOCAL


def test_what_is_remembered_of_one_face_holds_for_the_others_for_ever() -> None:
    rig = attached(board())
    assert change(rig, board(), loader(serial="A1"), 3600) is State.ATTACHED
    assert rig.status("1-2#6").remembered


def test_a_choice_for_another_face_is_over_when_this_one_is_sent_elsewhere() -> None:
    rig = attached(board(), remember=Remember.PORT)
    change(rig, board(), loader())
    rig.attach("1-2", "desk", remember=Remember.PORT)
    rig.succeed()
    assert [(choice.product, choice.vm) for choice in rig.saved] == [(3, "desk")]


def test_detaching_one_face_forgets_all() -> None:
    rig = attached(board(), remember=Remember.PORT)
    change(rig, board(), loader())
    rig.detach()
    assert rig.saved == ()


def test_one_that_was_detached_for_now_stays_here_as_another() -> None:
    rig = attached(board())
    rig.detach(keep=True)
    rig.succeed()
    assert change(rig, board(), loader(serial="A1")) is State.LOCAL
    assert change(rig, loader(), board(7)) is State.LOCAL


def test_the_monitor_may_tell_of_the_new_one_without_a_word_on_the_old() -> None:
    rig = attached(board(), remember=Remember.NO)
    rig.plug(loader())
    rig.end(rig.key_of("1-2#5"), UNPLUGGED)
    rig.succeed()
    assert rig.state("1-2#6") is State.ATTACHED


# ---- what nobody has declared


def plain(devnum: int = 5, **fields: Any) -> PluggedDevice:
    return stick("1-2", devnum, **fields)


def undeclared(**fields: Any) -> PluggedDevice:
    return loader(declared=False, **fields)


@pytest.mark.parametrize("new", [undeclared(), undeclared(serial="A1"), undeclared(serial="A1", vendor=0x18D1)])
def test_a_likely_face_is_followed_for_a_few_seconds(new: PluggedDevice) -> None:
    assert change(attached(plain(), remember=Remember.NO), plain(), new, UNDECLARED_SECONDS - 1) is State.ATTACHED
    assert change(attached(plain(), remember=Remember.NO), plain(), new, UNDECLARED_SECONDS + 1) is State.LOCAL


@pytest.mark.parametrize(
    "new",
    [
        undeclared(serial="B2"),
        undeclared(vendor=0x18D1),
        undeclared(verdict=Verdict.ASK),
        undeclared(verdict=Verdict.DENY),
        plain(6, serial="B2"),
        printer("1-2", 6),
    ],
    ids=["another number", "another vendor", "asked about", "denied", "another stick", "something else"],
)
def test_what_could_be_something_else_is_not(new: PluggedDevice) -> None:
    assert change(attached(plain()), plain(), new) is State.LOCAL


def test_what_was_not_at_a_vm_is_not() -> None:
    rig = attached(plain())
    rig.detach(keep=True)
    rig.succeed()
    assert change(rig, plain(), undeclared()) is State.LOCAL


def test_what_disappeared_while_the_monitor_was_away_is_not() -> None:
    rig = attached(plain(), remember=Remember.NO)
    rig.monitor_dies()
    rig.begin(undeclared())
    rig.end(rig.key_of("1-2#5"), UNPLUGGED)
    rig.succeed()
    assert rig.state("1-2#6") is State.LOCAL


def test_an_encoder_may_notice_first_that_the_device_has_gone() -> None:
    rig = attached(plain(), remember=Remember.NO)
    rig.end(rig.key_of("1-2#5"), UNPLUGGED)
    assert change(rig, plain(), undeclared()) is State.ATTACHED


def test_nothing_undeclared_is_followed_if_that_is_not_wanted() -> None:
    quiet = config(DESK, LAB, auto=Auto(follow=False))
    assert change(attached(plain(), settings=quiet), plain(), undeclared()) is State.LOCAL
    assert change(attached(board(), settings=quiet), board(), loader()) is State.ATTACHED
