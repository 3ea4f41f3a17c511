"""Every error usbbridge raises on purpose, and whose fault each one is.

    UsbBridgeError                  base; `exit_status` is what a command ends with, `hint` what to do next
    ├── UsageError                  the caller asked for something that makes no sense (2)
    ├── NotPermittedError           the operating system or a rule of ours said no (3)
    ├── NotFoundError               no such device or VM (4)
    ├── RefusedError                it exists, but may not be used so: rule, in use, rejected by the VM (5)
    ├── ProtocolError               somebody broke a protocol
    │   ├── LocalProtocolError      we were about to send something illegal: our own fault, nothing was sent
    │   └── RemoteProtocolError     the peer sent something illegal: the session with it is over
    ├── LinkError                   the SPICE link stage failed; subclasses in `usbbridge.spice.errors`
    ├── ConnectionLostError         a peer that was there is gone
    └── DeviceError                 the device or the kernel below it failed
        └── DeviceLostError         the device was unplugged, or is as good as unplugged

Each part refines these where it raises them: `usbredir.errors`, `spice.errors`, `usb.descriptors.DescriptorError`,
`control.foreground.EncoderError` (the encoder process died without a word), `cli.foreground.AttachmentError` (what an
encoder reported).

A STALL, a babble, a short packet or a cancelled transfer is a *result* (`usbbridge.backend.base.Status`), not an error.
"""


class UsbBridgeError(Exception):
    """Base of all errors raised on purpose; `str()` of one is a sentence for a person."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(UsbBridgeError):
    """The request itself is wrong: a malformed target, an ambiguous device name."""

    exit_status = 2


class NotPermittedError(UsbBridgeError):
    """Permission is missing."""

    exit_status = 3


class NotFoundError(UsbBridgeError):
    """No such device, file or VM."""

    exit_status = 4


class RefusedError(UsbBridgeError):
    """It is there but may not be had: a rule, another user, the VM's own filter."""

    exit_status = 5


class ProtocolError(UsbBridgeError):
    """A protocol rule was broken; always one of the two subclasses."""


class LocalProtocolError(ProtocolError):
    """We were asked to send what the protocol forbids. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids. Its session ends; there is no resynchronising."""


class LinkError(UsbBridgeError):
    """A SPICE channel could not be linked."""


class ConnectionLostError(UsbBridgeError):
    """The peer closed the connection or stopped answering."""


class DeviceError(UsbBridgeError):
    """The device, or the kernel on its behalf, failed an operation."""


class DeviceLostError(DeviceError):
    """The device is gone."""
