"""What a HID interface says it is for: the application usages of its report descriptor (HID 1.11 §6.2.2).

The bytes are a stranger's. They are gone through once, item by item; what can't be true ends the reading, and what was
found until then is the answer.
"""

from collections.abc import Iterator
from typing import Final

MAX_DESCRIPTOR: Final = 16 << 10
"Bytes: Linux's HID_MAX_DESCRIPTOR_SIZE; older kernels take 4096."
MAX_USAGES: Final = 16
"Applications of one interface that are passed on. A keyboard with everything beside it has six."
MAX_PUSHED: Final = 8
"Global states on the stack (§6.2.2.7 Push); Linux takes 4."

APPLICATION: Final = 1
"Of a collection's data (§6.2.2.6)."

# Item tags with their types, bits 7..2 of the prefix (§6.2.2.4, §6.2.2.7, §6.2.2.8).
_COLLECTION: Final = 0xA0
_INPUT: Final = 0x80
_OUTPUT: Final = 0x90
_FEATURE: Final = 0xB0
_END_COLLECTION: Final = 0xC0
_USAGE_PAGE: Final = 0x04
_PUSH: Final = 0xA4
_POP: Final = 0xB4
_USAGE: Final = 0x08
_USAGE_MINIMUM: Final = 0x18
_MAIN: Final = frozenset((_COLLECTION, _INPUT, _OUTPUT, _FEATURE, _END_COLLECTION))
_LONG_ITEM: Final = 0xFE


def application_usages(descriptor: bytes) -> tuple[int, ...]:
    """Usages of the application collections, page << 16 | id, each once, in their order; at most MAX_USAGES."""
    found: dict[int, None] = {}
    page, usage, long_form = 0, 0, True  # the first local usage: it is the collection's (§6.2.2.8)
    has_usage, pages = False, list[int]()
    for tag, data, size in _items(descriptor[:MAX_DESCRIPTOR]):
        if tag == _USAGE_PAGE:
            page = data & 0xFFFF
        elif tag == _PUSH and len(pages) < MAX_PUSHED:
            pages.append(page)
        elif tag == _POP and pages:
            page = pages.pop()
        elif tag in (_USAGE, _USAGE_MINIMUM) and not has_usage:
            usage, long_form, has_usage = data, size == 4, True
        elif tag in _MAIN:
            if tag == _COLLECTION and data == APPLICATION and has_usage and len(found) < MAX_USAGES:
                found[usage if long_form else page << 16 | usage] = None
            has_usage = False  # a main item ends the local ones
    return tuple(found)


def _items(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(tag and type, data, bytes of data) of each short item (§6.2.2.2); long items are passed over (§6.2.2.3)."""
    at = 0
    while at < len(data):
        prefix = data[at]
        if prefix == _LONG_ITEM:
            if at + 1 >= len(data):
                return
            at += 3 + data[at + 1]
            continue
        size = (0, 1, 2, 4)[prefix & 3]
        at += 1 + size
        if at > len(data):
            return
        yield prefix & 0xFC, int.from_bytes(data[at - size : at], "little"), size
