"""The camera of `tools.lab.devices.camera` through uvcvideo: each mode's pictures, byte by byte, and its brightness.

python -m tests.e2e.checks.camera [--modes 160x120@5,320x240@15] [--pictures 10] [--missing 0]
"""

import argparse
from pathlib import Path

from tests.e2e.checks.common import expect, load, report, usb_device, wait_for
from tests.e2e.checks.v4l2 import BRIGHTNESS, Mode, VideoNode
from tools.lab.devices.camera import MAX_BRIGHTNESS, PRODUCT
from tools.lab.devices.describe import VENDOR
from tools.lab.devices.patterns import DEFAULT_BRIGHTNESS, PictureJudge
from tools.lab.devices.uvc import STREAMING_INTERFACE

SETTLING = 16
"Pictures after which a control that was set must show: those on their way are of before, in 5 URBs and 4 buffers."


def video_node(device: Path) -> Path:
    """The capture node of the device."""

    def look() -> Path | None:
        nodes = sorted(device.glob(f"{device.name}:*/video4linux/video*"))
        capture = [node for node in nodes if (node / "index").read_text().strip() == "0"]
        return Path("/dev", capture[0].name) if capture and Path("/dev", capture[0].name).exists() else None

    found = wait_for(look, "video node")
    assert found is not None
    return found


def alternate(device: Path) -> int:
    """The alternate setting that the streaming interface has now."""
    [folder] = device.glob(f"{device.name}:*.{STREAMING_INTERFACE}")
    return int((folder / "bAlternateSetting").read_text())


def stream(video: VideoNode, device: Path, mode: Mode, pictures: int, missing: int) -> dict[str, object]:
    """So many pictures in one mode."""
    got, size = video.configure(mode)
    expect(got == mode, f"{mode} was asked for, and {got} is given")
    judge = PictureJudge(size)
    video.start()
    setting = alternate(device)
    buffers = [video.read() for _ in range(pictures)]
    video.stop()
    bad = sum(buffer.is_bad for buffer in buffers)
    for buffer in buffers:
        judge.see(buffer.data)
    expect(setting > 0 and alternate(device) == 0, f"{mode}: alternate setting {setting}, {alternate(device)} after it")
    expect(not judge.damaged and not bad, f"{mode}: {judge.damaged} damaged of {pictures}, {bad} bad: {judge.damage}")
    expect(not judge.disordered, f"{mode}: {judge.disordered} pictures out of order")
    expect(judge.missing <= missing, f"{mode}: {judge.missing} pictures missing between {pictures}")
    took = buffers[-1].seconds - buffers[0].seconds
    rate = round((judge.missing + pictures - 1) / took, 2)
    return {"alternate": setting, "whole": judge.whole, "missing": judge.missing, "rate": rate}


def turn_brightness(video: VideoNode, mode: Mode, value: int) -> dict[str, object]:
    """Set the brightness while pictures come; they show it."""
    _, size = video.configure(mode)
    judge = PictureJudge(size)
    video.start()
    judge.see(video.read().data)
    before = judge.brightness
    video.set_control(BRIGHTNESS, value)
    count = 0
    while judge.brightness != value and count < SETTLING:
        judge.see(video.read().data)
        count += 1
    video.stop()
    expect(judge.brightness == value, f"{count} pictures later the brightness is {judge.brightness}, not {value}")
    expect(video.control(BRIGHTNESS) == value, "the driver says another brightness")
    video.set_control(BRIGHTNESS, before)
    return {"from": before, "to": value, "pictures": count}


def extremes(offered: list[Mode]) -> list[Mode]:
    """The smallest pictures at the lowest and the highest rate, if there are two."""
    width = min(mode.width for mode in offered)
    smallest = sorted((mode for mode in offered if mode.width == width), key=lambda mode: mode.rate)
    return [*dict.fromkeys((smallest[0], smallest[-1]))]


def arguments() -> argparse.Namespace:
    """The program's options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--modes", default="", help="by default the smallest, at the lowest and the highest rate")
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--missing", type=int, default=0, help="pictures of a stream that may be missing")
    return parser.parse_args()


def main() -> None:
    """Run the check."""
    options = arguments()
    load("uvcvideo")
    device = usb_device(VENDOR, PRODUCT)
    with VideoNode(video_node(device)) as video:
        driver, card = video.identity()
        expect(driver == "uvcvideo", f"the driver is {driver}")
        offered = video.modes()
        modes = [Mode.parse(text) for text in options.modes.split(",")] if options.modes else extremes(offered)
        expect(set(modes) <= set(offered), f"it offers only {[*map(str, offered)]}")
        low, high, _, default = video.control_range(BRIGHTNESS)
        expect((low, high, default) == (0, MAX_BRIGHTNESS, DEFAULT_BRIGHTNESS), f"brightness {low}..{high}, {default}")
        streams = {str(mode): stream(video, device, mode, options.pictures, options.missing) for mode in modes}
        brightness = turn_brightness(video, modes[-1], 77)
        report(
            card=card,
            speed=(device / "speed").read_text().strip(),
            formats=video.formats(),
            modes=[*map(str, offered)],
            streams=streams,
            brightness=brightness,
        )


if __name__ == "__main__":
    main()
