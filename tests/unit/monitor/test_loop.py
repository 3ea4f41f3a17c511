"""The loop: what happens when, and that nothing happens otherwise."""

import os
import signal
import socket
import time

from usbbridge.monitor.loop import ENDED, READ, WRITE, Loop, Signals


def test_what_is_due_first_happens_first() -> None:
    loop, done = Loop(), list[str]()
    loop.after(0.002, lambda: done.append("later"))
    loop.after(0.001, lambda: done.append("soon"))
    loop.after(0.0, lambda: done.append("never")).cancel()
    while len(done) < 2:
        loop.turn()
    assert done == ["soon", "later"]
    loop.close()


def test_the_end_of_the_other_side_is_told_and_what_it_said_is_not() -> None:
    loop, done = Loop(), list[str]()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop.watch(ours.fileno(), lambda: done.append("end"), ENDED)
    theirs.send(b"words")
    loop.after(0.0, lambda: None)
    loop.turn()
    assert done == []
    theirs.close()
    loop.turn()
    assert done == ["end"]
    loop.unwatch(ours.fileno())
    loop.unwatch(ours.fileno())
    ours.close()
    loop.close()


def test_a_descriptor_that_is_closed_in_the_same_turn_is_not_told_of_any_more() -> None:
    loop, done = Loop(), list[int]()
    ends = [os.pipe() for _ in range(2)]
    for number, (reader, writer) in enumerate(ends):

        def heard(number: int = number) -> None:
            done.append(number)
            for reader, _ in ends:
                loop.unwatch(reader)

        loop.watch(reader, heard)
        os.write(writer, b"!")
    loop.turn()
    assert len(done) == 1
    for pair in ends:
        for fd in pair:
            os.close(fd)
    loop.close()


def test_other_events_can_be_waited_for() -> None:
    loop, done = Loop(), list[str]()
    ours, theirs = socket.socketpair()
    loop.watch(ours.fileno(), lambda: done.append("!"))
    loop.expect(ours.fileno(), READ | WRITE)
    loop.turn()
    assert done == ["!"]
    loop.unwatch(ours.fileno())
    ours.close()
    theirs.close()
    loop.close()


def test_signals_are_events_and_leave_no_trace() -> None:
    before = signal.getsignal(signal.SIGTERM)
    loop, done = Loop(), list[str]()
    signals = Signals(loop, lambda: done.append("again"), lambda: loop.stop())
    os.kill(os.getpid(), signal.SIGHUP)
    loop.turn()
    assert done == ["again"]
    os.kill(os.getpid(), signal.SIGTERM)
    loop.run()
    signals.close()
    assert signal.getsignal(signal.SIGTERM) is before
    loop.close()


def test_a_loop_with_nothing_to_do_uses_no_time() -> None:
    loop = Loop()
    loop.after(0.2, loop.stop)
    before = time.process_time()
    turns = 0
    while not loop._stopped:
        loop.turn()
        turns += 1
    assert turns <= 3
    assert time.process_time() - before < 0.1
    loop.close()
