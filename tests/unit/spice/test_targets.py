import pytest

from usbbridge.errors import UsageError
from usbbridge.spice.targets import SpiceTarget, Target, TcpTarget, UnixTarget, parse_target

GOOD = [
    ("spice://vm.example:5900", SpiceTarget("vm.example", 5900)),
    ("spice+tls://vm.example:5901", SpiceTarget("vm.example", None, 5901)),
    ("spice://vm.example:5900?tls-port=5901", SpiceTarget("vm.example", 5900, 5901)),
    ("spice://vm.example?port=5900&tls-port=5901", SpiceTarget("vm.example", 5900, 5901)),
    ("spice://vm.example?tls-port=5901", SpiceTarget("vm.example", None, 5901)),
    ("spice://[::1]:5900", SpiceTarget("::1", 5900)),
    ("spice+tls://[fe80::1%eth0]:5901", SpiceTarget("fe80::1%eth0", None, 5901)),
    ("SPICE://192.0.2.7:5900/", SpiceTarget("192.0.2.7", 5900)),
    ("spice+unix:/run/vm.sock", SpiceTarget(socket_path="/run/vm.sock")),
    ("spice+unix:///run/vm.sock", SpiceTarget(socket_path="/run/vm.sock")),
    ("tcp://localhost:4000", TcpTarget("localhost", 4000)),
    ("tcp://[::1]:65535", TcpTarget("::1", 65535)),
    ("unix:/run/usb.sock", UnixTarget("/run/usb.sock")),
    ("unix:///run/usb.sock", UnixTarget("/run/usb.sock")),
    ("unix:usb.sock", UnixTarget("usb.sock")),
]


@pytest.mark.parametrize(("text", "target"), GOOD)
def test_what_a_target_means(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("target", [target for _, target in GOOD])
def test_a_target_prints_as_what_would_name_it(target: Target) -> None:
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "does not say how to get there"),
        ("vm.example", "does not say how to get there"),
        ("vm.example:5900", "'vm.example' is not a kind of target"),
        ("http://vm.example:80", "'http' is not a kind of target"),
        ("spice:vm.example:5900", "write spice://HOST:PORT"),
        ("spice://vm.example", "port is missing"),
        ("spice+tls://vm.example", "port is missing"),
        ("tcp://vm.example", "port is missing"),
        ("tcp://:4000", "host is missing"),
        ("tcp://vm.example:", "'' is not a port number"),
        ("tcp://vm.example:0", "'0' is not a port number"),
        ("tcp://vm.example:65536", "'65536' is not a port number"),
        ("tcp://vm.example:٤٠", "not a port number"),
        ("tcp://vm.example:4000?tls-port=1", "takes nothing after '?'"),
        ("spice://::1:5900", "in brackets"),
        ("spice://[::1:5900", "do not match"),
        ("spice://[::1]5900", "do not match"),
        ("spice://vm.example:5900/console", "nothing may follow the port"),
        ("spice://vm.example:5900?colour=red", "'colour' is not understood"),
        ("spice://vm.example:5900?tls-port", "'' is not a port number"),
        ("spice://vm.example:5900?&", "'' is not understood"),
        ("unix:", "path is missing"),
        ("spice+unix://vm.example/x", "path is missing"),
        (" tcp://vm.example:4000", "spaces"),
        ("tcp://vm.example:4000\n", "control characters"),
        ("tcp://vm example:4000", "spaces in it"),
        ("tcp://" + "x" * 5000 + ":1", "far too long"),
    ],
)
def test_what_is_wrong_is_said(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what.replace("?", r"\?")) as caught:
        parse_target(text)
    assert "spice://HOST:PORT" in caught.value.hint


@pytest.mark.parametrize("text", ["spice://user:hunter2@vm.example:5900", "spice://vm.example:5900?password=hunter2"])
def test_a_password_in_a_target_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="--password-file") as caught:
        parse_target(text)
    assert "hunter2" not in str(caught.value)
