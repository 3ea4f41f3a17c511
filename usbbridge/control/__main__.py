"""`python -P -m usbbridge.control`: the same as `usbbridge control`, without the memory that the command line takes."""

import sys

from usbbridge.config import load
from usbbridge.control.main import run
from usbbridge.errors import UsbBridgeError


def main() -> int:
    """The process's exit status."""
    try:
        return run(load())
    except UsbBridgeError as error:
        print(f"usbbridge: {error.message}", *([f"  {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
