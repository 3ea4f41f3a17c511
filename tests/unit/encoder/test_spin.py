"""Waiting without sleep: only for what is awaited, and only while it comes that soon."""

from usbbridge.encoder.spin import SPIN_SECONDS, Bet, Events, Spin

GUEST, DEVICE = 5, 6


class Clock:
    """Ten looks take as long as a spin lasts. `comes`: what each look finds, then nothing."""

    def __init__(self, *comes: Events) -> None:
        self.looks, self._now, self._comes = 0, 0.0, iter(comes)

    def now(self) -> float:
        return self._now

    def poll(self, timeout: float, most: int) -> Events:
        assert timeout == 0
        self.looks += 1
        self._now += SPIN_SECONDS / 10
        return next(self._comes, [])


def spin(clock: Clock, bet: Bet, *welcome: int) -> Events:
    return Spin(clock.poll, clock.now)(bet, (GUEST,), welcome)


def tries(bet: Bet, chances: int) -> int:
    return sum(bet.worth_it() for _ in range(chances))


def test_what_comes_soon_is_there_without_sleep_and_is_waited_for_again() -> None:
    clock, bet = Clock([], [], [(GUEST, 1)]), Bet()
    assert spin(clock, bet) == [(GUEST, 1)]
    assert clock.looks == 3
    assert tries(bet, 100) == 100


def test_what_does_not_come_is_not_waited_for_any_longer() -> None:
    clock, bet = Clock(), Bet()
    assert spin(clock, bet) == []
    assert clock.looks in (10, 11)
    assert not bet.worth_it()
    assert bet.worth_it()


def test_something_else_that_comes_is_taken_but_no_reason_to_wait_again() -> None:
    clock, bet = Clock([(DEVICE, 4)]), Bet()
    assert spin(clock, bet) == [(DEVICE, 4)]
    assert not bet.worth_it()


def test_what_is_only_welcome_neither_wins_nor_loses() -> None:
    bet = Bet()
    bet.missed()
    bet.missed()
    assert not bet.worth_it()
    assert not bet.worth_it()
    assert bet.worth_it()
    assert spin(Clock([(DEVICE, 4)]), bet, DEVICE) == [(DEVICE, 4)]
    assert bet.worth_it(), "it has not lost"
    assert spin(Clock(), bet, DEVICE) == []
    assert [bet.worth_it() for _ in range(5)] == [False] * 4 + [True], "nor won"


def test_who_never_comes_is_looked_for_ever_more_seldom() -> None:
    bet = Bet()
    for _ in range(20):
        bet.missed()
    assert tries(bet, Bet.MOST + 1) == 1
    assert tries(bet, 5) == 5


def test_one_success_makes_up_for_all_failures() -> None:
    bet = Bet()
    for _ in range(20):
        bet.missed()
    bet.hit()
    bet.missed()
    assert [bet.worth_it() for _ in range(3)] == [False, True, True]
