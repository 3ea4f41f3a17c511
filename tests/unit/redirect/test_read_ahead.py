"""Reading ahead of a guest on Bulk-Only Transport. That the guest is told the same in the end is `tests/property`'s."""

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT
from tests.fakes.drive import PACKET, STATUS, Command, Driver
from usbbridge.backend.base import Status
from usbbridge.errors import DeviceLostError
from usbbridge.redirect.limits import MAX_PENDING, MAX_READ_AHEAD, MAX_UNASKED
from usbbridge.redirect.quirks import NO_READ_AHEAD
from usbbridge.redirect.read_ahead import AT_ONCE, BULK_ONLY_RESET, SLOW_FOR, TRUST
from usbbridge.usb.descriptors import DeviceDescriptor
from usbbridge.usbredir.packets import BulkPacket, CancelDataPacket, SetAltSetting, StartBulkReceiving
from usbbridge.usbredir.proto import Status as RedirStatus

READ = Command(4096)


def trusted(*quirks: str, packet: int = PACKET) -> Driver:
    """A driver that has shown how it goes about its reads."""
    driver = Driver(*quirks, packet=packet)
    driver.run(*[READ] * (TRUST // 2))
    driver.answers.clear()
    return driver


def commanded(command: Command = READ, driver: Driver | None = None) -> Driver:
    """And that has just sent one more command, which the drive has taken."""
    driver = driver or trusted()
    driver.begin(command)
    driver.settle(sends=False)
    driver.answers.clear()
    return driver


def flying(driver: Driver) -> list[tuple[int, int]]:
    return [(transfer.endpoint, transfer.length) for transfer in driver.device.flying]


def answers(driver: Driver) -> list[tuple[RedirStatus, int]]:
    """Status and number of bytes of what the guest was told."""
    driver.settle()
    told = [packet for _, packet in driver.answers if isinstance(packet, BulkPacket)]
    assert all(len(packet.data) == packet.length for packet in told if packet.endpoint == BULK_IN)
    return [(RedirStatus(packet.status), packet.length) for packet in told]


def test_data_is_read_behind_the_command_and_the_status_behind_the_data() -> None:
    driver = commanded()
    assert flying(driver) == [(BULK_IN, 4096)]
    driver.read(4096)
    driver.rig.settle()
    assert flying(driver) == [(BULK_IN, 4096)], "what the guest asks for is what is in flight already"
    driver.drive.work()
    driver.rig.settle()
    assert flying(driver) == [(BULK_IN, STATUS)]
    driver.read(STATUS)
    assert answers(driver) == [(RedirStatus.SUCCESS, 4096), (RedirStatus.SUCCESS, STATUS)]
    assert flying(driver) == []


@pytest.mark.parametrize("command", [Command(0), Command(1024, is_read=False)])
def test_the_status_is_read_behind_a_command_without_data_and_behind_written_data(command: Command) -> None:
    driver = commanded(command)
    if command.length:
        assert flying(driver) == []
        for _ in range(2):
            driver.write(bytes(512))
            driver.settle(sends=False)
    assert flying(driver) == [(BULK_IN, STATUS)]


def begun_before_the_answer(driver: Driver, seconds: float = 0) -> bool:
    """Whether data is being read when the guest is not answered yet; the drive then takes so long for it."""
    driver.begin(READ)
    driver.rig.to_host()
    driver.drive.work(sends=False)
    driver.device.reap()
    begun = bool(driver.device.flying)
    driver.rig.settle()
    driver.rig.now += seconds
    driver.settle()
    for size in (4096, STATUS):
        driver.read(size)
        driver.settle()
    return begun


def test_a_slow_drive_is_given_its_work_before_the_guest_is_answered_and_a_fast_one_behind_that() -> None:
    driver = trusted()
    assert [begun_before_the_answer(driver, seconds) for seconds in (0, 2 * AT_ONCE, 0)] == [False, False, True]
    driver.run(*[READ] * (SLOW_FOR // 2))
    assert not begun_before_the_answer(driver)


def test_a_guest_is_watched_for_a_while_before() -> None:
    driver = Driver()
    for done in range(TRUST // 2):
        commanded(driver=driver)
        assert flying(driver) == [], f"after {2 * done} packets"
        driver.read(4096)
        driver.settle()
        driver.read(STATUS)
        driver.settle()
    assert flying(commanded(driver=driver)) == [(BULK_IN, 4096)]


@pytest.mark.parametrize("odd", [Command(4096, piece=1024), Command(4096, at_once=True)])
def test_a_guest_that_asks_in_another_way_is_left_alone(odd: Command) -> None:
    driver = trusted()
    driver.run(odd, *[READ] * TRUST)
    assert flying(commanded(driver=driver)) == []


@pytest.mark.parametrize(
    "command", [Command(4096, sent=512), Command(4096, sent=100), Command(4096, sent=512, ending="stall")]
)
def test_nothing_is_read_behind_data_that_was_less_than_wanted(command: Command) -> None:
    """Some drives send the status in place of data; the guest then does not ask for it."""
    driver = commanded(command)
    driver.read(4096)
    driver.settle()
    assert flying(driver) == []


@pytest.mark.parametrize("what", [bytes(31), b"USBC" + bytes(26), b"USBC" + bytes(28)])
def test_what_is_no_command_foretells_nothing(what: bytes) -> None:
    driver = trusted()
    driver.write(what)
    driver.rig.settle()
    driver.device.finish(driver.device.flying[0])
    driver.rig.settle()
    assert flying(driver) == []


def test_a_command_that_the_drive_did_not_take_foretells_nothing() -> None:
    driver = trusted()
    driver.begin(READ)
    driver.rig.settle()
    driver.device.finish(driver.device.flying[0], Status.STALL)
    driver.rig.settle()
    assert flying(driver) == []


def test_more_than_drivers_command_is_not_read_ahead() -> None:
    assert flying(commanded(Command(MAX_READ_AHEAD))) == [(BULK_IN, MAX_READ_AHEAD)]
    assert flying(commanded(Command(MAX_READ_AHEAD + 1))) == []


@pytest.mark.parametrize("pieces", [[1024, 3072], [512, 512, 4096]])
@pytest.mark.parametrize("is_early", [True, False])
def test_what_was_read_whole_is_had_in_pieces(pieces: list[int], is_early: bool) -> None:
    driver = commanded()
    if is_early:
        driver.settle()
    for piece in pieces:
        driver.read(piece)
    got = [*pieces[:-1], 4096 - sum(pieces[:-1])]
    assert answers(driver) == [(RedirStatus.SUCCESS, n) for n in got]
    data = b"".join(packet.data for _, packet in driver.answers if isinstance(packet, BulkPacket))
    assert data == bytes((driver.drive.count + i // 7) % 256 for i in range(4096))


@pytest.mark.parametrize(("ending", "last"), [("short", (RedirStatus.SUCCESS, 0)), ("stall", (RedirStatus.STALL, 0))])
@pytest.mark.parametrize("packet", [512, 0])
def test_an_early_end_comes_behind_the_last_piece(ending: str, last: tuple[RedirStatus, int], packet: int) -> None:
    """Also if the drive lies about the size of its packets."""
    driver = commanded(Command(4096, sent=1024, ending=ending), trusted(packet=packet))
    for _ in range(3):
        driver.read(512)
    assert answers(driver) == [(RedirStatus.SUCCESS, 512)] * 2 + [last]


def test_what_is_asked_for_behind_the_last_piece_is_the_drives_even_while_other_data_is_received() -> None:
    driver = commanded(Command(1024))
    for size in (512, 512, STATUS):
        driver.read(size)
    driver.rig.settle()
    driver.rig.guest.bulk(99, BULK_OUT, data=bytes(300))
    packet = driver.rig.guest.take_out()
    driver.rig.receive(packet[:200])  # a part of it: its data goes straight into a transfer
    assert answers(driver) == [(RedirStatus.SUCCESS, 512)] * 2 + [(RedirStatus.SUCCESS, STATUS)]
    driver.rig.receive(packet[200:])
    assert flying(driver) == [(BULK_OUT, 300)]


def test_pieces_that_are_waited_for_can_be_cancelled() -> None:
    driver = commanded()
    for packet_id in (71, 72):
        driver.rig.guest.bulk(packet_id, BULK_IN, 1024)
    for packet_id in (72, 71):
        driver.rig.guest.say(CancelDataPacket(), packet_id)
    assert answers(driver) == [(RedirStatus.CANCELLED, 0)] * 2
    driver.answers.clear()
    driver.read(4096)
    assert answers(driver) == [(RedirStatus.SUCCESS, 4096)], "the data stays until somebody fetches it"


def test_no_more_pieces_are_waited_for_than_packets_otherwise() -> None:
    driver = commanded()
    for packet_id in range(MAX_PENDING + 10):
        driver.rig.guest.bulk(packet_id, BULK_IN, 4)
    driver.rig.settle()
    told = driver.rig.guest.ear.take()
    assert [(packet_id, packet.status) for packet_id, packet in told if isinstance(packet, BulkPacket)] == [
        (packet_id, RedirStatus.IOERROR) for packet_id in range(MAX_PENDING, MAX_PENDING + 10)
    ]


def test_no_more_is_in_flight_unasked_than_is_needed() -> None:
    driver = trusted()
    driver.device.keeps_cancelled = True
    for _ in range(MAX_UNASKED + 10):
        commanded(driver=driver)
        driver.rig.guest.control(1, 0x21, BULK_ONLY_RESET, 0, 0, 0)
        driver.rig.settle()
        driver.drive.work(sends=False)
        driver.drive.waiting.clear()
    flying_in = [transfer for transfer in driver.device.flying if transfer.endpoint == BULK_IN]
    assert len(driver.rig.host.unasked) == len(flying_in) == MAX_UNASKED


def test_a_setting_of_another_interface_changes_nothing() -> None:
    driver = commanded()
    before = list(driver.device.flying)
    driver.rig.ask(SetAltSetting(1, 1))
    assert driver.device.flying == before
    for size in (4096, STATUS):
        driver.read(size)
        driver.settle()
    driver.run(Command(512, beside=True))
    assert flying(commanded(driver=driver)) == [(BULK_IN, 4096)], "the guest is still known"


def test_pieces_that_are_waited_for_are_cancelled_when_the_setting_changes() -> None:
    driver = commanded()
    driver.read(1024)
    driver.rig.guest.say(SetAltSetting(0, 0))
    driver.rig.settle()
    assert flying(driver) == []
    assert answers(driver) == [(RedirStatus.CANCELLED, 0)]


@pytest.mark.parametrize("is_early", [True, False])
def test_nothing_of_it_is_in_the_way_of_a_stream(is_early: bool) -> None:
    driver = commanded()
    if is_early:
        driver.settle()
    driver.rig.ask(StartBulkReceiving(0, 512, BULK_IN, 2))
    assert flying(driver) == [(BULK_IN, 512)] * 2


@pytest.mark.parametrize("is_early", [True, False])
def test_a_guest_that_goes_on_without_asking_gets_nothing_of_the_old_command(is_early: bool) -> None:
    driver = commanded()
    if is_early:
        driver.settle()
    driver.drive.waiting.clear()
    driver.begin(Command(36))
    driver.settle()
    driver.answers.clear()
    for size in (36, STATUS):
        driver.read(size)
    assert answers(driver) == [(RedirStatus.SUCCESS, 36), (RedirStatus.SUCCESS, STATUS)]
    assert flying(commanded(driver=driver)) == [], "it is not to be trusted any more"


@pytest.mark.parametrize("is_early", [True, False])
def test_a_drive_that_is_unplugged_meanwhile_is_noticed(is_early: bool) -> None:
    driver = commanded()
    if not is_early:
        driver.read(4096)
        driver.rig.settle()
    driver.device.unplug()
    with pytest.raises(DeviceLostError):
        driver.rig.settle()


def test_nothing_is_begun_that_the_device_does_not_take() -> None:
    driver = trusted()
    driver.begin(READ)
    driver.rig.settle()
    (command,) = driver.device.flying
    driver.device.finish(command)
    driver.device.refuse = Status.ERROR
    driver.rig.settle()
    driver.device.refuse = Status.COMPLETED
    assert (flying(driver), driver.rig.host.pending_bytes) == ([], 0)
    driver.read(4096)
    driver.rig.settle()
    assert flying(driver) == [(BULK_IN, 4096)]


def test_what_is_in_flight_unasked_is_told_with_the_rest() -> None:
    driver = commanded()
    assert driver.rig.host.drive(driver.device) == driver.device.flying


@pytest.mark.parametrize("is_early", [True, False])
def test_nothing_is_left_of_it_in_the_end(is_early: bool) -> None:
    driver = commanded()
    if is_early:
        driver.settle()
    assert driver.rig.host.pending_bytes
    driver.rig.host.disconnect()
    driver.rig.host.close()
    assert (driver.rig.host.pending_bytes, driver.device.outstanding) == (0, 0)


def test_a_drive_that_needs_time_between_command_and_data_has_it() -> None:
    assert flying(commanded(driver=trusted(NO_READ_AHEAD))) == []
    genesys = DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x05E3, 0x0702, 0x0100, 0, 0, 0, 1)
    driver = Driver(descriptor=genesys)
    driver.run(*[READ] * TRUST)
    assert flying(commanded(driver=driver)) == []
