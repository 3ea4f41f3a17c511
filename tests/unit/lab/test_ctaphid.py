"""CTAPHID as the security key speaks it: channels, long messages, and what goes wrong in them."""

import os
import struct

import pytest

from tests.unit.lab.fido_host import (
    CANCEL,
    CBOR,
    ERROR,
    INIT,
    KEEPALIVE,
    NONCE,
    PING,
    UP_NEEDED,
    WINK,
    Application,
    KeyHost,
)
from tools.lab.devices.ctap2 import MAX_MESSAGE, Command, Status
from tools.lab.devices.ctaphid import BROADCAST, MAX_CHANNELS, SECONDS_BETWEEN, Channels, packets

LOCK, MSG = 0x04, 0x03
SELECTION = bytes((Command.SELECTION,))


@pytest.fixture
def host() -> KeyHost:
    return KeyHost()


@pytest.fixture
def application(host: KeyHost) -> Application:
    return Application(host)


def test_each_application_has_a_channel_of_its_own(host):
    first, second = Application(host), Application(host)
    assert first.channel != second.channel
    assert first.about[4] == 2
    assert first.about[8] == 0x01 | 0x04 | 0x08  # WINK, CBOR, no U2F


@pytest.mark.parametrize("size", [0, 1, 57, 58, 57 + 59, 57 + 60, MAX_MESSAGE])
def test_ping_echoes_messages_of_any_size(application, size):
    data = os.urandom(size)
    assert application.ask(PING, data) == data


def test_wink(host, application):
    assert application.ask(WINK) == b""
    assert host.key.channels.winks == 1


def test_a_message_that_is_longer_than_packets_can_number_is_refused(host, application):
    host.put(struct.pack(">IBH", application.channel, 0x80 | PING, MAX_MESSAGE + 1).ljust(64, b"\0"))
    assert application.error() == 0x03


@pytest.mark.parametrize(
    ("command", "data", "error"), [(LOCK, b"\0", 0x01), (MSG, b"\0", 0x01), (CBOR, b"", 0x03), (WINK, b"x", 0x03)]
)
def test_commands_that_are_refused(application, command, data, error):
    application.send(command, data)
    assert application.error() == error


def test_a_packet_out_of_sequence_ends_the_message(host, application):
    first, _, third = packets(application.channel, PING, bytes(150))
    host.put(first)
    host.put(third)
    assert application.error() == 0x04
    assert application.ask(PING, b"again") == b"again"


def test_a_new_message_within_one_ends_both(host, application):
    host.put(packets(application.channel, PING, bytes(100))[0])
    application.send(PING, b"x")
    assert application.error() == 0x04
    assert host.get() is None


def test_init_within_a_message_starts_afresh(host, application):
    host.put(packets(application.channel, PING, bytes(100))[0])
    answer = application.ask(INIT, NONCE)
    assert answer[8:12] == application.channel.to_bytes(4)
    assert application.ask(PING, b"x") == b"x"


def test_a_stray_packet_is_passed_over(host, application):
    host.put(packets(application.channel, PING, bytes(100))[1])
    assert host.get() is None
    assert application.ask(PING, b"x") == b"x"


@pytest.mark.parametrize("channel", [0, 77, BROADCAST])
def test_nobody_is_served_on_a_channel_that_was_not_given(host, channel):
    host.put(packets(channel, PING, b"x")[0])
    assert host.get()[:8] == struct.pack(">IBHB", channel, 0x80 | ERROR, 1, 0x0B)


@pytest.mark.parametrize(
    ("channel", "data", "error"), [(0, NONCE, 0x0B), (77, NONCE, 0x0B), (BROADCAST, b"short", 0x03)]
)
def test_init_that_makes_no_sense(host, channel, data, error):
    host.put(packets(channel, INIT, data)[0])
    assert host.get()[:8] == struct.pack(">IBHB", channel, 0x80 | ERROR, 1, error)


def test_the_application_that_was_silent_for_longest_loses_its_channel(host):
    first, second = Application(host), Application(host)
    first.ask(PING, b"still here")
    for _ in range(MAX_CHANNELS - 1):
        Application(host)
    assert first.ask(PING, b"x") == b"x"
    second.send(PING, b"x")
    assert second.error() == 0x0B


def test_another_application_has_to_wait_until_a_message_has_come_or_given_up():
    now = 100.0
    channels = Channels(lambda message: b"\0", lambda: now, touched=True)
    for _ in range(2):
        channels.receive(packets(BROADCAST, INIT, NONCE)[0])
    channels.reports.clear()
    first, rest = packets(1, PING, bytes(100))
    channels.receive(first)
    channels.receive(packets(2, PING, b"x")[0])
    now += SECONDS_BETWEEN
    channels.receive(packets(2, PING, b"x")[0])
    channels.receive(rest)
    assert [report[:8].hex() for report in channels.reports] == [
        "00000002bf000106",  # busy
        "00000001bf000105",  # took too long
        "0000000281000178",  # the answer
    ]


def test_a_reset_forgets_the_channels(host, application):
    host.device.reset()
    application.send(PING, b"x")
    assert application.error() == 0x0B


def test_a_command_that_waits_for_a_touch_is_cancelled():
    host = KeyHost(touch="never")
    application, other = Application(host), Application(host)
    application.send(CANCEL)  # there is nothing to cancel: no answer
    application.send(CBOR, SELECTION)
    assert application.receive() == (KEEPALIVE, UP_NEEDED)
    assert host.get() is None
    other.send(PING, b"x")
    assert other.error() == 0x06
    other.send(CANCEL)  # not its command
    assert host.get() is None
    application.send(CANCEL)
    assert application.receive() == (CBOR, bytes((Status.KEEPALIVE_CANCEL,)))
    assert other.ask(PING, b"x") == b"x"
