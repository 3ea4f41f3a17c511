"""What each kind of value may be."""

from pathlib import Path
from typing import Any

import pytest

from usbbridge.config import values
from usbbridge.config.values import Check

HERE = Path("/etc/usbbridge")


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (values.boolean, True, True),
        (values.seconds, 1, 1.0),
        (values.seconds, 0.1, 0.1),
        (values.seconds, 86400, 86400.0),
        (values.name, "büro-2.lab_x", "büro-2.lab_x"),
        (values.account, "anna.b", "anna.b"),
        (values.account, "host$", "host$"),
        (values.accounts, ["a", "b"], ("a", "b")),
        (values.path, "ca.pem", HERE / "ca.pem"),
        (values.path, "/ca.pem", Path("/ca.pem")),
        (values.path, "~/ca.pem", Path("~/ca.pem").expanduser()),
        (values.folders, [], ()),
        (values.targets, "SPICE://h:5900", ("spice://h:5900",)),
        (values.targets, ["tcp://[::1]:1", "unix:/a"], ("tcp://[::1]:1", "unix:/a")),
        (values.device, "1-2.3", "1-2.3"),
        (values.device, "951:16", "0951:0016"),
        (values.device, "0ABC:*", "0abc:*"),
        (values.choice("a", "b"), "b", "b"),
        (values.serial, "4C53 0001", "4C53 0001"),
    ],
)
def test_a_good_value_is_taken(check: Check, value: Any, result: object) -> None:
    found = check(value, HERE)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        (values.boolean, 1, "must be true or false, not 1"),
        (values.boolean, "yes", 'must be true or false, not "yes"'),
        (values.seconds, True, "must be a number of seconds, not true"),
        (values.seconds, "1", 'must be a number of seconds, not "1"'),
        (values.seconds, float("nan"), "must be 0.1 to 86400 seconds, not nan"),
        (values.seconds, -1, "must be 0.1 to 86400 seconds, not -1"),
        (values.text, 1, "must be a text in quotes, not 1"),
        (values.text, "", "must not be empty; leave it out instead"),
        (values.text, "x" * 1025, "is too long: 1025 characters, 1024 is the most"),
        (values.text, "a\x1b[m", r"has control characters in it: 'a\x1b[m'"),
        (values.name, "spice://h", "is no name for a VM"),
        (values.name, "-x", "is no name for a VM"),
        (values.name, "a b", "is no name for a VM"),
        (values.accounts, "anna", 'must be a list of names in brackets, not "anna"'),
        (values.accounts, ["a"] * 257, "is too long: 257 names, 256 is the most"),
        (values.accounts, ["a b"], "is not the name of a user or group"),
        (values.path, "~nobody-at-all/x", "whose home that is, is not known"),
        (values.socket_path, "/" + "x" * 107, "is too long for a socket: 108 bytes, 107 is the most"),
        (values.socket_path, "/" + "ä" * 54, "is too long for a socket: 109 bytes, 107 is the most"),
        (values.targets, [], "needs at least one target"),
        (values.targets, 5900, "must be a list of targets in brackets, not 5900"),
        (values.targets, [5900], "must be a text in quotes, not 5900"),
        (values.targets, "host:5900", "is not a kind of target. A VM is spice://HOST:PORT"),
        (values.device, "SanDisk", "is neither a place (1-2.3) nor an id"),
        (values.device, "*:*", "is neither a place"),
        (values.choice("a", "b", "c"), "d", 'must be "a", "b" or "c", not "d"'),
        (values.choice("a", "b"), ["a"], 'must be "a" or "b", not a list'),
        (values.choice("a", "b"), {}, 'must be "a" or "b", not a table'),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(check: Check, value: Any, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # what it says is compared below
        check(value, HERE)
    assert reason in str(caught.value)
