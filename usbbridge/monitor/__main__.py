"""`python -P -m usbbridge.monitor`: the same as `usbbridge monitor`, without the memory that the command line takes."""

import sys

from usbbridge.config import load
from usbbridge.errors import UsbBridgeError
from usbbridge.monitor.main import run


def main() -> int:
    """The process's exit status."""
    try:
        return run(load())
    except UsbBridgeError as error:
        print(f"usbbridge: {error.message}", *([f"  {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
