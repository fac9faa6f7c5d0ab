"""Small files, written so that a kill leaves the old content or the new, never half of one."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.commands import FULL
from ppo.refusals import UserError


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); move this file away, not its folder, and give the command again"
        ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """One JSON object per line."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is not readable as one JSON object per line ({error})") from error


def numbered_in(folder: Path, before: str, after: str = "") -> list[int]:
    """Numbers of what is called `<before><number><after>` in a folder, highest first; not those of copies."""
    rests = (path.name.removeprefix(before).removesuffix(after) for path in folder.glob(f"{before}*{after}"))
    return sorted((int(rest) for rest in rests if rest.isdecimal()), reverse=True)


def write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # writing and fsync do not say where
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def create_once(path: Path, content: bytes) -> bool:
    """Create a file whole and exclusively; False if it was there already."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return link_once(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def link_once(whole: Path, path: Path) -> bool:
    """Give a file a second name, unless that one is taken."""
    try:
        os.link(whole, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in FULL:
            raise
        try:  # a file system without hard links
            with path.open("xb") as file:
                file.write(whole.read_bytes())
            return True
        except FileExistsError:
            return False


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
