"""Build a pyramid cache: in parallel, resumable after any interruption, and complete before it is used."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .base import DataError, Source, has_too_many_bad
from .cache_files import write_atomically
from .content import DIGEST_BYTES, combine_digests, new_digest, read_stamp, store_content
from .images import Preparation
from .levels import RowFile, compute_checksums, level_file_name, level_resolutions, pyramid_levels
from .parallel import count_cores, map_parallel
from .survey import first_line, survey_all

MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}  # limits of open files, memory, processes
BATCH_BYTES = 1 << 20  # bytes of the largest level per task: the sums for the lower levels stay in the CPU's cache
SYNC_SECONDS = 1  # our choice: spreads disk writes over the build, so that little is left to write at its end
MAX_SHOWN = 20  # our choice: unreadable images in an error message; the report lists all


def build_cache(
    source: Source,
    content: str,
    prepare: Preparation,
    building: Path,
    allow_upscale: bool,
    max_bad: float,
    workers: int | None,
) -> str:
    """Build a cache, or resume an interrupted build without decoding its finished images again.

    Each file is read once: it is hashed while it is decoded, unless the content digest is known.

    Args:
        content: digest of the images' content, or "" if it is unknown.
        building: folder to build in.
        allow_upscale, max_bad, workers: see `open_pyramid`.

    Returns:
        The digest of the images' content.

    Raises:
        DataError: see `open_pyramid`.
        OSError: the folder cannot be written.
    """
    stamp = read_stamp(source)
    building.mkdir(parents=True, exist_ok=True)
    check_space(building, len(source), prepare)
    try:
        job = BuildJob(source, prepare, building)
        progress = decode_all(job, allow_upscale, workers)
        if read_stamp(source, again=True) != stamp:  # some of the decoded images are the old ones
            shutil.rmtree(building, ignore_errors=True)
            raise DataError(f"the images in {source.name} changed while they were read; run the same command again")
        digests = job.digests.read(0, len(source))
        if not content:
            content = combine_digests([digests.tobytes()])
            store_content(stamp, content, building.parent.parent, digests)
        finish_cache(job, progress, max_bad)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(building, ignore_errors=True)
        message = describe_full_disk(building, len(source), prepare)
        raise DataError(f"{message}; the partial cache was removed") from None
    return content


def estimate_cache_bytes(count: int, prepare: Preparation) -> int:
    """Return the disk space in bytes that the levels of `count` images need."""
    return sum(count * prepare.channels * r * r for r in level_resolutions(prepare.resolution))


def check_space(building: Path, count: int, prepare: Preparation) -> None:
    """Raise DataError if the disk has too little free space for a cache, minus what a partial build uses already."""
    used = count_used_bytes(building)
    if estimate_cache_bytes(count, prepare) - used > shutil.disk_usage(building).free:
        if not used:
            shutil.rmtree(building)
        raise DataError(describe_full_disk(building, count, prepare))


def count_used_bytes(folder: Path) -> int:
    """Return the disk space in bytes that the files in a folder use; 0 on Windows, which does not report it."""
    return sum(getattr(path.stat(), "st_blocks", 0) * 512 for path in folder.iterdir())  # 512: the unit of st_blocks


def describe_full_disk(building: Path, count: int, prepare: Preparation) -> str:
    """Return the error message for a full disk, with the space needed and the space free."""
    free = shutil.disk_usage(building.parent).free
    return (
        f"the image cache needs {format_bytes(estimate_cache_bytes(count, prepare))} but {building.parent} has "
        f"{format_bytes(free)} free; free some space, or set PGGAN_CACHE to a folder on a larger disk"
    )


def format_bytes(size: float) -> str:
    """Return a number of bytes for a message: "1.2 GB", "0.1 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@dataclass
class BuildProgress:
    """The finished part of a build.

    Attributes:
        bad: reasons why images are unreadable, by index.
        enlarged: indices of images that were smaller than the resolution.
    """

    bad: dict[int, str] = field(default_factory=dict)
    enlarged: list[int] = field(default_factory=list)

    def add(self, span: dict) -> None:
        self.bad |= {int(i): why for i, why in span["bad"].items()}
        self.enlarged += span["enlarged"]


