"""Corrupt valid files at random, as a function of a random number generator."""

import json
import random

# Numbers at the limits of integer types, where parsers of binary files go wrong.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
BAD_VALUES = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "\x1b[2J\n", "../../x", "/", "\ud800"),
    *([], {}, [[]], {"": None}, [1] * 50, "9" * 5000),
)


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Make one to four changes: flip bits, set numbers, cut, repeat, or splice in parts of other files."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return bytes(data)
        position, length = rng.randrange(len(data)), min(rng.choice((1, 2, 4, 8, 16, 100, 1000)), len(data))
        operation = rng.randrange(8)
        if operation == 0:
            data[position] ^= 1 << rng.randrange(8)
        elif operation == 1:
            data[position] = rng.randrange(256)
        elif operation == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            data[position : position + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif operation == 3:
            del data[position : position + length]
        elif operation == 4:
            del data[position:]
        elif operation == 5:
            data[position:position] = data[position : position + length] * rng.choice((1, 2, 50))
        elif operation == 6:
            data[position:position] = rng.randbytes(length)
        else:
            other = rng.choice(others)
            start = rng.randrange(max(len(other), 1))
            data[position : position + length] = other[start : start + length]
    return bytes(data)


def corrupt(value, rng: random.Random, bad_values=BAD_VALUES):
    """Return plain data with one part replaced, removed or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        choice = rng.random()
        if choice < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if choice < 0.2:
            return {(rng.choice(("", "x", -1, None)) if k == key else k): v for k, v in value.items()}
        return value | {key: corrupt(value[key], rng, bad_values)}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.9:
        position = rng.randrange(len(value))
        parts = list(value)
        parts[position] = corrupt(parts[position], rng, bad_values)
        return type(value)(parts) if rng.random() < 0.9 else type(value)(parts[:position])
    return rng.choice(bad_values)


def corrupt_json(data: bytes, rng: random.Random) -> bytes:
    """Return valid JSON, or JSON lines, with one part replaced."""
    lines = data.decode().splitlines() if b"\n{" in data else [data.decode()]
    position = rng.randrange(len(lines))
    value = corrupt(json.loads(lines[position]), rng)
    lines[position] = json.dumps(value) if rng.random() < 0.98 else "[" * 100_000
    return "\n".join(lines).encode("utf-8", "surrogatepass")
