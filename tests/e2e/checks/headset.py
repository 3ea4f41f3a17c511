"""The headset of `tools.lab.devices.headset` through snd-usb-audio: it plays and records at the same time at each rate,
its microphone is muted, and its keys are pressed.

python -m tests.e2e.checks.headset [--seconds 1] [--gaps 0] [--nokeys]
"""

import argparse
import ctypes
import fcntl
import json
import os
import select
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.checks.common import PATIENCE, expect, fail, load, program, report, usb_device, wait_for
from tests.machine.usb import node
from tools.lab.devices.describe import VENDOR
from tools.lab.devices.headset import FORGET, GET_HEARD, HEARD_SIZE, PRESS, PRODUCT
from tools.lab.devices.patterns import SAMPLE_SIZE, SoundJudge, missing_frames, ramp
from tools.lab.devices.uac import CAPTURE_CHANNELS, KEYS, PLAYBACK_CHANNELS, RATES

USBDEVFS_CONTROL = 0xC0185500
CONTROL_TRANSFER = struct.Struct("BBHHHI4xQ")
"struct usbdevfs_ctrltransfer, 64 bits (Linux, include/uapi/linux/usbdevice_fs.h)."
CONTROL_TIMEOUT = 10_000
"Milliseconds."

INPUT_EVENT = struct.Struct("qqHHi")
EV_KEY = 1
CODES = {"volumeup": 115, "volumedown": 114, "mute": 113, "playpause": 164}
"struct input_event, 64 bits, and key codes (Linux, include/uapi/linux/input-event-codes.h)."

PERIOD_TIME, BUFFER_TIME = 10_000, 2_000_000
"""Microseconds of sound: after which the driver speaks up, and that it holds at the most. ALSA gives up (EIO) when not
one period has passed for about as long as the buffer lasts; so a stream may be two hundred times too slow, as on an
emulated machine with much else to do, and is whole in the end. (The driver records in URBs of one millisecond.)"""
STREAM_PATIENCE = 200.0
"Seconds for one second of sound."
SILENT_FRACTION = 2
"""The part of a second of silence after what is played. A driver stops its stream when all of it has been taken from
it; what a redirecting host still has in its buffer then, a quarter of a second at the most, is not played."""
MUTED_FRACTION = 4
"Part of a second that is recorded from the muted microphone."


