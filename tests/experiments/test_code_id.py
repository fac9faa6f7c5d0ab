"""The code id sees what the code of ppo/ does, and not how it looks."""

from pathlib import Path

import pytest

from experiments import identity

SOURCE = '''
def f(x):
    """What f does."""
    y = x + 1  # next
    return (y *
            2)
'''


def test_the_code_id_sees_what_code_does_and_not_how_it_looks() -> None:
    same = 'def f(x):\n  "Other words."\n\n  y = (x+1)\n  "bare"\n  return y*2 # twice'
    assert identity.meaning(SOURCE) != identity.meaning(SOURCE.replace("2)", "3)"))
    assert identity.meaning(SOURCE) != identity.meaning(SOURCE.replace("x + 1", "x - 1"))
    assert "next" not in identity.meaning(SOURCE)
    assert identity.meaning(same).replace("    pass\n", "") == identity.meaning(SOURCE).replace("    pass\n", "")


def test_comments_in_ppo_leave_the_code_id_alone_and_constants_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in identity.PPO.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    fresh = identity.code_id.__wrapped__
    monkeypatch.setattr(identity, "PPO", tmp_path)
    before = fresh()
    inner = tmp_path / "learners" / "spo.py"
    inner.parent.mkdir()
    inner.write_text("x = 1\n")
    assert (within := fresh()) != before, "code in a folder of ppo/ is code too"
    inner.rename(tmp_path / "learners" / "other.py")
    assert fresh() not in (before, within)
    (tmp_path / "learners" / "other.py").unlink()
    normalisation = tmp_path / "normalisation.py"
    source = normalisation.read_text()
    normalisation.write_text("# a remark\n" + source.replace('"""Running', '"""Ever running'))
    assert fresh() == before
    assert "PRIOR = 1e-4" in source
    normalisation.write_text(source.replace("PRIOR = 1e-4", "PRIOR = 1e-3"))
    assert fresh() != before
    normalisation.write_text(source)
    monkeypatch.setattr(identity, "package_version", lambda package: "0")
    assert fresh() != before
