"""`python -m usbbridge.encoder FD`."""

import sys

from usbbridge.encoder.main import main

sys.exit(main())
