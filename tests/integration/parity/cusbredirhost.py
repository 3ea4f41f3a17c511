"""libusbredirhost by ctypes: the reference host, joining one device node to one guest's socket.

    serve(fd_of_node, sock, "version")

returns when the guest has hung up, or the library has said that the session is over. Structures and numbers are those
of usbredirhost.h and libusb.h; needs libusbredirhost.so.1 (Debian: libusbredirhost1), which brings libusb-1.0.so.0.
"""

import ctypes
import select
import socket
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_short, c_ubyte, c_void_p
from typing import Any

NO_DEVICE_DISCOVERY = 2  # LIBUSB_OPTION_NO_DEVICE_DISCOVERY, since libusb 1.0.24
REJECTED, LOST = -3, -4  # usbredirhost_read_device_rejected, usbredirhost_read_device_lost
WARNINGS = 2  # usbredirparser_warning

_LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_IO = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_ubyte), c_int)


class PollFd(ctypes.Structure):
    """struct libusb_pollfd."""

    _fields_ = [("fd", c_int), ("events", c_short)]


def _libraries() -> tuple[Any, Any]:
    usb, host = ctypes.CDLL("libusb-1.0.so.0"), ctypes.CDLL("libusbredirhost.so.1")
    usb.libusb_set_option.argtypes = [c_void_p, c_int]
    usb.libusb_init.argtypes = [POINTER(c_void_p)]
    usb.libusb_wrap_sys_device.argtypes = [c_void_p, c_long, POINTER(c_void_p)]
    usb.libusb_handle_events_timeout.argtypes = [c_void_p, c_void_p]
    usb.libusb_get_pollfds.argtypes, usb.libusb_get_pollfds.restype = [c_void_p], POINTER(POINTER(PollFd))
    usb.libusb_get_next_timeout.argtypes = [c_void_p, c_void_p]
    usb.libusb_exit.argtypes = [c_void_p]
    host.usbredirhost_open.argtypes = [c_void_p, c_void_p, _LOG, _IO, _IO, c_void_p, c_char_p, c_int, c_int]
    host.usbredirhost_open.restype = c_void_p
    for name in ("close", "read_guest_data", "write_guest_data", "has_data_to_write"):
        getattr(host, f"usbredirhost_{name}").argtypes = [c_void_p]
    host.usbredirhost_set_device.argtypes = [c_void_p, c_void_p]
    return usb, host


_USB, _HOST = _libraries()  # here, so that it is done once for all processes that are forked


class Reference:
    """The library, its device and its guest. One thread: libusb's events and the guest's bytes take turns."""

    def __init__(self, node: int, sock: socket.socket, version: str) -> None:
        self._usb, self._lib = _USB, _HOST
        self._sock, self._ended = sock, False
        sock.setblocking(False)
        self._context, handle = c_void_p(), c_void_p()
        _check(self._usb.libusb_set_option(None, NO_DEVICE_DISCOVERY))
        _check(self._usb.libusb_init(byref(self._context)))
        _check(self._usb.libusb_wrap_sys_device(self._context, node, byref(handle)))
        # ctypes does not keep callbacks alive: these attributes do
        self._callbacks = _LOG(self._log), _IO(self._read), _IO(self._write)
        self._host = self._lib.usbredirhost_open(
            self._context, handle, *self._callbacks, None, version.encode(), WARNINGS, 0
        )
        if not self._host:
            raise RuntimeError("usbredirhost_open failed")

    def _log(self, _: Any, level: int, message: bytes) -> None:
        sys.stderr.write(f"libusbredirhost: {message.decode(errors='replace')}\n")

    def _read(self, _: Any, target: Any, count: int) -> int:
        try:
            data = self._sock.recv(count)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return -1
        ctypes.memmove(target, data, len(data))
        return len(data)

    def _write(self, _: Any, source: Any, count: int) -> int:
        try:
            return self._sock.send(ctypes.string_at(source, count))
        except BlockingIOError:
            return 0
        except OSError:
            self._ended = True
            return -1

    def run(self) -> None:
        """Until the guest has hung up. A rejected device is let go of, as the header asks for."""
        poller = select.poll()
        fds = self._usb.libusb_get_pollfds(self._context)
        at = 0
        while fds[at]:
            poller.register(fds[at].contents.fd, fds[at].contents.events)
            at += 1
        while not self._ended:
            events = select.POLLIN | (select.POLLOUT if self._lib.usbredirhost_has_data_to_write(self._host) else 0)
            poller.register(self._sock, events)
            ready = {fd for fd, _ in poller.poll(self._patience())}
            if self._sock.fileno() in ready and self._lib.usbredirhost_read_guest_data(self._host) == REJECTED:
                self._lib.usbredirhost_set_device(self._host, None)
            self._usb.libusb_handle_events_timeout(self._context, byref((c_long * 2)()))
            self._lib.usbredirhost_write_guest_data(self._host)

    def _patience(self) -> int | None:
        """Milliseconds until libusb wants to look at its timeouts; None if never."""
        left = (c_long * 2)()
        if not self._usb.libusb_get_next_timeout(self._context, byref(left)):
            return None
        return int(left[0] * 1000 + left[1] // 1000 + 1)

    def close(self) -> None:
        """Give the device back."""
        self._lib.usbredirhost_close(self._host)
        self._usb.libusb_exit(self._context)


def _check(code: int) -> None:
    if code < 0:
        raise RuntimeError(f"libusb says {code}")


def serve(node: int, sock: socket.socket, version: str) -> None:
    """See the module's text."""
    reference = Reference(node, sock, version)
    reference.run()
    reference.close()
