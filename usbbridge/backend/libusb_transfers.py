"""The per-URB calls into libusb: submit, reap, cancel, on transfers that are allocated once and reused.

python-libusb1 opens and configures the device; these few calls go to the same library by ctypes, because its wrappers
cost 8-15 us for a URB where the whole rest of the bridge needs that much. What makes it cheap:

- `struct libusb_transfer` is read and written through two memoryviews over its own memory, by field offsets that come
  from python-libusb1's declaration of the structure (so they are right on 32-bit systems too).
- There is no callback into Python: libusb demands some C function, and gets `libusb_transfer_get_stream_id`, which
  only reads. Before submit the status field is set to MARK, which libusb never stores; `reap()` sees which transfers
  changed. libusb completes the transfers of one endpoint (of one of its streams) in order, so only the oldest of each
  is looked at, unless some have been cancelled, which may end early.
- The packets of an isochronous transfer are libusb's own `struct libusb_iso_packet_descriptor`s: three C integers each,
  which are what `Transfer.iso` shows.
- No transfer has a timeout in libusb, which would set a timer of the kernel's and clear it again for each.
- The library is called through PyDLL, which keeps the interpreter lock: no other thread wants it and none of the
  calls blocks.
"""

import collections
import ctypes
import functools
import select
import time
from collections.abc import Sequence
from typing import Any

import usb1

from usbbridge.backend import libusb_library
from usbbridge.backend.base import ISO_FIELDS, ISO_LENGTH, Status, Transfer
from usbbridge.usb.ch9 import ENDPOINT_ADDRESS_MASK

MARK = -77  # no value of enum libusb_transfer_status
TYPE_CONTROL, TYPE_ISO, TYPE_BULK, TYPE_INTERRUPT, TYPE_BULK_STREAM = range(5)  # enum libusb_transfer_type
SETUP = 8  # the setup packet's size: it precedes the data of a control transfer
HEAD = 64  # bytes before the data area, so that data is aligned to a cache line; the setup packet is the last 8 of them
SMALLEST = 512  # the smallest data area: a high-speed bulk packet
POOL_BYTES = 16 << 20  # free buffers kept for reuse; twice what one mass-storage device has in flight
# enum libusb_error of submit -> what the caller is told; all others are ERROR
_COMPLETED = Status.COMPLETED
STREAM_SHIFT = 8  # a stream's queue is kept under its endpoint's address and, above that, its number
SUBMIT_ERRORS = {0: Status.COMPLETED, -4: Status.NO_DEVICE, -9: Status.STALL}


