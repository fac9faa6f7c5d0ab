"""Scalars from TensorBoard's event files, read without TensorBoard, which would add five packages and 50 MB.

A file is a row of records: uint64 length, uint32 check of the length, the bytes, uint32 check of the bytes; all
little-endian, a check being a masked CRC-32C (tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details").
A record is an Event of event.proto, summary.proto and tensor.proto in tensorboard/compat/proto, written as
protobuf.dev/programming-guides/encoding says.
"""

import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.sources.records import Broken

LONGEST = 64 << 20  # bytes of a record; beyond it lie damaged files
EVENT_STEP, EVENT_SUMMARY, SUMMARY_VALUE = 2, 5, 1  # numbers of the fields
VALUE_TAG, VALUE_SIMPLE, VALUE_TENSOR = 1, 2, 8
TENSOR_TYPE, TENSOR_CONTENT, TENSOR_FLOATS, TENSOR_DOUBLES = 1, 4, 5, 6
FORMATS = {1: "<f", 2: "<d"}  # of a tensor's numbers, by its type
SIZES = {1: 8, 5: 4}  # bytes of a field, by its wire type

Scalars = dict[str, tuple[list[int], list[float]]]
"""By tag: steps and values. Most writers keep values as float32."""


def scalars(files: Sequence[Path], tags: Collection[str]) -> Scalars:
    """The points of these tags that the files hold, in the files' order. Broken says which file is damaged."""
    found: Scalars = {}
    for file in files:
        for record in records(file):
            try:
                for tag, step, value in points(record, tags):
                    steps, values = found.setdefault(tag, ([], []))
                    steps.append(step)
                    values.append(value)
            except (ValueError, TypeError, LookupError, struct.error) as error:
                raise Broken(f"{file} is no event file of TensorBoard, or damaged ({error})") from error
    return found


def records(file: Path) -> Iterator[bytes]:
    """The whole records of a file; the last one may be half written. Broken if a check fails."""
    with file.open("rb") as handle:
        while len(head := handle.read(12)) == 12:
            length, check = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != check:
                raise Broken(f"{file} is no event file of TensorBoard, or damaged (a record's length fails its check)")
            if length > LONGEST:
                raise Broken(f"{file} has a record of {length:,} bytes; more than {LONGEST:,} are not read")
            body = handle.read(length + 4)
            if len(body) < length + 4:
                return
            if masked_crc(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
                raise Broken(f"{file} is damaged: a record fails its check")
            yield body[:-4]


def points(event: bytes, tags: Collection[str]) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of an event's scalars."""
    parts = list(fields(event))
    step = next((value for number, value in parts if number == EVENT_STEP), 0)
    for summary in (value for number, value in parts if number == EVENT_SUMMARY):
        for number, value in fields(summary):
            if number == SUMMARY_VALUE:
                named = dict(fields(value))
                if (tag := str(named.get(VALUE_TAG, b""), "utf-8")) in tags:
                    yield tag, int(step), scalar(named)


def scalar(value: dict[int, Any]) -> float:
    """The number of a Summary.Value, kept plainly (version 1) or as a tensor of one number (version 2)."""
    if VALUE_SIMPLE in value:
        return float(*struct.unpack("<f", value[VALUE_SIMPLE]))
    tensor = dict(fields(value[VALUE_TENSOR]))
    (kept,) = (tensor[name] for name in (TENSOR_CONTENT, TENSOR_FLOATS, TENSOR_DOUBLES) if name in tensor)
    return float(*struct.unpack(FORMATS[tensor[TENSOR_TYPE]], kept))


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and content of a message's fields: an int if it was written as a varint, else bytes."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            content, at = varint(message, at)
            yield key >> 3, content
            continue
        size, at = varint(message, at) if key & 7 == 2 else (SIZES[key & 7], at)
        if at + size > len(message):
            raise ValueError("a field is longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number below 2^63, seven bits a byte from the lowest, and where the next thing starts."""
    value = 0
    for shift in range(0, 63, 7):
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number below 0 or of more than 63 bits")


def crc_table() -> list[int]:
    """What each byte does to a CRC-32C (Castagnoli), bits reversed."""
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ 0x82F63B78 * (value & 1) for value in table]
    return table


TABLE = crc_table()


def masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
