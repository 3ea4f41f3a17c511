"""`python -m usbbridge`: the same as the `usbbridge` command."""

import sys

from usbbridge.cli.main import main

sys.exit(main())
