"""`python -m usbbridge.encoder FD`."""

import os
import sys

from usbbridge.encoder.main import main

status = main()
sys.stderr.flush()
# No finalizers: python-libusb1's would free transfers that a broken device has never given back, and fail at it.
os._exit(status)
