"""Commands that free a device's disks, from the words in which `BlockUse` says what uses them."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Final

_SWAP: Final = re.compile(r"(\S+) is in use as swap")
_MAPPED: Final = re.compile(r"\S+ is part of (dm-\d+) \((.+)\)")
_RAID: Final = re.compile(r"\S+ is part of (md\S+)")
_LOOP: Final = re.compile(r"\S+ is part of (loop\d+)")

_MAPPERS: Final = (("LVM-", "lvchange -an /dev/mapper/"), ("CRYPT-", "cryptsetup close "))
"How the UUID of a device-mapper device starts, by who made it (dmsetup(8)) → what ends it. Others: dmsetup itself."


def freeing(uses: Iterable[str], places: Iterable[str], uuid: Callable[[str], str]) -> list[str]:
    """Commands for root: they unmount the `places`, in this order, and then end each other use that one is known for.

    `uuid` tells that of a device-mapper device, such as `dm-0`.
    """
    unmounting = [f"umount {shlex.quote(place)}" for place in places]
    return list(dict.fromkeys([*unmounting, *(command for use in uses for command in _ending(use, uuid))]))


def _ending(use: str, uuid: Callable[[str], str]) -> Iterator[str]:
    if match := _SWAP.fullmatch(use):
        yield f"swapoff /dev/{match[1]}"
    elif match := _MAPPED.fullmatch(use):
        of = uuid(match[1])
        end = next((end for start, end in _MAPPERS if of.startswith(start)), "dmsetup remove ")
        yield end + shlex.quote(match[2])
    elif match := _RAID.fullmatch(use):
        yield f"mdadm --stop /dev/{match[1]}"
    elif match := _LOOP.fullmatch(use):
        yield f"losetup -d /dev/{match[1]}"
