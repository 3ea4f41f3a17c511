"""Tools for developing usbbridge; nothing here is installed."""