class BuildJob:
    """A function that decodes a span (start, stop) of images into the levels' files; it can be pickled for workers.

    It returns the span as plain data, one line of the journal: {"start", "stop", "bad", "enlarged"}. A span that an
    interrupted build finished is not decoded again, but verified by its checksums: after a power loss the journal may
    list images that never reached the disk.
    """

    def __init__(self, source: Source, prepare: Preparation, folder: Path):
        self.source, self.prepare, self.folder = source, prepare, folder
        self.shape = (prepare.channels, prepare.resolution, prepare.resolution)
        self.levels = [
            RowFile(folder / level_file_name(r), np.uint8, (len(source), prepare.channels, r, r))
            for r in reversed(level_resolutions(prepare.resolution))
        ]
        self.sums = RowFile(folder / "sums.npy", np.uint64, (len(source),))
        self.digests = RowFile(folder / "digests.npy", np.uint8, (len(source), DIGEST_BYTES))
        self.journal = folder / "journal"
        self.finished = self.read_journal()

    def list_spans(self) -> Iterator[tuple[int, int]]:
        """Yield the spans (start, stop) of image indices that cover the dataset."""
        count = len(self.source)
        # 64, our choice: at most 64 images, so that an interruption loses little; and at least about 64 spans, so that
        # no worker runs out of work long before the others.
        step = max(min(BATCH_BYTES // int(np.prod(self.shape)), 64, count // 64), 1)
        return ((start, min(start + step, count)) for start in range(0, count, step))

    def __call__(self, span: tuple[int, int]) -> dict:
        if (finished := self.finished.get(span)) and self.is_on_disk(finished):
            return finished
        start, stop = span
        images = np.zeros((stop - start, *self.shape), np.uint8)
        digests = np.empty((stop - start, DIGEST_BYTES), np.uint8)
        bad, enlarged = {}, []
        for index in range(start, stop):
            digest = new_digest()
            try:
                with self.source.read_image(index, self.prepare.resolution, self.prepare.channels, digest) as picture:
                    images[index - start] = self.prepare(picture)
                    if self.prepare.is_enlarged(*picture.size):
                        enlarged.append(index)
            except Exception as error:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
                if getattr(error, "errno", None) in MACHINE_ERRORS:  # the image may be fine
                    raise
                bad[str(index)] = first_line(error)  # text, as JSON has it
            digests[index - start] = np.frombuffer(digest.digest(), np.uint8)
        levels = list(pyramid_levels(images))
        checks = compute_checksums(levels)
        checks[[int(index) - start for index in bad]] = 0  # marks unreadable images, see `Pyramid.rows`
        for file, rows in zip((*self.levels, self.sums, self.digests), (*levels, checks, digests), strict=True):
            file.write(start, rows)
        return {"start": start, "stop": stop, "bad": bad, "enlarged": enlarged}

    def read_journal(self) -> dict[tuple[int, int], dict]:
        """Return the spans that an interrupted build finished, by (start, stop)."""
        finished = {}
        for line in self.journal.read_text().splitlines() if self.journal.exists() else []:
            with suppress(ValueError):  # the interruption cut the line short
                span = json.loads(line)
                finished[span["start"], span["stop"]] = span
        return finished

    def is_on_disk(self, span: dict) -> bool:
        """Return whether the files hold a finished span: its levels by their checksums, and a digest of each image."""
        start, stop = span["start"], span["stop"]
        expected = self.sums.read(start, stop)
        good = expected != 0
        found = compute_checksums([file.read(start, stop) for file in self.levels])
        return bool(
            (found[good] == expected[good]).all()
            and (~good).sum() == len(span["bad"])
            and self.digests.read(start, stop).any(axis=1).all()
        )


def decode_all(job: BuildJob, allow_upscale: bool, workers: int | None) -> BuildProgress:
    """Decode all images that an interrupted build has not finished, and verify the others, with a progress bar.

    Raises:
        DataError: an image is smaller than the resolution and `allow_upscale` is False, or a worker was killed.
    """
    progress, spans = BuildProgress(), list(job.list_spans())
    workers = min(workers or count_cores(), len(spans))
    synced = time.monotonic()
    bar = tqdm(total=len(job.source), desc=f"caching {job.source.name}", unit="image", disable=None, leave=False)
    with bar, open(job.journal, "a") as journal:
        for span in map_parallel(job, spans, workers):
            # after the worker has written the rows: a process that dies in between decodes this span again
            if span != job.finished.get((span["start"], span["stop"])):
                journal.write(json.dumps(span) + "\n")
                journal.flush()
            progress.add(span)
            bar.update(span["stop"] - span["start"])
            if progress.enlarged and not allow_upscale:
                if not job.finished:  # free its space: a lower resolution is another cache
                    shutil.rmtree(job.folder, ignore_errors=True)
                raise DataError(describe_small_images(job.source, job.prepare))
            if time.monotonic() - synced > SYNC_SECONDS:
                job.levels[0].sync()
                synced = time.monotonic()
    return progress


def describe_small_images(source: Source, prepare: Preparation) -> str:
    """Return the error message for images that are smaller than the resolution."""
    found = survey_all(source)
    sides = found.compute_limiting_sides(prepare.fit)
    smallest = sides.argmin()
    native = 1 << (int(sides[smallest]).bit_length() - 1)
    return (
        f"{(sides < prepare.resolution).sum()} of {len(source)} images are smaller than {prepare.resolution}x"
        f"{prepare.resolution}, the smallest {source.describe(int(found.indices[smallest]))} with "
        f"{found.sizes[smallest][0]}x{found.sizes[smallest][1]}; pass "
        + (f"--resolution {native}, or " if native >= 4 else "")
        + "--allow-upscale to enlarge them, or remove them"
    )


def finish_cache(job: BuildJob, progress: BuildProgress, max_bad: float) -> None:
    """Write labels, report and metadata, and sync all files to the disk.

    Raises:
        DataError: more than the fraction `max_bad` of images is unreadable.
    """
    source, count = job.source, len(job.source)
    bad = [(source.describe(i), why) for i, why in sorted(progress.bad.items())]
    copies = find_duplicates(job.sums.read(0, count))
    report = job.folder / "report.txt"
    # before the check, whose error message refers to it
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
    job.journal.unlink()  # complete; nothing is left to resume
    job.digests.path.unlink()


def find_duplicates(checks: np.ndarray) -> dict[int, int]:
    """Return, for each image that repeats an earlier one, the index of the first with the same checksum.

    Args:
        checks: uint64 [N], see `compute_checksums`; 0 for unreadable images, which are not compared.
    """
    _, first, which = np.unique(checks, return_index=True, return_inverse=True)
    earliest = first[which]
    return {int(i): int(earliest[i]) for i in np.flatnonzero((earliest != np.arange(len(checks))) & (checks != 0))}


def format_report(job: BuildJob, bad: Sequence[Sequence[str]], copies: dict[int, int], enlarged: list[int]) -> str:
    """Return the text of report.txt: unreadable, enlarged and duplicate images, and files without image extension."""
    source, size = job.source, f"{job.prepare.resolution}x{job.prepare.resolution}"
    parts = [
        ("images that cannot be read", [": ".join(pair) for pair in bad]),
        (f"images smaller than {size}, enlarged", [source.describe(i) for i in enlarged]),
        ("copies of other images", [f"{source.describe(i)}: as {source.describe(j)}" for i, j in copies.items()]),
        ("files that are not named like images", source.others),
    ]
    return "\n".join(f"{len(lines)} {what}\n" + "".join(f"  {line}\n" for line in lines) for what, lines in parts)


def check_bad(bad: Sequence[Sequence[str]], count: int, max_bad: float, report: Path) -> None:
    """Raise DataError if more than the fraction `max_bad` of images is unreadable.

    Args:
        bad: [name, reason] of each unreadable image.
        count: number of all images.
        report: file that lists all of them.
    """
    if not has_too_many_bad(len(bad), count, max_bad):
        return
    lines = "\n".join(f"  {name}: {reason}" for name, reason in bad[:MAX_SHOWN])
    more = f"\n  and {len(bad) - MAX_SHOWN} more" if len(bad) > MAX_SHOWN else ""
    needed = np.ceil(1000 * len(bad) / count) / 10  # in percent, rounded up to the tenth that the message prints
    allow = "" if len(bad) == count else f", or skip them with --max-bad {needed:g}%"
    raise DataError(
        f"{len(bad)} of {count} images cannot be read, more than --max-bad {100 * max_bad:.3g}% allows; repair or "
        f"remove them{allow} (all are listed in {report}):\n{lines}{more}"
    )
