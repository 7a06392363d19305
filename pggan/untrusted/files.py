"""Recognize files that are not what their name says, and refuse archives that unpack to more than real data does."""

from __future__ import annotations

import zipfile
from pathlib import Path

WEB_PAGE = (
    "a web page instead of the file; open its link in a browser and download it again (Google Drive shows such a page "
    "when a download needs a confirmation or has reached its quota)"
)
LFS_POINTER = (
    "a Git LFS pointer instead of the file; run git lfs pull in its repository, or download it from its web page"
)
# First bytes of files that users pass by mistake, and what they are; the formats' own documentation names them.
SIGNATURES = {
    b"version https://git-lfs": LFS_POINTER,
    b"\x1f\x8b": "a gzip file; unpack it and pass the result",
    b"BZh": "a bzip2 file; unpack it and pass the result",
    b"\xfd7zXZ\0": "an xz file; unpack it and pass the result",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it and pass the result",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and pass the folder",
    b"Rar!\x1a\x07": "a RAR archive; unpack it and pass the folder",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, which is not supported",
    b"PAR1": "a Parquet file, which is not supported",
    b"\x93NUMPY": "a single array (.npy); save it with np.savez as .npz",
}
MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<script")  # in lower case: how web pages begin
START = 512  # bytes that are enough to recognize a file; our choice, web pages may begin with blank lines

# Limits for members of zips and .npz: a member larger than MAX_UNPACKED may not unpack to more than MAX_RATIO times its
# packed size. Deflate reaches 1,032; photographs reach 10, and dSprites (binary shapes, mostly black) 115.
MAX_UNPACKED, MAX_RATIO = 64 << 20, 200


def identify(start: bytes) -> str:
    """Return what a file is if it is none of the files that this project reads, and what to do, as a phrase; else "".

    Args:
        start: the first `START` bytes of the file.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # some servers send a UTF-8 byte order mark first
    if text.startswith(MARKUP):
        return WEB_PAGE
    return next((meaning for signature, meaning in SIGNATURES.items() if start.startswith(signature)), "")


def identify_file(path: Path) -> str:
    """Return what `identify` says of a file; also recognizes empty files and truncated zips. Raises OSError."""
    if not path.is_file():  # opening a pipe would block
        return "neither a file nor a folder"
    with path.open("rb") as file:
        start = file.read(START)
    if not start:
        return "empty; download or copy it again"
    if start.startswith(b"PK\x03\x04") and not has_zip_directory(path):
        return "a truncated zip: its end is missing; download or copy it again"
    return identify(start)


def has_zip_directory(path: Path) -> bool:
    """Return whether a file ends with a zip's list of members."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a part of a split zip
        return False


def check_unpacked_size(member: zipfile.ZipInfo) -> None:
    """Raise ValueError if a member of a zip unpacks to more than real data of its packed size does."""
    if member.file_size > max(MAX_UNPACKED, MAX_RATIO * member.compress_size):
        raise ValueError(
            f"{member.filename} unpacks to {member.file_size / 1e6:.0f} MB from {member.compress_size / 1e6:.1f} MB, "
            "which no image data does (a zip bomb?); check where the file comes from"
        )
