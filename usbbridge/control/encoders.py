"""The encoder processes: started before they are needed, told what to do, listened to, and reaped.

An encoder holds the only copy of one end of a socket pair, its *lease*; we keep the other, which the monitor gets with
the request for a device, and once more after it was restarted. So whoever has that end knows when the encoder is gone.

    spare ──take(key)──► reserved ──start(key, …)──► running ──► ended: reported when the process has been reaped
      ▲                     │
      └──release(key)───────┘  the monitor has refused the device
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from usbbridge.control.actions import Failure
from usbbridge.control.encoder_process import COMMAND, EncoderProcess
from usbbridge.errors import RemoteProtocolError
from usbbridge.ipc.messages import AskStats, Capture, Ended, Progressed, Start, Stats, Stop

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 8.0
"""From the wish to stop until an encoder is killed: one second for the guest's acknowledgement, two for cancelled
transfers, and again two if they have not come back when the device is closed; a second for a busy machine."""
EXIT_SECONDS: Final = 3.0
"From its last word, or the end of its connection, until it is killed: closing a device whose transfers hang takes two."
REFILL_SECONDS: Final = 5.0
"A spare replaces the one that was used when the attachment has settled, and after this time in any case."
SPARE_RETRY: Final = (1.0, 60.0)
"Seconds until a spare that died is replaced: at first, doubled each time, and at most."
STATS_SECONDS: Final = 1.0
"How long a status waits for the encoders' counters; one that does not answer shows what it last said."
MAX_SAID: Final = 100_000
"Messages of one encoder. A guest resets its device some times a day, and a status is asked for once a second at most."

OnProgress = Callable[[int, Progressed], None]
OnEnd = Callable[[int, Failure | None, int], None]


class Encoders:
    """All of them. `on_progress` and `on_end` are told by key; `on_end` with None when it was told to stop and did, and
    with how often the guest has reset the device."""

    def __init__(self, on_progress: OnProgress, on_end: OnEnd, command: Sequence[str] = COMMAND) -> None:
        self._on_progress, self._on_end, self._command = on_progress, on_end, command
        self._children: list[EncoderProcess] = []
        self._by_key: dict[int, EncoderProcess] = {}
        self._dead: dict[int, Failure] = {}
        self._spare: EncoderProcess | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._spare_delay = SPARE_RETRY[0]
        self._closing = False
        self._over, self._answered = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Begin to watch over children, and start the spare."""
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._fill()

    # ---- one attachment

    def take(self, key: int) -> int:
        """Reserve an encoder under `key`. Returns the descriptor of our end of its lease, which stays ours. Raises
        OSError if there is no spare and none can be started."""
        if self._closing:
            raise OSError(errno.ESHUTDOWN, "control is ending")
        child, self._spare = self._spare or self._spawn(), None
        child.key = key
        self._by_key[key] = child
        self._refill_in(REFILL_SECONDS)
        return child.lease.fileno()

    def lease(self, key: int) -> int | None:
        """Our end of an encoder's lease; None if there is no such encoder any more."""
        child = self._by_key.get(key)
        return None if child is None else child.lease.fileno()

    def pid(self, key: int) -> int | None:
        """Process id; None if there is no such encoder any more."""
        child = self._by_key.get(key)
        return None if child is None else child.process.pid

    def give(self, key: int, usbfs: int) -> None:
        """Keep the device's descriptor until the encoder is started; it belongs to us now."""
        child = self._by_key.get(key)
        if child is None or child.started or child.stopping or child.usbfs is not None:
            os.close(usbfs)
        else:
            child.usbfs = usbfs

    def start(self, key: int, start: Start) -> None:
        """Tell the encoder to begin with the device it was given. That it could not be told shows in its end."""
        child = self._by_key.get(key)
        if child is None:  # it has died in the meantime
            failure = self._dead.pop(key, None) or Failure(1, "EncoderError", "there is no encoder process")
            self._loop.call_soon(self._on_end, key, failure, 0)
            return
        if child.started or child.stopping:
            return
        child.started = True
        self._say(child, start, *([] if child.usbfs is None else [child.usbfs]))
        child.drop_usbfs()

    def release(self, key: int) -> None:
        """The device was refused: what was reserved for it is a spare again. Nothing is reported."""
        child = self._forget(key)
        if child is None:
            return
        if self._spare is None and not child.silent and not self._closing:
            self._spare = child
        else:
            self._end(child)

    def drop(self, key: int) -> None:
        """The device is not wanted any more, and the lease may be with the monitor: what was reserved ends. Nothing is
        reported."""
        child = self._forget(key)
        if child is not None:
            self._end(child)

    def drop_reserved(self) -> None:
        """As `drop`, all that have not been started: nobody is left who could give them a device."""
        for key in [key for key, child in self._by_key.items() if not child.started]:
            self.drop(key)
        self._dead.clear()

    def _forget(self, key: int) -> EncoderProcess | None:
        """What was reserved under `key`, which means nothing any more."""
        self._dead.pop(key, None)
        child = self._by_key.get(key)
        if child is None or child.started:
            return None
        del self._by_key[key]
        child.key = None
        child.drop_usbfs()
        return child

    def stop(self, key: int) -> None:
        """Have an encoder take its device away from the VM and end; one that was not started yet is killed."""
        child = self._by_key.get(key)
        if child is not None:
            self._end(child)

    def capture(self, key: int, capture: Capture, connection: int) -> None:
        """Have a running encoder capture to a connection, whose descriptor stays the caller's. One that has just ended,
        or is busy and has been asked for many more, does not: the connection's end tells."""
        child = self._by_key.get(key)
        if child is not None and child.started and not child.stopping:
            with contextlib.suppress(OSError):
                child.channel.send(capture, connection)

    def _end(self, child: EncoderProcess) -> None:
        if child.stopping:
            return
        child.stopping = True
        if child.started:
            self._say(child, Stop())
            self._kill_in(child, STOP_SECONDS)
        else:
            child.process.kill()  # SIGKILL: it has nothing to put in order, and may be busy importing

    # ---- all of them

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of all children, the spare among them."""
        return tuple(child.process.pid for child in self._children)

    @property
    def stats(self) -> dict[int, Stats]:
        """What each has last said about itself, by key."""
        return {key: child.stats for key, child in self._by_key.items() if child.stats is not None}

    async def ask_stats(self) -> dict[int, Stats]:
        """Ask all, and wait for the answers, but not for long."""
        for child in self._by_key.values():
            if child.started and not child.stopping and not child.asked:
                child.asked = True  # one question at a time: one that hangs must not fill its connection
                self._say(child, AskStats())
        deadline = self._loop.time() + STATS_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while any(child.asked for child in self._by_key.values()):
                    self._answered.clear()
                    await self._answered.wait()
        return self.stats

    def kill(self) -> None:
        """Kill them all, now."""
        for child in self._children:
            child.process.kill()

    async def close(self) -> None:
        """End them all in an orderly way, and wait until the last has been reaped."""
        self._closing = True
        if self._refill is not None:
            self._refill.cancel()
        for child in self._children:
            self._end(child)
        while self._children:
            self._over.clear()
            await self._over.wait()
        self._loop.remove_signal_handler(signal.SIGCHLD)

    # ---- the spare

    def _fill(self) -> None:
        self._refill = None
        if self._spare is not None or self._closing:
            return
        try:
            self._spare = self._spawn()
        except OSError as error:
            self._spare_failed(error.strerror or str(error))

    def _refill_in(self, seconds: float) -> None:
        if self._refill is not None:
            self._refill.cancel()
        if not self._closing:
            self._refill = self._loop.call_later(seconds, self._fill)

    def _settled(self) -> None:
        """An attachment has got somewhere: if no other is on its way, the CPU is free for the next spare."""
        if self._spare is None and all(child.attached for child in self._by_key.values()):
            self._refill_in(0)

    def _spare_failed(self, why: str) -> None:
        log.warning("an encoder process can't be kept ready (%s); trying again in %g s", why, self._spare_delay)
        self._refill_in(self._spare_delay)
        self._spare_delay = min(self._spare_delay * 2, SPARE_RETRY[1])

    def _spawn(self) -> EncoderProcess:
        child = EncoderProcess(self._command)
        self._children.append(child)
        self._loop.add_reader(child.channel.fileno(), self._readable, child)
        return child

    # ---- what they say

    def _say(self, child: EncoderProcess, message: Any, *fds: int) -> None:
        try:
            child.channel.send(message, *fds)
        except BlockingIOError:  # it has not read for hundreds of messages
            self._distrust(child, "it does not read what it is told")
        except OSError:  # it has ended, which is noticed by itself
            pass

    def _readable(self, child: EncoderProcess) -> None:
        """One message a turn: an encoder that never stops talking must not stop everything else."""
        try:
            message = self._receive(child)
        except BlockingIOError:
            return
        if message is None:
            self._hush(child)
        else:
            self._hear(child, message)

    def _receive(self, child: EncoderProcess) -> Any:
        """The next message; None at the end, and when what it says can't be trusted any more."""
        try:
            received = child.channel.receive()
        except BlockingIOError:
            raise
        except (OSError, RemoteProtocolError) as error:
            self._distrust(child, str(error))
            return None
        if received is None:
            return None
        message, fds = received
        for fd in fds:
            os.close(fd)
        child.said += 1
        if fds or not isinstance(message, Progressed | Stats | Ended) or child.said > MAX_SAID:
            self._distrust(child, "it says what no encoder says")
            return None
        return message

    def _hear(self, child: EncoderProcess, message: Progressed | Stats | Ended) -> None:
        if isinstance(message, Stats):
            child.stats, child.asked = message, False
            self._answered.set()
        elif isinstance(message, Ended):
            child.ended = message
            self._kill_in(child, EXIT_SECONDS)
        elif child.key is not None and not child.silent:
            self._on_progress(child.key, message)
            if message.step == "attached":
                child.attached = True
                self._settled()

    def _distrust(self, child: EncoderProcess, why: str) -> None:
        log.error("encoder %d is killed: %s", child.process.pid, why)
        child.broken, child.ended = True, None
        child.process.kill()

    def _hush(self, child: EncoderProcess) -> None:
        """It will say nothing more; what is left is its exit."""
        if not child.silent:
            child.silent = True
            self._loop.remove_reader(child.channel.fileno())
            self._kill_in(child, EXIT_SECONDS)

    def _kill_in(self, child: EncoderProcess, seconds: float) -> None:
        """Kill it then; an earlier deadline stays."""
        when = self._loop.time() + seconds
        if child.timer is None or child.timer.when() > when:
            if child.timer is not None:
                child.timer.cancel()
            child.timer = self._loop.call_at(when, child.process.kill)

    # ---- how they end

    def _reap(self) -> None:
        """SIGCHLD: signals of several children may have become one."""
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._children.remove(child)
            for message in self._rest(child):
                self._hear(child, message)
            self._hush(child)
            failure = child.failure()
            child.close()
            self._gone(child, failure)
        self._over.set()

    def _rest(self, child: EncoderProcess) -> Iterator[Any]:
        """What it had still said."""
        while not child.silent and not child.broken:
            with contextlib.suppress(BlockingIOError):
                message = self._receive(child)
                if message is not None:
                    yield message
                    continue
            return

    def _gone(self, child: EncoderProcess, failure: Failure | None) -> None:
        if child is self._spare:
            self._spare = None
            if not child.stopping:
                self._spare_failed(failure.message if failure else "it ended")
        elif child.key is not None:
            self._spare_delay = SPARE_RETRY[0]  # they can be started, and get as far as being used
            del self._by_key[child.key]
            if child.started or child.stopping:
                self._on_end(child.key, failure, child.stats.resets if child.stats else 0)
            elif failure is not None:
                self._dead[child.key] = failure  # told when it is to be started
            self._settled()
        self._answered.set()
