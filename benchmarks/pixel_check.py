"""Compare the pixels of unusual TIFF and PNG files, written here, with what was written.

  pip install tifffile imagecodecs
  python benchmarks/pixel_check.py                           prints a table: right, refused or wrong, by type of file

tifffile writes the TIFFs, and reads them back as a check; the PNGs are written byte by byte.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import struct
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import tifffile

from pggan.datasets.images import Preparation, open_image

SIDE, CLOSE = 16, 1  # pixels; levels by which rounding may differ
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def decode(content: bytes, channels: int) -> np.ndarray:
    """Return the pixels that the networks would receive, [channels, 16, 16]."""
    with open_image(io.BytesIO(content)) as picture:
        return Preparation(SIDE, channels)(picture)


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 or uint16 [16, 16, C] as [C, 16, 16] in 8 bits."""
    return np.rint(pixels / (257 if pixels.dtype == np.uint16 else 1)).astype(np.uint8).transpose(2, 0, 1)


def write_tiffs():
    """Yield (type, content, pixels [C, 16, 16])."""
    rng = np.random.default_rng(0)
    grid = itertools.product(
        (np.uint8, np.uint16),
        CHANNELS,
        ("contig", "separate"),
        (None, "lzw", "deflate", "packbits"),
        ("<", ">"),
        (None, (16, 16)),
    )
    for dtype, mode, planar, compression, order, tile in grid:
        channels = CHANNELS[mode]
        if channels == 1 and planar == "separate":
            continue
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, (SIDE, SIDE, channels), dtype=dtype)
        file = io.BytesIO()
        options = {
            "photometric": "rgb" if channels > 2 else "minisblack",
            "compression": compression,
            "byteorder": order,
            "tile": tile,
            "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
            "metadata": None,
        }
        if channels > 1:
            options["planarconfig"] = planar
        data = pixels[:, :, 0] if channels == 1 else pixels.transpose(2, 0, 1) if planar == "separate" else pixels
        tifffile.imwrite(file, np.ascontiguousarray(data), **options)
        name = f"TIFF {8 * np.dtype(dtype).itemsize} bits {mode} {planar if channels > 1 else ''}".strip()
        assert (tifffile.imread(io.BytesIO(file.getvalue())) == data).all()
        yield f"{name}{'' if compression else ', uncompressed'}", file.getvalue(), to_8_bits(pixels)
    for dtype, order in itertools.product((np.uint8, np.uint16), "<>"):
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, (SIDE, SIDE, 1), dtype=dtype)
        file = io.BytesIO()
        inverted = np.iinfo(dtype).max - pixels[:, :, 0]
        tifffile.imwrite(file, inverted, photometric="miniswhite", byteorder=order, metadata=None)
        yield f"TIFF {8 * np.dtype(dtype).itemsize} bits L, white is zero", file.getvalue(), to_8_bits(pixels)


def make_png(depth: int, color: int, samples: np.ndarray, clear: tuple[int, ...]) -> bytes:
    """Return a PNG with a tRNS chunk. samples: integers [16, 16, C]. color: PNG's color type."""
    if depth == 16:
        lines = samples.astype(">u2").reshape(SIDE, -1).view(np.uint8)
    elif depth == 8:
        lines = samples.astype(np.uint8).reshape(SIDE, -1)
    else:
        bits = (samples.reshape(SIDE, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(SIDE, -1).astype(np.uint8), axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, color, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(clear)}H", *clear)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def write_pngs():
    """Yield (type, content, pixels [C, 16, 16] with alpha)."""
    rng = np.random.default_rng(1)
    for depth, color in ((1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)):
        for _ in range(8):
            channels, most = (3 if color else 1), (1 << depth) - 1
            samples = rng.integers(0, most + 1, (SIDE, SIDE, channels))
            clear = samples[5, 5]
            samples[8:] = clear
            alpha = np.where((samples == clear).all(axis=2, keepdims=True), 255 * 0, 255)
            levels = np.rint(samples * 255 / most) if color == 0 or depth == 8 else samples >> 8
            pixels = np.concatenate([levels, alpha], axis=2).astype(np.uint8).transpose(2, 0, 1)
            yield (
                f"PNG {depth} bits {'RGB' if color else 'L'} with tRNS",
                make_png(depth, color, samples, tuple(clear)),
                pixels,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the counts to this JSON file")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, str] = {}
    for name, content, pixels in itertools.chain(write_tiffs(), write_pngs()):
        try:
            found = decode(content, len(pixels))
        except Exception as error:  # whatever a decoder raises is a refusal
            outcome, reasons[name] = "refused", str(error)
        else:
            # Pillow keeps the upper 8 of 16 bits of a color, which differs from rounding by at most one level.
            off = np.abs(found.astype(int) - pixels)
            outcome = "right" if off.max() <= CLOSE else "wrong"
        counts[name][outcome] += 1
    for name, found in counts.items():
        print(f"{name:<45} " + "  ".join(f"{k} {v}" for k, v in found.items()), reasons.get(name, ""))
    total = sum(counts.values(), Counter())
    print(f"{'all':<45} " + "  ".join(f"{k} {v}" for k, v in total.items()))
    if options.out:
        options.out.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
