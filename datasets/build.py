"""Building a pyramid cache: in parallel, to be continued after any interruption, whole or not there."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .base import DataError, Source, has_too_many_bad
from .cache_files import write_atomically
from .images import Preparation
from .levels import RowFile, compute_checksums, level_file_name, level_resolutions, pyramid_levels
from .parallel import count_cores, map_parallel
from .survey import first_line, read_all_headers

OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}  # open files, memory, processes; not the disk
BATCH_BYTES = 1 << 20  # what is summed up stays in the processor's cache


def build_cache(
    source: Source,
    stamp: str,
    prepare: Preparation,
    folder: Path,
    allow_upscale: bool,
    max_bad: float,
    workers: int | None,
) -> None:
    """Make the cache `folder` of images with this stamp; what an interruption left is not decoded again.

    Raises:
        DataError: as `open_pyramid` says. OSError: a folder that cannot be written.
    """
    building = building_folder(folder)
    building.mkdir(parents=True, exist_ok=True)
    check_space(building, len(source), prepare)
    try:
        job = BuildJob(source, prepare, building)
        progress = decode_all(job, allow_upscale, workers)
        if read_stamp(source) != stamp:
            shutil.rmtree(building, ignore_errors=True)
            raise DataError(f"the images in {source.name} changed while they were read; give the same command again")
        finish(job, progress, max_bad)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(building, ignore_errors=True)
        raise DataError(describe_full_disk(building, len(source), prepare) + "; nothing was kept") from None
    building.rename(folder)


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Raise the operating system's errors as DataError that names the images."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{source.name} cannot be read: {error.strerror or error}") from None


def read_stamp(source: Source) -> str:
    """Return `source.stamp()`. Raises DataError when the images cannot be read."""
    with reading(source):
        return source.stamp()


def building_folder(folder: Path) -> Path:
    """Where a cache is while it is being built."""
    return folder.with_name(f"building-{folder.name}")


def estimate_cache_bytes(count: int, prepare: Preparation) -> int:
    """Room on the disk for the levels of so many images."""
    return sum(count * prepare.channels * r * r for r in level_resolutions(prepare.resolution))


def check_space(building: Path, count: int, prepare: Preparation) -> None:
    """Raises DataError where the disk has not the room."""
    used = count_used_bytes(building)
    if estimate_cache_bytes(count, prepare) - used > shutil.disk_usage(building).free:
        if not used:
            shutil.rmtree(building)
        raise DataError(describe_full_disk(building, count, prepare))


def count_used_bytes(folder: Path) -> int:
    """Room on the disk that the files in a folder have."""
    return sum(getattr(path.stat(), "st_blocks", 0) * 512 for path in folder.iterdir())


def describe_full_disk(building: Path, count: int, prepare: Preparation) -> str:
    """The error of a full disk, with what is needed."""
    free = shutil.disk_usage(building.parent).free
    return (
        f"the pyramid cache needs {format_bytes(estimate_cache_bytes(count, prepare))} but {building.parent} has "
        f"{format_bytes(free)} free; make room, or set PGGAN_CACHE to a folder on a larger disk"
    )


def format_bytes(size: float) -> str:
    """Bytes as text."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@dataclass
class BuildProgress:
    """What is known of the images done so far: reasons by index of the bad ones, indices of those enlarged."""

    done: set[tuple[int, int]] = field(default_factory=set)
    bad: dict[int, str] = field(default_factory=dict)
    enlarged: list[int] = field(default_factory=list)

    def add(self, span: dict) -> None:
        self.done.add((span["start"], span["stop"]))
        self.bad |= {int(i): why for i, why in span["bad"].items()}
        self.enlarged += span["enlarged"]


