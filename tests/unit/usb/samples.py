"""Descriptors as real devices send them, one a line."""

from struct import pack


def configuration(*descriptors: str, interfaces: int, attributes: int = 0x80, max_power: int = 50) -> bytes:
    """The configuration holding `descriptors` (hexadecimal), with the right wTotalLength."""
    body = bytes.fromhex("".join(descriptors))
    return pack("<BBHBBBBB", 9, 2, 9 + len(body), interfaces, 1, 0, attributes, max_power) + body


FLASH_DRIVE_DEVICE = bytes.fromhex("12 01 0002 00 00 00 40 8107 6755 0001 01 02 03 01")
"A USB 2.0 stick: 0781:5567, class given per interface."

FLASH_DRIVE = bytes.fromhex("09022000010100806409040000020806500007058102000200070502020002 01".replace(" ", ""))
"Mass storage, SCSI transparent, Bulk-Only; one bulk endpoint each way, bInterval 1 on the second."

KEYBOARD = configuration(
    "09 04 00 00 01 03 01 01 00",
    "09 21 10 01 00 01 22 41 00",
    "07 05 81 03 08 00 0a",
    "09 04 01 00 01 03 00 00 00",
    "09 21 10 01 00 01 22 9f 00",
    "07 05 82 03 04 00 0a",
    interfaces=2,
    attributes=0xA0,
)
"Boot keyboard with a second interface for media keys; HID descriptors (0x21) between interface and endpoint."

UAS_DISK = configuration(
    "09 04 00 00 02 08 06 50 00",
    "07 05 81 02 00 04 00",
    "06 30 0f 00 00 00",
    "07 05 02 02 00 04 00",
    "06 30 0f 00 00 00",
    "09 04 00 01 04 08 06 62 00",
    "07 05 81 02 00 04 00",
    "06 30 0f 05 00 00",
    "04 24 03 00",
    "07 05 02 02 00 04 00",
    "06 30 0f 05 00 00",
    "04 24 04 00",
    "07 05 83 02 00 04 00",
    "06 30 0f 05 00 00",
    "04 24 02 00",
    "07 05 04 02 00 04 00",
    "06 30 00 00 00 00",
    "04 24 01 00",
    interfaces=1,
)
"SATA bridge at SuperSpeed: setting 0 Bulk-Only, setting 1 UAS with 32 streams and pipe usage descriptors (0x24)."

WEBCAM = configuration(
    "08 0b 00 02 0e 03 00 05",
    "09 04 00 00 01 0e 01 00 05",
    "0d 24 01 00 01 33 00 6c dc 02 01 01 01",
    "07 05 83 03 10 00 06",
    "05 25 03 10 00",
    "09 04 01 00 00 0e 02 00 00",
    "0e 24 01 01 33 00 81 00 02 00 00 00 01 00",
    *(
        f"09 04 01 0{alternate} 01 0e 02 00 00  07 05 81 05 {size} 01"
        for alternate, size in enumerate(("80 00", "00 02", "00 04", "20 0b", "20 13", "fc 13"), start=1)
    ),
    interfaces=2,
    max_power=250,
)
"UVC camera: interface association, control interface, streaming interface with six isochronous settings."
