"""The `struct` formats used at run time are the construct layouts, byte for byte."""

from struct import Struct
from typing import Any

import pytest

from tests.unit.spice import samples
from usbbridge.spice import framing, layouts, messages

PAIRS = [
    pytest.param(framing.MINI_HEADER, layouts.MINI_HEADER, id="mini-header"),
    pytest.param(framing.FULL_HEADER, layouts.FULL_HEADER, id="full-header"),
    pytest.param(messages.SET_ACK, layouts.SET_ACK, id="set-ack"),
    pytest.param(messages.PING, layouts.PING, id="ping"),
    pytest.param(messages.DISCONNECTING, layouts.DISCONNECTING, id="disconnecting"),
    pytest.param(messages.NOTIFY, layouts.NOTIFY, id="notify"),
    pytest.param(messages.INIT, layouts.INIT, id="init"),
    pytest.param(messages.MOUSE_MODE, layouts.MOUSE_MODE, id="mouse-mode"),
    pytest.param(messages.CHANNEL_ENTRY, layouts.CHANNEL_ENTRY, id="channel-entry"),
    pytest.param(messages.COMPRESSED_DATA, layouts.COMPRESSED_DATA, id="compressed-data"),
]


@pytest.mark.parametrize(("fast", "layout"), PAIRS)
def test_both_take_the_same_bytes_for_the_same_fields(fast: Struct, layout: Any) -> None:
    wire = bytes(range(0xA0, 0xA0 + fast.size))
    assert layout.sizeof() == fast.size
    fields = layout.parse(wire)
    assert tuple(fields[field.name] for field in layout.subcons) == fast.unpack(wire)
    assert layout.build(fields) == wire


def test_link_header() -> None:
    wire = framing.link_message(b"abc")
    fields = layouts.LINK_HEADER.parse(wire)
    assert (fields.magic, fields.major, fields.minor, fields.size) == (b"REDQ", 2, 2, 3)
    assert framing.LinkHeader.parse(wire) == (b"REDQ", 2, 2, 3)
    assert layouts.LINK_HEADER.build({"major": 2, "minor": 2, "size": 3}) + b"abc" == wire


def test_link_message() -> None:
    mess = messages.LinkMess(0x12345678, 9, 3, frozenset({0, 3}), frozenset({0, 33}))
    fields = layouts.LINK_MESS.parse(mess.pack())
    assert (fields.connection_id, fields.channel_type, fields.channel_id, fields.caps_offset) == (0x12345678, 9, 3, 18)
    assert (list(fields.common_caps), list(fields.channel_caps)) == ([0b1001], [1, 2])
    assert layouts.LINK_MESS.build(fields) == mess.pack()
    assert messages.LinkMess.parse(mess.pack()) == mess


def test_link_reply() -> None:
    answer = messages.LinkReply(0, samples.der(samples.server_key()), samples.SERVER_CAPS, frozenset({0}))
    fields = layouts.LINK_REPLY.parse(answer.pack())
    assert (fields.error, fields.pub_key, fields.caps_offset) == (0, answer.public_key, 178)
    assert (list(fields.common_caps), list(fields.channel_caps)) == ([0x0B], [1])
    assert layouts.LINK_REPLY.build(fields) == answer.pack()
    assert messages.LinkReply.parse(answer.pack()) == answer


def test_channels_list() -> None:
    wire = layouts.CHANNELS_LIST.build([{"type": 9, "id": 1}, {"type": 1, "id": 0}])
    assert messages.ChannelsList.parse(wire).channels == ((9, 1), (1, 0))