class BuildJob:
    """Decodes spans of images into the levels' files; called with (start, stop) in any process."""

    def __init__(self, source: Source, prepare: Preparation, folder: Path):
        self.source, self.prepare, self.folder = source, prepare, folder
        self.shape = (prepare.channels, prepare.resolution, prepare.resolution)
        self.levels = [
            RowFile(folder / level_file_name(r), np.uint8, (len(source), prepare.channels, r, r))
            for r in reversed(level_resolutions(prepare.resolution))
        ]
        self.sums = RowFile(folder / "sums.npy", np.uint64, (len(source),))
        self.journal = folder / "journal"

    def spans(self) -> Iterator[tuple[int, int]]:
        count = len(self.source)
        step = max(min(BATCH_BYTES // int(np.prod(self.shape)), 64, count // 64), 1)
        return ((start, min(start + step, count)) for start in range(0, count, step))

    def __call__(self, span: tuple[int, int]) -> dict:
        start, stop = span
        images = np.zeros((stop - start, *self.shape), np.uint8)
        bad, enlarged = {}, []
        for index in range(start, stop):
            try:
                with self.source.read_image(index, self.prepare.resolution, self.prepare.channels) as picture:
                    images[index - start] = self.prepare(picture)
                    if self.prepare.is_enlarged(*picture.size):
                        enlarged.append(index)
            except Exception as error:  # Pillow raises many kinds for damaged files, also struct.error and SyntaxError
                if getattr(error, "errno", None) in OF_THE_MACHINE:
                    raise
                bad[index] = first_line(error)
        levels = list(pyramid_levels(images))
        checks = compute_checksums(levels)
        checks[[index - start for index in bad]] = 0
        for file, rows in zip((*self.levels, self.sums), (*levels, checks), strict=True):
            file.write(start, rows)
        return {"start": start, "stop": stop, "bad": bad, "enlarged": enlarged}

    def load_progress(self) -> BuildProgress:
        """What an interrupted build did and the disk still holds."""
        progress = BuildProgress()
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        for line in lines:
            try:
                span = json.loads(line)
            except ValueError:  # the line that was being written
                continue
            start, stop = span["start"], span["stop"]
            expected = self.sums.read(start, stop)
            good = expected != 0
            found = compute_checksums([file.read(start, stop) for file in self.levels])
            if (found[good] == expected[good]).all() and (~good).sum() == len(span["bad"]):
                progress.add(span)
        return progress


def decode_all(job: BuildJob, allow_upscale: bool, workers: int | None) -> BuildProgress:
    """Every image into its levels."""
    progress = job.load_progress()
    is_new = not progress.done
    spans = [span for span in job.spans() if span not in progress.done]
    left, count = sum(stop - start for start, stop in spans), len(job.source)
    workers = min(workers or count_cores(), len(spans))
    if progress.enlarged and not allow_upscale:
        raise DataError(describe_small_images(job.source, job.prepare))
    synced = time.monotonic()
    bar = tqdm(
        total=count, initial=count - left, desc=f"caching {job.source.name}", unit="image", disable=None, leave=False
    )
    with bar, open(job.journal, "a") as journal:
        for span in map_parallel(job, spans, workers):
            journal.write(json.dumps(span) + "\n")
            journal.flush()
            progress.add(span)
            bar.update(span["stop"] - span["start"])
            if progress.enlarged and not allow_upscale:
                if is_new:
                    shutil.rmtree(job.folder, ignore_errors=True)  # a lower resolution needs another cache's room
                raise DataError(describe_small_images(job.source, job.prepare))
            if time.monotonic() - synced > 1:  # the disk writes while the workers decode: little is left for the end
                job.levels[0].sync()
                synced = time.monotonic()
    return progress


def describe_small_images(source: Source, prepare: Preparation) -> str:
    """The error of images that are smaller than the resolution."""
    found = read_all_headers(source)
    sides = found.compute_limiting_sides(prepare.fit)
    smallest = sides.argmin()
    native = 1 << (int(sides[smallest]).bit_length() - 1)
    return (
        f"{(sides < prepare.resolution).sum()} of {len(source)} images are smaller than {prepare.resolution}x"
        f"{prepare.resolution}, the smallest {source.describe(int(found.indices[smallest]))} with "
        f"{found.sizes[smallest][0]}x{found.sizes[smallest][1]}; give "
        + (f"--resolution {native}, " if native >= 4 else "")
        + "--allow-upscale to enlarge them, or remove them"
    )


def finish(job: BuildJob, progress: BuildProgress, max_bad: float) -> None:
    """Labels, notes and report; everything on the disk."""
    source, count = job.source, len(job.source)
    bad = [(source.describe(i), why) for i, why in sorted(progress.bad.items())]
    copies = find_duplicates(job.sums.read(0, count))
    report = job.folder / "report.txt"
    write_atomically(report, format_report(job, bad, copies, sorted(progress.enlarged)))
    check_bad(bad, count, max_bad, report)
    if source.labels is not None:
        np.save(job.folder / "labels.npy", np.delete(source.labels, list(progress.bad)))
    meta = asdict(job.prepare) | {
        "source": source.name,
        "count": count,
        "classes": source.classes,
        "bad": bad,
        "enlarged": len(progress.enlarged),
        "duplicates": len(copies),
    }
    for file in (*job.levels, job.sums):
        file.sync()
    write_atomically(job.folder / "meta.json", json.dumps(meta))
    job.journal.unlink()


def find_duplicates(checks: np.ndarray) -> dict[int, int]:
    """For each image whose pixels came before: the first one like it."""
    _, first, which = np.unique(checks, return_index=True, return_inverse=True)
    earliest = first[which]
    return {int(i): int(earliest[i]) for i in np.flatnonzero((earliest != np.arange(len(checks))) & (checks != 0))}


def format_report(job: BuildJob, bad: Sequence[Sequence[str]], copies: dict[int, int], enlarged: list[int]) -> str:
    """The lines of report.txt."""
    source, size = job.source, f"{job.prepare.resolution}x{job.prepare.resolution}"
    parts = [
        ("images that cannot be read", [": ".join(pair) for pair in bad]),
        (f"images smaller than {size}, enlarged", [source.describe(i) for i in enlarged]),
        ("copies of other images", [f"{source.describe(i)}: as {source.describe(j)}" for i, j in copies.items()]),
        ("files that are not named like images", source.others),
    ]
    return "\n".join(f"{len(lines)} {what}\n" + "".join(f"  {line}\n" for line in lines) for what, lines in parts)


def check_bad(bad: Sequence[Sequence[str]], count: int, max_bad: float, report: Path) -> None:
    """Raises DataError where too many of so many images cannot be read. bad: their names and reasons."""
    if not has_too_many_bad(len(bad), count, max_bad):
        return
    listed = "\n".join(f"  {name}: {why}" for name, why in bad[:20])
    more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
    needed = np.ceil(1000 * len(bad) / count) / 10
    allow = "" if len(bad) == count else f", or leave them out with --max-bad {needed:g}%"
    raise DataError(
        f"{len(bad)} of {count} images cannot be read, more than {max_bad:.3g} of them; mend or remove them"
        f"{allow} (all are listed in {report}):\n{listed}{more}"
    )
