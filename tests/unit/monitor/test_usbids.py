"""Looking names up in the USB ID database."""

from pathlib import Path

import pytest

from usbbridge.monitor.usbids import load, names

DATABASE = b"""
# Vendors, devices and interfaces.
0001  Fry's Electronics
0002  Ingram
03f0  HP, Inc
\t0004  DeskJet 895c
# a comment among products
\t0011  OfficeJet G55 \xe9
\t0024  KU-0316 Keyboard
\t\t01  an interface
0400  National Semiconductor Corp.
\t0024  Another
C 00  (Defined at Interface level)
\t0011  not a product"""


@pytest.mark.parametrize(
    ("vendor", "product", "found"),
    [
        (0x03F0, 0x0024, ("HP, Inc", "KU-0316 Keyboard")),
        (0x03F0, 0x0011, ("HP, Inc", "OfficeJet G55 \ufffd")),
        (0x03F0, 0x9999, ("HP, Inc", "")),
        (0x0001, 0x0004, ("Fry's Electronics", "")),
        (0x0400, 0x0011, ("National Semiconductor Corp.", "")),
        (0x0024, 0x0024, ("", "")),
    ],
)
def test_names_are_found_in_their_vendors_section(vendor: int, product: int, found: tuple[str, str]) -> None:
    assert names(DATABASE, vendor, product) == found


def test_the_last_line_may_lack_its_end() -> None:
    assert names(b"\n0001  A\n\t0002  B", 1, 2) == ("A", "B")


def test_the_first_database_that_is_there_is_read(tmp_path: Path) -> None:
    assert load(tmp_path) == b""
    file = tmp_path / "var/lib/usbutils/usb.ids"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0001  A\n")
    assert names(load(tmp_path), 1, 2) == ("A", "")
