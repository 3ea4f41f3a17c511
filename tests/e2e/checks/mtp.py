"""A media player, by libmtp's tools: files fetched, sent, fetched again and deleted, their content compared by hash.

Needs the Debian package mtp-tools.
"""

import argparse
import hashlib
import os
import re
import tempfile
from pathlib import Path

from tests.e2e.checks.common import expect, fail, program, report, usb_device
from tests.e2e.checks.drivers import IDENTITY, attribute
from tools.lab.devices.describe import VENDOR
from tools.lab.devices.mtp import DEFAULT_SAMPLE, PRODUCT
from tools.lab.devices.mtp_store import SAMPLE_NAME, sample

SENT_NAME = "sent.bin"
SENT_BYTES = 200_000 - 12
"With its container's header not a multiple of any packet's size."
WHOLE_PACKETS = 64 * 1024 - 12
"With the header a multiple of every packet's size: an empty packet has to end it."
FILE = re.compile(r"File ID: (\d+)\s+Filename: (.*)\s+File size (\d+)")


def files() -> dict[str, tuple[int, int]]:
    """Number and size of each file on the device, by name."""
    found = FILE.findall(program(["mtp-files"]).stdout)
    return {name.strip(): (int(number), int(size)) for number, name, size in found}


def fetch(number: int, path: Path) -> str:
    """The hash of a file, fetched."""
    text = program(["mtp-getfile", str(number), str(path)]).stdout
    if not path.exists():
        fail(f"file {number} was not fetched: {text}")
    return sha256(path.read_bytes())


def round_trip(folder: Path, size: int) -> str:
    """Send a file, find it, fetch it, delete it; its hash."""
    data, original = os.urandom(size), folder / SENT_NAME
    original.write_bytes(data)
    text = program(["mtp-sendfile", str(original), SENT_NAME]).stdout
    found = files()
    expect(SENT_NAME in found, f"the file that was sent is not there: {text}")
    number, there = found[SENT_NAME]
    expect(there == size, f"of {size} bytes that were sent {there} are there")
    expect(fetch(number, folder / "back") == sha256(data), f"a file of {size} bytes came back changed")
    (folder / "back").unlink()
    program(["mtp-delfile", "-n", str(number)])
    expect(SENT_NAME not in files(), "the file is still there after it was deleted")
    return sha256(data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """`--size`: that of the sample, should the device have been made with another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=DEFAULT_SAMPLE)
    size = parser.parse_args().size
    device = usb_device(VENDOR, PRODUCT)
    detected = program(["mtp-detect"]).stdout
    expect("Media player" in detected, f"libmtp finds no player: {detected}")
    found = files()
    expect(found.get(SAMPLE_NAME, (0, 0))[1] == size, f"no {SAMPLE_NAME} of {size} bytes: {found}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fetched = fetch(found[SAMPLE_NAME][0], folder / SAMPLE_NAME)
        expect(fetched == sha256(sample(size)), f"{SAMPLE_NAME} came changed")
        sent = [round_trip(folder, bytes_) for bytes_ in (SENT_BYTES, WHOLE_PACKETS)]
    identity = {attribute_: attribute(device, attribute_) for attribute_ in IDENTITY}
    report(**identity, files=sorted(found), fetched=fetched, sent=sent, bytes=size + 2 * (SENT_BYTES + WHOLE_PACKETS))


if __name__ == "__main__":
    main()
