"""Corrupt valid files at random, as a function of a random number generator."""

import json
import random

# Numbers at the limits of integer types, where parsers of binary files go wrong.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
NASTY = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "\x1b[2J\n", "../../x", "/", "\ud800"),
    *([], {}, [[]], {"": None}, [1] * 50, "9" * 5000),
)


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Make one to four changes: flip bits, set numbers, cut, repeat, or splice in parts of other files."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return bytes(data)
        place, length = rng.randrange(len(data)), min(rng.choice((1, 2, 4, 8, 16, 100, 1000)), len(data))
        kind = rng.randrange(8)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            del data[place:]
        elif kind == 5:
            data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
        elif kind == 6:
            data[place:place] = rng.randbytes(length)
        else:
            other = rng.choice(others)
            start = rng.randrange(max(len(other), 1))
            data[place : place + length] = other[start : start + length]
    return bytes(data)


def spoiled(value, rng: random.Random, nasty=NASTY):
    """Return plain data with one part replaced, removed or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {(rng.choice(("", "x", -1, None)) if k == key else k): v for k, v in value.items()}
        return value | {key: spoiled(value[key], rng, nasty)}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        parts = list(value)
        parts[place] = spoiled(parts[place], rng, nasty)
        return type(value)(parts) if rng.random() < 0.9 else type(value)(parts[:place])
    return rng.choice(nasty)


def spoiled_json(data: bytes, rng: random.Random) -> bytes:
    """Return valid JSON, or JSON lines, with one part replaced."""
    lines = data.decode().splitlines() if b"\n{" in data else [data.decode()]
    place = rng.randrange(len(lines))
    value = spoiled(json.loads(lines[place]), rng)
    lines[place] = json.dumps(value) if rng.random() < 0.98 else "[" * 100_000
    return "\n".join(lines).encode("utf-8", "surrogatepass")
