"""A reader of `.wandb` files that owes nothing to the product's: LevelDB's log format around protobuf records.

A file is a header of 7 bytes, then blocks of 32 KiB. A block holds chunks: CRC-32, length, kind, then `length` bytes; a
record is one whole chunk, or a first, middle ones and a last. No chunk begins in the last six bytes of a block. Reading
ends where a killed writer left off.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Written:
    """What one file says about its run."""

    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)  # metric, perhaps a pattern → what it is drawn over
    saved: list[str] = field(default_factory=list)  # files to be uploaded
    exit_code: int | None = None


def chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, content) of every chunk that is whole."""
    at = len(FILE_HEADER)
    if data[:at] != FILE_HEADER:
        return
    while True:
        if (room := BLOCK - at % BLOCK) < CHUNK_HEADER.size:
            at += room
        head = data[at : at + CHUNK_HEADER.size]
        if len(head) < CHUNK_HEADER.size:
            return
        checksum, length, kind = CHUNK_HEADER.unpack(head)
        at += CHUNK_HEADER.size
        content = data[at : at + length]
        if zlib.crc32(bytes([kind]) + content) != checksum or len(content) < length:
            return
        yield kind, content
        at += length


def records(path: Path) -> Iterator[Record]:
    parts = b""
    for kind, content in chunks(path.read_bytes()):
        parts = content if kind in (WHOLE, FIRST) else parts + content
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)


def values(items: Any) -> dict[str, Any]:
    """The key-value pairs of a record; a nested key's parts are joined by dots."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def read(path: Path) -> Written:
    out = Written()
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                out.id, out.name, out.project, out.group = run.run_id, run.display_name, run.project, run.run_group
                out.tags = list(run.tags)
                out.config |= values(run.config.update)
            case "config":
                out.config |= values(record.config.update)
            case "history":
                out.rows.append({**values(record.history.item), "_step": record.history.step.num})
            case "summary":
                out.summary |= values(record.summary.update)
            case "metric":
                metric = record.metric
                out.step_metrics[metric.name or metric.glob_name] = metric.step_metric
            case "files":
                out.saved += [file.path for file in record.files.files]
            case "exit":
                out.exit_code = record.exit.exit_code
    return out


def read_all(records: Path, run_id: str) -> list[Written]:
    """Every offline file of a W&B run, oldest first."""
    return [read(path) for path in sorted(records.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))]
