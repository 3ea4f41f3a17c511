"""The one place where the end of a transfer becomes a usbredir status, and a device's speed usbredir's."""

from typing import Final

from usbbridge.backend.base import Status
from usbbridge.usb.ch9 import Speed
from usbbridge.usbredir.proto import Status as RedirStatus

_MAP: Final = {
    Status.COMPLETED: RedirStatus.SUCCESS,
    Status.ERROR: RedirStatus.IOERROR,
    Status.TIMED_OUT: RedirStatus.TIMEOUT,
    Status.CANCELLED: RedirStatus.CANCELLED,
    Status.STALL: RedirStatus.STALL,
    Status.NO_DEVICE: RedirStatus.IOERROR,  # followed by device_disconnect
    Status.OVERFLOW: RedirStatus.BABBLE,
}

REDIR_STATUS: Final = tuple(_MAP[status] for status in Status)
"usbredir status by `backend.base.Status`: a tuple, as it is looked up for every URB."


def redir_speed(speed: Speed) -> int:
    """usbredir 0.7 has no code for SuperSpeedPlus; guests take such a device as SuperSpeed, which it can do."""
    return int(Speed.SUPER if speed is Speed.SUPER_PLUS else speed)
