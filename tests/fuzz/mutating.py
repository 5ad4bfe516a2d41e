"""Damaged files made from valid ones.

Plain mutation: bytes, numbers, lines, pieces of other files, and what parsers are known to stumble over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NASTY: tuple[bytes, ...] = (
    *(b"", b"\x00", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b"\r\n", b"\t"),
    *(b'"', b'""', b"'", b"\\", b",", b",,", b";", b":", b"{", b"}", b"[", b"]", b"[[", b"{}", b"#", b"&a", b"*a"),
    *(b"nan", b"-nan", b"inf", b"-inf", b"NaN", b"Infinity", b"null", b"~", b"true", b"NA", b"None", b"<<: *a", b"!!"),
    *(b"0", b"-0", b"-1", b"1e400", b"-1e400", b"1e-400", b"0x10", b"1_000", b"0.1", b"1.", b".5", b"+1", b"1e5"),
    *(b"2147483648", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"),
    *(b"9" * 400, b"0" * 5000, b"1e308", b"4.9e-324", b"9007199254740993", b"1970-01-01", b"9999-12-31 23:59:59"),
    *(b"2023-11-16 18:15:46.680590000001", b"2024-05-10T00:00:00Z", b"2024-05-10 00:00:00+99:99", b"24:00:00"),
    *(
        b"PAR1",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"BZh",
        b"\x04\x22\x4d\x18",
        b"[" * 5000,
        b'{"a":' * 3000,
        b"- " * 3000,
    ),
    *(
        b"!!python/object/apply:os.system ['true']",
        b"!!binary x",
        b"!!timestamp 1",
        b"!!int 1:2",
        b"? a",
        b"---",
        b"...",
    ),
    *("\u2028".encode(), "\u202e".encode(), "\U0001f4a9".encode(), b"\x1b[2J", b"\x85", b"\x7f", b"%s%n", b"../" * 50),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
MAX_BYTES = 200_000


def mutated(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The content with one to eight changes, at most `MAX_BYTES` long."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        content = rng.choice(_CHANGES)(content, others, rng)[:MAX_BYTES]
    return content


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randint(0, len(content))


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    first = _place(content, rng)
    return first, min(len(content), first + rng.choice((1, 1, 2, 4, 16, 64, 1024)))


def _flip(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]


def _insert(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.choice(NASTY) + content[place:]


def _replace(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    first, last = _span(content, rng)
    return content[:first] + rng.choice(NASTY) + content[last:]


def _drop(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    first, last = _span(content, rng)
    return content[:first] + content[last:]


def _repeat(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    first, last = _span(content, rng)
    return content[:last] + content[first:last] * rng.choice((1, 2, 30, 1000)) + content[last:]


def _cut(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] if rng.random() < 0.7 else content[place:]


def _number(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(content[:20_000]))
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NASTY) + content[match.end() :]


def _lines(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    if rng.random() < 0.3:
        del lines[one]
    return b"\n".join(lines)


def _cells(content: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    cells = content.split(b",")
    one, two = rng.randrange(len(cells)), rng.randrange(len(cells))
    cells[one], cells[two] = cells[two], cells[one]
    return b",".join(cells)


def _splice(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    first, last = _span(other, rng)
    place = _place(content, rng)
    if rng.random() < 0.3:
        return content[:place] + other[_place(other, rng) :]
    return content[:place] + other[first:last] + content[place:]


_CHANGES = (_flip, _flip, _insert, _replace, _replace, _drop, _repeat, _cut, _number, _number, _lines, _cells, _splice)
