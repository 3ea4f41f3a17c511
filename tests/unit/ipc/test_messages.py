"""Messages between processes: what is said arrives, and nothing else is a message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc import codec
from usbbridge.ipc.codec import MAX_MESSAGE, encode
from usbbridge.ipc.messages import KINDS, AskStats, Capture, Ended, Message, Progressed, Start, Stats, Stop

EXAMPLES: list[Message] = [
    Start("1-2 46f4:0001 Stick"),
    Start("a", True, "1-2", "disk:/x,ro", "spice://h:1", 0xFFFFFFFF, (0, 1, 255), "pässword\0", "/ca", "CN=x", "never"),
    Start("a", quirks=("no-reset", "ä")),
    Stop(),
    AskStats(),
    Capture(),
    Capture(1, 127, "1201", headers_only=True),
    Progressed("linked"),
    Progressed("announced", "1-2 Stick\n"),
    Stats(1 << 60, 0, 3),
    Ended(0),
    Ended(5, "it is in use", "stop it", "RefusedError"),
]


def decode(data: bytes) -> Message:
    return codec.decode(data, KINDS)


GOOD = {"kind": "stats", "to_vm": 1, "from_vm": 2, "dropped": 3}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


def test_every_kind_has_an_example() -> None:
    assert {message.kind for message in EXAMPLES} == KINDS.keys()


@given(st.text(), st.integers(), st.lists(st.integers()))
def test_any_value_of_the_right_type_arrives(text: str, number: int, numbers: list[int]) -> None:
    if abs(number) < 10**4000:
        start = Start(text, password=text, session_id=number, channels=tuple(numbers))
        assert decode(encode(start)) == start


def without(field: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name != field}


BAD: dict[str, object] = {
    "not JSON": b"stats",
    "nothing": b"",
    "not UTF-8": b'{"kind": "\xff"}',
    "cut off": b'{"kind": "stop"',
    "more behind it": b'{"kind": "stop"}{}',
    "nested without end": b"[" * 60_000,
    "an endless number": b'{"kind": "stats", "to_vm": ' + b"1" * 5000 + b"}",
    "a list": [],
    "a string": "stop",
    "null": None,
    "no kind": without("kind"),
    "an unknown kind": GOOD | {"kind": "nope"},
    "a kind in capitals": {"kind": "STOP"},
    "a kind that is a number": GOOD | {"kind": 1},
    "a kind that is a list": GOOD | {"kind": ["stats"]},
    "a field too many": GOOD | {"more": 1},
    "a field too many in an empty message": {"kind": "stop", "now": True},
    "a field missing": without("dropped"),
    "a string for a number": GOOD | {"to_vm": "1"},
    "a float for a number": GOOD | {"to_vm": 1.0},
    "a bool for a number": GOOD | {"to_vm": True},
    "null for a number": GOOD | {"to_vm": None},
    "no number": GOOD | {"to_vm": float("nan")},
    "a number for a string": {"kind": "progressed", "step": 1},
    "a list for a string": {"kind": "progressed", "step": ["linked"]},
    "a number for a bool": {"kind": "start", "name": "x", "usbfs": 1},
    "a string for a bool": {"kind": "start", "name": "x", "usbfs": "true"},
    "a number for a list": {"kind": "start", "name": "x", "channels": 1},
    "a string in a list of numbers": {"kind": "start", "name": "x", "channels": ["0"]},
    "a bool in a list of numbers": {"kind": "start", "name": "x", "channels": [True]},
    "an object for a list": {"kind": "start", "name": "x", "channels": {"0": 1}},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_message_is_refused(bad: object) -> None:
    data = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_what_is_wrong_is_said_briefly() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^to_vm of a stats message is 'x+, not <class 'int'>$") as caught:
        decode(json.dumps(GOOD | {"to_vm": "x" * 10_000}).encode())
    assert len(caught.value.message) < 200


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert type(message) in KINDS.values()


def test_a_message_over_the_limit_is_not_sent() -> None:
    longest = MAX_MESSAGE - len(encode(Progressed("")))
    assert len(encode(Progressed("x" * longest))) == MAX_MESSAGE
    with pytest.raises(ValueError, match=f"a progressed message of {MAX_MESSAGE + 1} bytes"):
        encode(Progressed("x" * (longest + 1)))
