"""What a command writes is whole, or what was there before."""

import errno
from pathlib import Path

import pytest

from analysis import atari, plot, report
from analysis.folders import building
from analysis.records import RecordError


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_not_finished_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "page"
    out.mkdir()
    (out / "index.html").write_text("old")
    words = r"page cannot be written \(No space left on device\); what was there is kept"
    with pytest.raises(RecordError, match=words), building(out) as new:
        (new / "index.html").write_text("half")
        full()
    with pytest.raises(ZeroDivisionError), building(out) as new:
        (new / "index.html").write_text(f"{1 / 0}")
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert (out / "index.html").read_text() == "old"


def test_what_an_earlier_command_left_half_done_is_no_part_of_it(tmp_path: Path) -> None:
    left = tmp_path / ".page.building"
    left.mkdir()
    (left / "index.html").write_text("of one that was killed")
    with building(tmp_path / "page") as new:
        assert list(new.iterdir()) == []
        new.replace(tmp_path / "page")
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_every_writer_of_pages_and_pictures_goes_this_way() -> None:
    assert atari.building is plot.building is report.building is building
