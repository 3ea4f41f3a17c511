"""A guest can't tell whether a host reads ahead of it, whatever the drive does and however the guest asks."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.drive import PACKET, Command, Driver
from usbbridge.redirect.quirks import NO_READ_AHEAD
from usbbridge.redirect.read_ahead import TRUST

LENGTHS = st.sampled_from([0, 1, 13, 31, 36, PACKET, 3 * PACKET, 3 * PACKET + 8, 40 * PACKET])
PIECES = st.sampled_from([1 << 20, 1 << 20, 1 << 20, PACKET, 2 * PACKET])
GIVES_UP = st.sampled_from(["", "", "", "", "reset", "transport reset", "cancel"])


@st.composite
def commands(draw: st.DrawFn) -> Command:
    length = draw(LENGTHS)
    gives_up = draw(GIVES_UP)
    return Command(
        length,
        is_read=draw(st.booleans()),
        sent=draw(st.one_of(st.just(length), st.sampled_from([0, 5, PACKET, 2 * PACKET, 2 * PACKET + 1]))),
        ending=draw(st.sampled_from(["short", "stall"])),
        piece=draw(PIECES),
        at_once=not gives_up and draw(st.integers(0, 9)) == 0,
        is_early=gives_up != "cancel" and draw(st.booleans()),  # else it might have been answered already
        beside=draw(st.integers(0, 3)) == 0,
        gives_up=gives_up,
    )


@given(st.integers(0, TRUST), st.lists(commands(), max_size=12), st.sampled_from([1 << 30, 5]))
def test_whatever_happens_the_guest_is_told_the_same(regular: int, script: list[Command], step: int) -> None:
    regular_ones = [Command(36)] * regular
    script = [command for some in script for command in (some, *regular_ones)]
    told, left = [], []
    for quirks in ((), (NO_READ_AHEAD,)):
        driver = Driver(*quirks, step=step)
        driver.run(*regular_ones, *script)
        told.append(driver.answers)
        driver.rig.host.disconnect()
        driver.rig.host.sent(driver.rig.take_outbox()[1])
        driver.rig.host.close()
        driver.device.reap()
        left.append((driver.drive.taken, driver.device.outstanding, driver.rig.host.pending_bytes))
    assert told[0] == told[1]
    assert left[0] == left[1]
    assert left[0][1:] == (0, 0)
