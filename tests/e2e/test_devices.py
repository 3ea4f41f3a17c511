"""Devices other than disks: interrupt endpoints, and a serial line with data both ways at any time."""

import socket
import struct

from tests.e2e.rig import Usbbridge, detach, with_ticket
from tools.lab import Client, Lab, Vm

KEYBOARD = "0627:0001"  # QEMU's usb-kbd
SERIAL = "0403:6001"  # QEMU's usb-serial

# struct input_event of 64-bit Linux, and what it says of keys (linux/input.h, linux/input-event-codes.h).
INPUT_EVENT = struct.Struct("qqHHi")
EV_KEY = 1
KEYS = {"u": 22, "s": 31, "b": 48}


def keys(data: bytes) -> list[tuple[int, int]]:
    """The keys in a row of input events as (code, 1 for down and 0 for up)."""
    whole = data[: len(data) // INPUT_EVENT.size * INPUT_EVENT.size]
    return [(code, value) for _, _, kind, code, value in INPUT_EVENT.iter_unpack(whole) if kind == EV_KEY]


def test_keyboard_types_in_the_guest(client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    keyboard = client.plug("usb-kbd")
    typed = [(code, down) for code in KEYS.values() for down in (1, 0)]

    with usbbridge.attach(keyboard.bus_port, vm.spice, *with_ticket()) as attached:
        folder = vm.wait_usb_device(KEYBOARD)
        event = vm.wait_until(lambda: vm.glob(f"{folder}/*/*/input/input*/event*"), "the keyboard's events")[0]
        node = f"/dev/input/{event.rpartition('/')[2]}"
        # Only a reader that has the device open is sent what is typed.
        with vm.start(["/bin/sh", "-c", f"exec 3< {node}; echo open; exec cat <&3"]) as reader:
            reader.wait_output("^open\n")
            for key in KEYS:
                client.press(key)
            reader.wait_until(lambda data: keys(data.removeprefix(b"open\n")) == typed, f"type {typed}")
        detach(attached)

    client.wait_driver(keyboard, "usbhid")


def test_serial_line_carries_bytes_both_ways(lab: Lab, client: Client, vm: Vm, usbbridge: Usbbridge) -> None:
    path = lab.folder / "serial"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        adapter = client.plug("usb-serial", chardev=path, always_plugged=True)
        line = listener.accept()[0]
    with line, usbbridge.attach(adapter.bus_port, vm.spice, *with_ticket()) as attached:
        vm.wait_usb_device(SERIAL)
        vm.wait_until(lambda: vm.glob("/dev/ttyUSB0"), "/dev/ttyUSB0")
        with vm.start(
            ["/bin/sh", "-c", "exec 3<> /dev/ttyUSB0; stty raw -echo <&3; echo open; exec cat <&3"]
        ) as reader:
            reader.wait_output("^open\n")
            line.sendall(b"from the device\n")
            reader.wait_output("^from the device\n")
            vm.shell("printf 'from the guest\\n' > /dev/ttyUSB0")
            with line.makefile("rb") as lines:
                assert lines.readline() == b"from the guest\n"
        detach(attached)

    client.wait_driver(adapter, "ftdi_sio")