class _PollFd(ctypes.Structure):
    """struct libusb_pollfd. ctypes keeps every type that a pointer was made to, so there must be one only."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short))


class UsbTransfer(Transfer):
    """A transfer with its `struct libusb_transfer` and its buffer."""

    __slots__ = ("address", "being_cancelled", "buffer", "data_address", "head", "ints", "longs", "pointer", "pool")

    address: int
    "Of the struct libusb_transfer."
    pointer: ctypes.c_void_p
    head: memoryview
    ints: memoryview
    longs: memoryview
    "The struct's memory as bytes, as C int and as pointer-sized integers."
    buffer: "ctypes.Array[ctypes.c_char]"
    data_address: int
    being_cancelled: bool
    "libusb_cancel_transfer was called; it has not come back yet."
    pool: "list[UsbTransfer]"
    "Where it goes when it is given back: those that are like it."


class TransferEngine:
    """All transfers of one opened device handle: the pool, and what is in flight by endpoint."""

    def __init__(self, context: Any, handle: Any) -> None:
        library = libusb_library.load()
        fast = ctypes.PyDLL(None, handle=library._handle)
        self._submit = fast.libusb_submit_transfer
        self._submit.argtypes = [ctypes.c_void_p]
        self._cancel = fast.libusb_cancel_transfer
        self._cancel.argtypes = [ctypes.c_void_p]
        self._handle_events = fast.libusb_handle_events_timeout
        self._handle_events.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._alloc = fast.libusb_alloc_transfer
        self._alloc.restype = ctypes.c_void_p
        self._free = fast.libusb_free_transfer
        self._free.argtypes = [ctypes.c_void_p]
        self._set_stream = fast.libusb_transfer_set_stream_id
        self._set_stream.restype, self._set_stream.argtypes = None, [ctypes.c_void_p, ctypes.c_uint32]
        self._callback = ctypes.cast(library.libusb_transfer_get_stream_id, ctypes.c_void_p).value or 0
        # python-libusb1 keeps both pointers in private attributes; they are what the calls above need
        self._context = ctypes.c_void_p(ctypes.cast(context._USBContext__context_p, ctypes.c_void_p).value)
        self._handle = ctypes.cast(handle._USBDeviceHandle__handle, ctypes.c_void_p).value or 0
        self._no_wait = ctypes.byref((ctypes.c_long * 2)())  # struct timeval of 0 s
        self._offsets()
        self.submit_bulk = functools.partial(self._start, TYPE_BULK)
        self.submit_interrupt = functools.partial(self._start, TYPE_INTERRUPT)
        self._by_endpoint: dict[int, collections.deque[UsbTransfer]] = {}
        self._queues: list[collections.deque[UsbTransfer]] = []  # the same queues: may grow while reap() walks it
        self._pool: dict[int | tuple[int, int], list[UsbTransfer]] = collections.defaultdict(list)
        self._pooled = 0
        self._cancelling = 0

    def _offsets(self) -> None:
        struct = usb1.libusb1.libusb_transfer
        pointer = ctypes.sizeof(ctypes.c_void_p)
        self._struct_size = ctypes.sizeof(struct)
        self._i_status = struct.status.offset // 4
        self._i_length, self._i_actual = struct.length.offset // 4, struct.actual_length.offset // 4
        self._l_handle, self._l_callback = struct.dev_handle.offset // pointer, struct.callback.offset // pointer
        self._l_buffer = struct.buffer.offset // pointer
        self._i_packets, self._iso_offset = struct.num_iso_packets.offset // 4, struct.iso_packet_desc.offset
        self._b_endpoint, self._b_type = struct.endpoint.offset, struct.type.offset

    # ---- the pool

    def take(self, size: int) -> UsbTransfer:
        """A free transfer whose data area holds `size` bytes or more (a power of two, so that few sizes exist)."""
        capacity = SMALLEST if size <= SMALLEST else 1 << (size - 1).bit_length()
        pool = self._pool[capacity]
        if pool:
            self._pooled -= capacity
            return pool.pop()
        return self._new(capacity, pool)

    def take_iso(self, packets: int, size: int) -> UsbTransfer:
        """As `Device.take_iso`."""
        capacity = max(SMALLEST, 1 << (packets * size - 1).bit_length())
        pool = self._pool[packets, capacity]
        if pool:
            self._pooled -= capacity
            return pool.pop()
        return self._new(capacity, pool, packets)

    def give_back(self, transfer: UsbTransfer) -> None:
        """Keep it for reuse, or free it if enough are kept."""
        capacity = transfer.capacity
        if self._pooled + capacity > POOL_BYTES:
            self._free(transfer.pointer)
            return
        self._pooled += capacity
        transfer.pool.append(transfer)

    def _new(self, capacity: int, pool: list[UsbTransfer], packets: int = 0) -> UsbTransfer:
        t = UsbTransfer()
        t.pool, t.packets, t.stream = pool, packets, 0
        t.address = self._alloc(packets)
        if not t.address:
            raise MemoryError("libusb_alloc_transfer")
        t.pointer = ctypes.c_void_p(t.address)
        size = -(-self._struct_size // 8) * 8
        t.head = memoryview((ctypes.c_char * size).from_address(t.address)).cast("B")
        t.ints, t.longs = t.head.cast("i"), t.head.cast("P")
        t.buffer = (ctypes.c_char * (HEAD + capacity))()
        whole = memoryview(t.buffer).cast("B")
        t.setup, t.data = whole[HEAD - SETUP : HEAD], whole[HEAD:]
        t.data_address, t.capacity = ctypes.addressof(t.buffer) + HEAD, capacity
        t.longs[self._l_handle], t.longs[self._l_callback] = self._handle, self._callback
        t.cancelled, t.id, t.header = False, 0, None
        if packets:
            table = (ctypes.c_int * (packets * ISO_FIELDS)).from_address(t.address + self._iso_offset)
            t.iso = memoryview(table).cast("B").cast("i")
        return t

    # ---- submit

    def _start(self, kind: int, t: UsbTransfer, endpoint: int, length: int) -> Status:
        t.endpoint, t.length, t.being_cancelled = endpoint, length, False
        t.head[self._b_endpoint], t.head[self._b_type] = endpoint, kind
        ints = t.ints
        ints[self._i_length], ints[self._i_status] = length, MARK
        t.longs[self._l_buffer] = t.data_address
        return self._submitted(t, endpoint)

    def submit_control(self, t: UsbTransfer, length: int) -> Status:
        """As `Device.submit_control`: libusb wants the setup packet right before the data."""
        t.endpoint, t.length, t.being_cancelled = 0, length, False
        t.head[self._b_endpoint], t.head[self._b_type] = 0, TYPE_CONTROL
        ints = t.ints
        ints[self._i_length], ints[self._i_status] = SETUP + length, MARK
        t.longs[self._l_buffer] = t.data_address - SETUP
        return self._submitted(t, 0)

    def submit_iso(self, t: UsbTransfer, endpoint: int, packets: int) -> Status:
        """As `Device.submit_iso`. usbfs refuses packets that are larger than its own limit or the endpoint's."""
        length = sum(t.iso[ISO_LENGTH : packets * ISO_FIELDS : ISO_FIELDS].tolist())
        if not 0 < packets <= t.packets or length > t.capacity:
            return Status.ERROR
        t.ints[self._i_packets] = packets
        return self._start(TYPE_ISO, t, endpoint, length)

    def submit_bulk_stream(self, t: UsbTransfer, endpoint: int, length: int, stream: int) -> Status:
        """As `Device.submit_bulk_stream`."""
        t.endpoint, t.length, t.stream, t.being_cancelled = endpoint, length, stream, False
        t.head[self._b_endpoint], t.head[self._b_type] = endpoint, TYPE_BULK_STREAM
        t.ints[self._i_length], t.ints[self._i_status] = length, MARK
        t.longs[self._l_buffer] = t.data_address
        self._set_stream(t.pointer, stream)
        return self._submitted(t, endpoint | stream << STREAM_SHIFT)

    def forget_streams(self, endpoints: Sequence[int]) -> None:
        """Their streams are no more; nothing is in flight on them."""
        of_streams = [key for key in self._by_endpoint if key >> STREAM_SHIFT]
        gone = [self._by_endpoint.pop(key) for key in of_streams if key & ENDPOINT_ADDRESS_MASK in endpoints]
        self._queues = [queue for queue in self._queues if not any(queue is other for other in gone)]

    def _submitted(self, t: UsbTransfer, endpoint: int) -> Status:
        code = self._submit(t.pointer)
        if code:
            return SUBMIT_ERRORS.get(code, Status.ERROR)
        queue = self._by_endpoint.get(endpoint)
        if queue is None:
            queue = self._by_endpoint[endpoint] = collections.deque()
            self._queues.append(queue)
        queue.append(t)
        return _COMPLETED

    # ---- what comes back

    def reap(self) -> int:
        """Let libusb look at its descriptors, then finish every transfer whose status has changed."""
        self._handle_events(self._context, self._no_wait)
        if self._cancelling:
            return self._reap_any_order()
        count, i_status, i_actual = 0, self._i_status, self._i_actual
        for queue in self._queues:
            while queue:
                t = queue[0]
                ints = t.ints
                status = ints[i_status]
                if status == MARK:
                    break
                queue.popleft()
                t.status, t.actual = status, ints[i_actual]
                count += 1
                self._cancelling -= t.being_cancelled  # an earlier on_done of this round may have cancelled it
                t.on_done(t)
        return count

    def _reap_any_order(self) -> int:
        done: list[UsbTransfer] = []
        for queue in self._queues:
            over = [t for t in queue if t.ints[self._i_status] != MARK]
            for t in over:
                queue.remove(t)
            done += over
        for t in done:
            t.status, t.actual = t.ints[self._i_status], t.ints[self._i_actual]
            self._cancelling -= t.being_cancelled
            t.on_done(t)
        return len(done)

    def cancel(self, t: UsbTransfer) -> None:
        """As `Device.cancel`; a transfer is counted as being cancelled until it is reaped."""
        if not t.being_cancelled:
            t.being_cancelled = True
            self._cancelling += 1
        self._cancel(t.pointer)

    def in_flight(self) -> int:
        """How many transfers libusb holds."""
        return sum(map(len, self._queues))

    def pollfds(self) -> list[tuple[int, int]]:
        """libusb's descriptors and poll events (the epoll ones have the same values)."""
        library = libusb_library.load()
        get, free = library.libusb_get_pollfds, library.libusb_free_pollfds
        get.restype, get.argtypes = ctypes.POINTER(ctypes.POINTER(_PollFd)), [ctypes.c_void_p]
        free.argtypes = [ctypes.c_void_p]
        found = get(self._context)
        fds, i = [], 0
        while found[i]:
            fds.append((found[i].contents.fd, found[i].contents.events))
            i += 1
        free(found)
        return fds

    def drain(self, seconds: float) -> bool:
        """Reap until nothing that was cancelled is left, `seconds` at the most."""
        deadline = time.monotonic() + seconds
        poller = select.poll()
        for fd, events in self.pollfds():
            poller.register(fd, events)
        self.reap()
        while self._cancelling:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(min(left, 0.05) * 1000)  # libusb may also end one without its descriptors saying so
            self.reap()
        return True

    def close(self, seconds: float) -> bool:
        """Cancel everything, wait for it, free the pool. False if some transfers never came back: they are leaked."""
        for queue in self._queues:
            for t in queue:
                t.on_done = self.give_back
                self.cancel(t)
        clean = self.drain(seconds)
        for pool in self._pool.values():
            for t in pool:
                self._free(t.pointer)
            pool.clear()
        self._pooled = 0
        return clean
