"""Inputs from other inputs, by a fuzzer's simplest means: no coverage, no package, the same every time for one seed."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

MOST_CHANGES: Final = 6
VALUES: Final = (0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFE, 0xFF)


def mutations(inputs: Sequence[bytes], words: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` changed copies of `inputs`, with `words` put into some of them."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(dice.choice(inputs))
        for _ in range(dice.randint(1, MOST_CHANGES)):
            _change(data, inputs, words, dice)
        yield bytes(data)


def _change(data: bytearray, inputs: Sequence[bytes], words: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randint(0, len(data))
    match dice.randrange(7):
        case 0 if data:
            data[at % len(data)] = dice.randrange(256)
        case 1 if data:
            data[at % len(data)] = dice.choice(VALUES)
        case 2:
            del data[at : at + dice.randint(1, 16)]
        case 3:
            data[at:at] = dice.choice(words)
        case 4:
            data[at:at] = data[at : at + dice.randint(1, 40)]
        case 5:
            other = dice.choice(inputs)
            data[at:] = other[dice.randint(0, len(other)) :]
        case _:
            data[at:at] = dice.randbytes(dice.randint(1, 8))
