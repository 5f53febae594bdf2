"""Damages bytes at random, for the tests of what reads files that somebody else made."""

import random


def mutated(data: bytes, generator: random.Random) -> bytes:
    """`data` with 1 to 20 places changed: bits flipped, bytes replaced, cut out, or doubled."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 3, 20))):
        if not changed:
            break
        at, length = generator.randrange(len(changed)), generator.choice((1, 4, 40, 400))
        match generator.randrange(4):
            case 0:
                changed[at] ^= 1 << generator.randrange(8)
            case 1:
                changed[at : at + length] = generator.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
    return bytes(changed)
