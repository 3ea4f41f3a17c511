"""A lab without hardware: a client machine and a virtual machine in QEMU, for the tests and for a maintainer.

Both boot Debian's own kernel on this host's root file system, which they see read-only under an in-memory overlay: what
is installed here is installed there. The client machine has real usbfs with QEMU's emulated devices; the virtual
machine has a SPICE server and usb-redir devices. `python -m tools.lab --help` for the prompt; `Lab` for tests.
"""

from tools.lab.client import Client, Plugged
from tools.lab.emulation import Emulated
from tools.lab.host import LabError
from tools.lab.lab import REPOSITORY, Lab
from tools.lab.machine import HOST_ADDRESS, Machine
from tools.lab.native import NativeClient, Stick
from tools.lab.process import Completed, Process
from tools.lab.usb_view import AtPort, UsbView
from tools.lab.vm import Vm, VmOptions

__all__ = [
    "HOST_ADDRESS",
    "REPOSITORY",
    "AtPort",
    "Client",
    "Completed",
    "Emulated",
    "Lab",
    "LabError",
    "Machine",
    "NativeClient",
    "Plugged",
    "Process",
    "Stick",
    "UsbView",
    "Vm",
    "VmOptions",
]
