"""What a command writes: whole, or what was there before."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.records import RecordError


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, to be filled and moved from inside; afterwards it is gone. RecordError if the disk
    refuses."""
    beside = out.with_name(f".{out.name}.building")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
    except OSError as error:
        raise RecordError(f"{out} cannot be written ({error.strerror or error}); what was there is kept") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
