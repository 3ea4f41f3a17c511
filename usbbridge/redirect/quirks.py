"""What some devices need done otherwise: names of quirks, as the compatibility list knows them, and, for who has no
list, the devices that can't do without."""

from typing import Final

NO_RESET: Final = "no-reset"
"The device does not bear a reset: it is not reset before it is announced, nor when the guest asks, nor at the end."

NO_STREAMS: Final = "no-streams"
"The device's bulk streams do not work, or its controller's: they are not offered."

DELAY: Final = "delay"
"The device needs a while between being taken from its kernel driver and its first request."
SETTLE_SECONDS: Final = 1.0

NEVER_RESET: Final = frozenset(
    {
        (0x1210, 0x001C),  # DigiTech: does not come back from a reset (usbredir's own list)
        (0x2798, 0x0001),  # the same
    }
)
"Devices with that quirk, whether or not somebody says so."
