"""What is taken of a device's descriptors, which libusb hands on as the device sent them."""

from collections.abc import Iterator

from usbbridge.backend import libusb
from usbbridge.usb.descriptors import Endpoint


class RawEndpoint:
    """A bulk endpoint as python-libusb1 shows it."""

    def __init__(self, address: int) -> None:
        self._address = address

    def getAddress(self) -> int:  # noqa: N802  # python-libusb1's name
        return self._address

    def __getattr__(self, name: str) -> object:
        values = {"getAttributes": 2, "getMaxPacketSize": 512, "getInterval": 0, "getExtra": ()}
        return lambda: values[name]


class RawSetting:
    """An alternate setting with endpoints of these addresses."""

    def __init__(self, *addresses: int) -> None:
        self._addresses = addresses

    def __iter__(self) -> Iterator[RawEndpoint]:
        return map(RawEndpoint, self._addresses)

    def __getattr__(self, name: str) -> object:
        return lambda: 0


def test_endpoints_that_cannot_be_are_passed_over_as_the_kernel_does() -> None:
    setting = libusb._setting(RawSetting(0x81, 0x80, 0x00, 0x92, 0x02))
    assert setting.endpoints == (Endpoint(0x81, 2, 512, 0), Endpoint(0x02, 2, 512, 0))
