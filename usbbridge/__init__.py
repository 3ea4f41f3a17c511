"""usbbridge: plug a USB device into the client, use it in the virtual machine (SPICE USBREDIR and raw usbredir)."""

__version__ = "0.1.0"
