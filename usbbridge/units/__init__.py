"""What `usbbridge install-service` puts into the system: units and their like, and how they get there and away again.

files      which files there are, where each belongs, and whether what is there now is ours
command    the command that the units start: where it is, and whether the service may run it
install    writing and removing them, and telling systemd and udev
"""
