import inspect
import re

import pytest

from usbbridge.errors import ConnectionLostError, LinkError, RemoteProtocolError, UsbBridgeError
from usbbridge.spice import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, UsbBridgeError) and value.__module__ == errors.__name__
]
ARGUMENTS = {"where": "vm:5900", "channel": "usbredir 0", "seconds": 10.0, "given": True, "hint": "Do this."}


def example(cls: type[UsbBridgeError]) -> UsbBridgeError:
    """One of its kind, with made-up facts."""
    parameters = list(inspect.signature(cls).parameters.values())
    values = {p.name: ARGUMENTS.get(p.name, 7 if "int" in str(p.annotation) else p.name) for p in parameters}
    return cls(**values)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_says_what_happened_to_a_person(cls: type[UsbBridgeError]) -> None:
    error = example(cls)
    assert len(str(error)) > 20
    assert not str(error).endswith(".")
    assert not re.search(r"[{}<>]", str(error))


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, LinkError | ConnectionLostError)])
def test_every_error_that_a_person_can_do_something_about_says_what(cls: type[UsbBridgeError]) -> None:
    assert example(cls).hint.endswith((".", "?"))


def test_messages_tell_the_errors_apart() -> None:
    texts = [str(example(cls)) for cls in CLASSES]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_tree_in_the_docstring_is_complete(cls: type[UsbBridgeError]) -> None:
    assert re.search(rf"[├└]── {cls.__name__}\b", errors.__doc__ or "")
    assert issubclass(cls, LinkError | RemoteProtocolError | ConnectionLostError)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("PortClosedError", 4),
        ("NoSuchChannelError", 4),
        ("WrongTicketError", 3),
        ("SocketNotPermittedError", 3),
        ("PasswordTooLongError", 2),
        ("ChannelBusyError", 5),
        ("NotSpiceError", 1),
        ("UntrustedCertificateError", 1),
    ],
)
def test_exit_statuses(name: str, status: int) -> None:
    assert getattr(errors, name).exit_status == status
