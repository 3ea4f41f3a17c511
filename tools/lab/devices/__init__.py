"""A factory of emulated USB devices: what a class of devices does, in Python, for a real kernel's drivers to judge.

Each module has one `usbbridge.backend.emulated.function.Function`. `tools.lab.plug` shows it to a kernel through
vhci-hcd; `usbbridge.backend.emulated.device.EmulatedDevice` makes a backend of it in this process.
"""
