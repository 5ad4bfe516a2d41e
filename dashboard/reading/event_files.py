"""TensorBoard event files: the scalars in them, read without TensorBoard or torch.

A file is a row of records (TFRecord: length, its checksum, data, its checksum), each a serialised `Event` of TensorBoard's
event.proto. Of an event only what a training run's curves are made of is decoded: wall_time (1), step (2), and of the
summary (5) each value (1) with tag (1) and simple_value (2), or a float tensor (8). Everything else is skipped by its wire
type, as protocol buffers ask of a reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CASTAGNOLI: Final = 0x82F63B78
_MASK_DELTA: Final = 0xA282EAD8
"""TFRecord stores checksums rotated and shifted, so that those of data that hold checksums are sound."""
_MOST_BYTES: Final = 64 << 20
"""No event of scalars is that large."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class EventFileError(ValueError):
    """A file is no event file, or is spoilt; the message names it and the place."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One point of one curve."""

    tag: str
    step: int
    wall_s: float
    """Since 1970."""
    value: float


def scalars(path: Path) -> Iterator[Scalar]:
    """The scalars of a file, in its order. A record that is being written, at the end, is left out.

    Raises:
        EventFileError: a checksum or a field that cannot be.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        (said,) = struct.unpack_from("<I", data, at + 8)
        if length > _MOST_BYTES or _masked_crc(data[at : at + 8]) != said:
            raise EventFileError(f"{path}: byte {at}: no record of an event file, or a spoilt one")
        end = at + 12 + length + 4
        if end > len(data):
            return
        event = data[at + 12 : at + 12 + length]
        (said,) = struct.unpack_from("<I", data, end - 4)
        if _masked_crc(event) != said:
            raise EventFileError(f"{path}: byte {at + 12}: the record's checksum is another one; the file is spoilt")
        try:
            yield from _of_event(event)
        except (IndexError, struct.error, UnicodeDecodeError):
            raise EventFileError(f"{path}: byte {at + 12}: no event as TensorBoard writes them") from None
        at = end


def _of_event(event: bytes) -> Iterator[Scalar]:
    wall_s, step = 0.0, 0
    summaries = []
    for field, wire, value in _fields(event):
        if field == 1 and wire == _FIXED64:
            (wall_s,) = struct.unpack("<d", value)
        elif field == 2 and wire == _VARINT:
            step = int.from_bytes(value, "little")
        elif field == 5 and wire == _BYTES:
            summaries.append(value)
    for summary in summaries:
        for field, wire, value in _fields(summary):
            if field == 1 and wire == _BYTES and (found := _of_value(value)) is not None:
                yield Scalar(found[0], step, wall_s, found[1])


def _of_value(value: bytes) -> tuple[str, float] | None:
    """Tag and number of a summary's value; None if it is no scalar."""
    tag, number = "", None
    for field, wire, part in _fields(value):
        if field == 1 and wire == _BYTES:
            tag = part.decode()
        elif field == 2 and wire == _FIXED32:
            (number,) = struct.unpack("<f", part)
        elif field == 8 and wire == _BYTES and number is None:
            number = _of_tensor(part)
    return None if number is None else (tag, float(number))


def _of_tensor(tensor: bytes) -> float | None:
    """Of a tensor of one float (dtype 1; float_val 5, packed or not, or tensor_content 4)."""
    is_float, found = False, None
    for field, wire, part in _fields(tensor):
        if field == 1 and wire == _VARINT:
            is_float = int.from_bytes(part, "little") == 1
        elif field in (4, 5) and wire in (_BYTES, _FIXED32) and len(part) == 4:
            (found,) = struct.unpack("<f", part)
    return found if is_float else None


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and content of each field; a varint as little-endian bytes of its 64 bits."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield field, wire, value.to_bytes(8, "little")
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise IndexError(wire)
        if at + size > len(message):
            raise IndexError(at)
        yield field, wire, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise IndexError(at)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE: Final = _table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4), masked as TFRecord does."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFF_FFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFF_FFFF
