"""Devices that need something done otherwise, by vendor and product id."""

from typing import Final

NO_RESET: Final = frozenset(
    {
        (0x1210, 0x001C),  # DigiTech: does not come back from a reset (usbredir's own list)
        (0x2798, 0x0001),  # the same
    }
)
"Devices that are never reset, neither before they are announced nor when the guest asks."
