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

NO_READ_AHEAD: Final = "no-read-ahead"
"The drive needs a while between a command and its data: it is asked for data when the guest asks, and not before."

NEVER_READ_AHEAD: Final = frozenset(
    {
        (0x059F, 0x0643),
        (0x05E3, 0x0701),
        (0x05E3, 0x0702),
        (0x067B, 0x2507),
        (0x067B, 0x3507),
        (0x0ED1, 0x7636),
        (0x2735, 0x100B),
    }
)
"Drives with that quirk: those for which Linux waits 125 us there (US_FL_GO_SLOW in drivers/usb/storage)."

NEVER_RESET: Final = frozenset(
    {
        (0x1210, 0x001C),  # DigiTech: does not come back from a reset (usbredir's own list)
        (0x2798, 0x0001),  # the same
    }
)
"Devices with that quirk, whether or not somebody says so."
