"""A log on disk: the file that is written, and closed segments of it beside, packed.

    decisions.jsonl                 being written
    decisions.00000007.jsonl.gz     closed, the higher the newer
    decisions.00000008.jsonl        closed just now, not packed yet

Every segment begins with a sitting, so that any of them can be read without the others.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

PLAIN: Final = ".jsonl"
PACKED: Final = ".jsonl.gz"
_PART: Final = ".part"
_NUMBERED: Final = re.compile(r"\.(\d{8})\.jsonl(?:\.gz)?$")
_LEVEL: Final = 6
"""Of zlib: a seventh of the bytes, at 50 MB/s; the levels above save a few percent for three times the time."""
DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class Keeping:
    """How much of a log is kept. All but the newest segment may be given up, the oldest first."""

    segment_bytes: int = 16 << 20
    """A file of this size is closed and packed."""
    segment_s: float = DAY_S
    """And so is one that was begun this long ago."""
    max_bytes: int = 1 << 30
    """Of all segments together, as they lie on disk."""
    max_age_s: float = 31.0 * DAY_S
    """Since a segment's last tick."""


@dataclass(frozen=True)
class Segment:
    """A closed segment on disk."""

    path: Path
    bytes: int
    last_unix_s: float
    """When it was last written to."""


def segments(log: Path) -> list[Path]:
    """The closed segments of a log, oldest first. One that is being packed counts once."""
    stem = log.name.removesuffix(PLAIN)
    found: dict[int, Path] = {}
    for path in sorted(log.parent.glob(f"{_escaped(stem)}.*")):
        match = _NUMBERED.search(path.name)
        if match is None or path.name[: match.start()] != stem:
            continue
        number = int(match[1])
        if number not in found or path.name.endswith(PACKED):
            found[number] = path
    return [found[number] for number in sorted(found)]


def files_of(source: Path) -> list[Path]:
    """The files of a log, oldest first: of a folder that holds one, of a log with its segments, or a single segment.

    Raises:
        FileNotFoundError: there is none.
    """
    if source.is_dir():
        logs = {path.name.split(".")[0] for path in source.glob("*.jsonl*") if not path.name.endswith(_PART)}
        found = [file for stem in sorted(logs) for file in files_of_log(source / f"{stem}{PLAIN}")]
        if not found:
            raise FileNotFoundError(f"{source}: no log in this folder, wanted one such as decisions{PLAIN}")
        return found
    if _NUMBERED.search(source.name):
        return [source]
    found = files_of_log(source)
    if not found:
        raise FileNotFoundError(f"{source}: no such file, wanted a decision log or a folder with one")
    return found


def files_of_log(log: Path) -> list[Path]:
    """A log's segments and, last, the log itself; those of them that are there."""
    return [*segments(log), *([log] if log.is_file() else [])]


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a segment, packed or not; one that is packed meanwhile is read where it went.

    Raises:
        OSError: it cannot be read.
        EOFError: a packed one is cut short.
        zlib.error: a packed one is spoilt.
    """
    with _opened(path) as file:
        yield from file


def _opened(path: Path) -> IO[bytes]:
    try:
        return _open(path)
    except FileNotFoundError:
        if path.name.endswith(PACKED):
            raise
        return _open(path.with_name(path.name + ".gz"))


def _open(path: Path) -> IO[bytes]:
    # A log may have any name: what it begins with tells whether it is packed.
    file = path.open("rb")
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[return-value]


def next_segment(log: Path) -> Path:
    """Where a log's file goes when it is closed."""
    known = segments(log)
    last = 0
    if known:
        match = _NUMBERED.search(known[-1].name)
        assert match is not None
        last = int(match[1])
    return log.with_name(f"{log.name.removesuffix(PLAIN)}.{last + 1:08d}{PLAIN}")


def pack(path: Path) -> Path:
    """Pack a closed segment; the packed one is whole before the other goes.

    Raises:
        OSError: it cannot be written; the segment stays as it is.
    """
    packed = path.with_name(path.name + ".gz")
    part = packed.with_name(packed.name + _PART)
    try:
        with path.open("rb") as source, gzip.open(part, "wb", compresslevel=_LEVEL) as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        shutil.copystat(path, part)
        part.replace(packed)
        path.unlink()
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    return packed


def unpacked(log: Path) -> list[Path]:
    """Closed segments that nobody packed yet; what a crash left half packed is removed."""
    for part in log.parent.glob(f"{_escaped(log.name.removesuffix(PLAIN))}.*{_PART}"):
        with suppress(OSError):
            part.unlink()
    return [path for path in segments(log) if path.name.endswith(PLAIN)]


def packed_on_disk(log: Path) -> list[Segment]:
    """A log's packed segments as they lie on disk, oldest first. What is not packed yet shows no final size."""
    found = []
    for path in segments(log):
        if not path.name.endswith(PACKED):
            continue
        with suppress(OSError):
            status = path.stat()
            found.append(Segment(path, status.st_size, status.st_mtime))
    return found


def outlived(held: Sequence[Segment], open_bytes: int, keeping: Keeping, now_unix_s: float) -> list[Segment]:
    """Which of `held`, oldest first, are to go: those too old, and of the others the oldest that are too much. Pure."""
    young = [segment for segment in held if now_unix_s - segment.last_unix_s <= keeping.max_age_s]
    total = open_bytes + sum(segment.bytes for segment in young)
    gone = [segment for segment in held if segment not in young]
    for segment in young:
        if total <= keeping.max_bytes:
            break
        gone.append(segment)
        total -= segment.bytes
    return gone


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
