"""Options of a device in the factory: `name=value` in a spec such as `fido,serial=KEY2,touch=never`."""

from collections.abc import Mapping

from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed


def check(device: str, options: Mapping[str, str], *known: str) -> None:
    """Raises UsageError for an option that the device doesn't have."""
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise UsageError(f"a {device} has no option {unknown[0]!r}", hint=f"it has {', '.join(known)}")


def choice(device: str, options: Mapping[str, str], name: str, *values: str) -> str:
    """One of some words; the first is the default. Raises UsageError for another."""
    value = options.get(name, values[0])
    if value not in values:
        raise UsageError(f"{name}={value} is nothing a {device} can be", hint=f"it is one of {', '.join(values)}")
    return value


def check_speed(device: str, speed: Speed, *possible: Speed) -> None:
    """Raises UsageError for a speed that such a device isn't made for."""
    if speed not in possible:
        names = " or ".join(one.name.lower() for one in possible)
        raise UsageError(f"a {device} runs at {names} speed, not at {speed.name.lower()} speed")