class Headset:
    """The device itself, beside its drivers: vendor requests, and where its drivers have put it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        card = wait_for(lambda: next(folder.glob(f"{folder.name}:*/sound/card*/id"), None), "sound card")
        assert card is not None
        self.card = card.read_text().strip()
        wait_for(lambda: Path(f"/dev/snd/controlC{card.parent.name.removeprefix('card')}").exists(), "sound nodes")

    def request(self, request: tuple[int, int], value: int = 0, length: int = 0) -> bytes:
        """A vendor request; what it answers."""
        buffer = ctypes.create_string_buffer(max(length, 1))
        fields = CONTROL_TRANSFER.pack(*request, value, 0, length, CONTROL_TIMEOUT, ctypes.addressof(buffer))
        with node(self.folder).open("r+b", buffering=0) as usbfs:
            count = fcntl.ioctl(usbfs, USBDEVFS_CONTROL, bytearray(fields))
        return buffer.raw[:count]

    def heard(self) -> dict[str, Any]:
        """What the headset says it has heard."""
        found: dict[str, Any] = json.loads(self.request(GET_HEARD, length=HEARD_SIZE))
        return found

    def command(self, tool: str, rate: int, channels: int, *more: str) -> list[str]:
        """aplay or arecord of raw samples, with nothing between it and the driver that could change them."""
        form = ["-t", "raw", "-f", "S16_LE", "-r", str(rate), "-c", str(channels)]
        times = ["-F", str(PERIOD_TIME), "-B", str(BUFFER_TIME)]
        return [tool, "-q", "-D", f"hw:CARD={self.card},DEV=0", *form, *times, *more]

    def event_node(self) -> Path:
        """Where its keys are reported."""
        pattern = f"{self.folder.name}:*/*/input/input*/event*"
        found = wait_for(lambda: next(self.folder.glob(pattern), None), "input device")
        assert found is not None
        node = Path("/dev/input", found.name)
        wait_for(node.exists, f"{node}")
        return node


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start aplay or arecord."""
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], seconds: int) -> None:
    """Wait for one; an underrun or overrun, too, makes it speak."""
    try:
        _, said = process.communicate(timeout=seconds * STREAM_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        fail(f"{process.args!r} does not end")
    expect(process.returncode == 0 and not said, f"{process.args!r}: status {process.returncode}: {said}")


def both_ways(headset: Headset, rate: int, seconds: int, folder: Path, gaps: int) -> dict[str, object]:
    """Play and record at the same time."""
    played, recorded, frames = folder / "played", folder / "recorded", rate * seconds
    silence = bytes(rate * PLAYBACK_CHANNELS * SAMPLE_SIZE // SILENT_FRACTION)
    played.write_bytes(ramp(0, frames, PLAYBACK_CHANNELS) + silence)
    headset.request(FORGET)
    began = time.monotonic()
    recording = start(headset.command("arecord", rate, CAPTURE_CHANNELS, "-s", str(frames), str(recorded)))
    playing = start(headset.command("aplay", rate, PLAYBACK_CHANNELS, str(played)))
    finish(playing, seconds)
    finish(recording, seconds)
    return {
        "played": judge_played(headset.heard(), rate, frames, gaps),
        "recorded": judge_recorded(recorded.read_bytes(), frames, gaps),
        "took": round(time.monotonic() - began, 1),
    }


def judge_played(heard: dict[str, Any], rate: int, frames: int, gaps: int) -> dict[str, object]:
    """What the headset has heard is what was played."""
    runs = heard["first_runs"]
    text = f"{rate} Hz: heard {heard}"
    expect(heard["rate"] == rate, text)
    expect(not heard["damaged"] and 1 <= heard["runs"] <= 1 + gaps, text)
    expect(gaps or (runs[0][0] == 0 and heard["frames"] == frames), text)
    facts = {name: heard[name] for name in ("frames", "packets", "silent")}
    return facts | {"gaps": heard["runs"] - 1, "missing": missing_frames(runs)}


def judge_recorded(data: bytes, frames: int, gaps: int) -> dict[str, object]:
    """What was recorded is the headset's ramp, from wherever on."""
    judge = SoundJudge(CAPTURE_CHANNELS)
    judge.hear(data)
    expect(len(data) == frames * CAPTURE_CHANNELS * SAMPLE_SIZE, f"{len(data)} bytes recorded, not {frames} frames")
    expect(not judge.damaged and 1 <= judge.runs <= 1 + gaps, f"recorded: {judge}")
    expect(gaps or judge.frames + judge.silent == frames, f"recorded: {judge}")
    missing = missing_frames(judge.first_runs)
    return {"frames": judge.frames, "silent": judge.silent, "gaps": judge.runs - 1, "missing": missing}


def mute(headset: Headset, folder: Path) -> dict[str, object]:
    """A muted microphone hears nothing; and the mixer's switches and volumes reach the headset."""
    before = headset.heard()
    expect(before["muted"] == [False, False] and before["levels"] == [0, 0], f"at first: {before}")
    control = ["amixer", "-q", "-D", f"hw:CARD={headset.card}", "sset"]
    program([*control, "Mic", "nocap", "10dB-"])
    program([*control, "PCM", "mute", "20dB-"])
    heard = headset.heard()
    frames = ["-s", str(RATES[0] // MUTED_FRACTION)]
    finish(start(headset.command("arecord", RATES[0], CAPTURE_CHANNELS, *frames, str(folder / "muted"))), 1)
    program([*control, "Mic", "cap", "100%"])
    program([*control, "PCM", "unmute", "100%"])
    expect(heard["muted"] == [True, True], f"after muting both: {heard}")
    expect(heard["levels"] == [-20 * 256, -10 * 256], f"volumes of -20 and -10 dB were set: {heard}")
    expect(not any((folder / "muted").read_bytes()), "the muted microphone hears something")
    after = headset.heard()
    expect(after["muted"] == [False, False] and after["levels"] == [0, 0], f"after all was taken back: {after}")
    return {name: heard[name] for name in ("muted", "levels")}


def press_keys(headset: Headset, folder: Path) -> dict[str, object]:
    """Press each key and let it go, while a recording runs, which must not hold them up."""
    took = []
    frames = ["-s", str(RATES[0])]
    with headset.event_node().open("rb", buffering=0) as events:
        recording = start(headset.command("arecord", RATES[0], CAPTURE_CHANNELS, *frames, str(folder / "meanwhile")))
        for bit, key in enumerate(KEYS):
            for down in (1, 0):
                began = time.monotonic()
                headset.request(PRESS, down << bit)
                expect(next_key(events.fileno()) == (CODES[key], down), f"{key} {'down' if down else 'up'}")
                took.append(round(1000 * (time.monotonic() - began), 1))
        meanwhile = recording.poll() is None
        finish(recording, 1)
    return {"pressed": [*KEYS], "milliseconds": [min(took), max(took)], "recording": meanwhile}


def next_key(events: int) -> tuple[int, int]:
    """Code and value of the next event of a key; the check ends when none comes."""
    while select.select([events], [], [], PATIENCE)[0]:
        _, _, kind, code, value = INPUT_EVENT.unpack(os.read(events, INPUT_EVENT.size))
        if kind == EV_KEY:
            return code, value
    return fail("no key is reported")


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=1, help="of sound, at each rate")
    parser.add_argument("--gaps", type=int, default=0, help="that may be in the sound, each way")
    parser.add_argument("--nokeys", action="store_true", help="the headset has no keys")
    options = parser.parse_args()
    load("snd-usb-audio", "usbhid", "hid-generic", "evdev")
    headset = Headset(usb_device(VENDOR, PRODUCT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = {rate: both_ways(headset, rate, options.seconds, folder, options.gaps) for rate in RATES}
        mixer = mute(headset, folder)
        keys = {} if options.nokeys else press_keys(headset, folder)
    report(
        card=headset.card,
        speed=(headset.folder / "speed").read_text().strip(),
        sound=sound,
        mixer=mixer,
        keys=keys,
    )


if __name__ == "__main__":
    main()
