"""The tables of objectives and estimators say what is declared, and the README has them."""

from analysis.documents import END
from experiments import algorithms


def test_the_readme_has_the_tables_of_this_code() -> None:
    text = algorithms.README.read_text()
    assert algorithms.written(text) == text, "python -m experiments.algorithms --write"


def test_an_objective_stands_there_with_all_that_its_declaration_says() -> None:
    lines = algorithms.tables().splitlines()
    assert "| clip | Surrogate | epsilon | ratio, advantage, epsilon | clip_{epsilon} |" in lines
    assert "| random | Uniform | – | – | random |" in lines
    assert "| n_step | n_step | rewards, values, next_values, terminated, ended, gamma, n_step |" in lines
    assert "- `algo.epsilon`: ε of the clipped ratio, eq. 7; above 0; may differ within a pack" in lines
    assert "- `algo.gae_lambda`: λ, eq. 11; 0 to 1; may differ within a pack; 0.95 where nothing is set" in lines
    assert len([line for line in lines if line.startswith("- `algo.epsilon`")]) == 1


def test_writing_twice_is_writing_once_and_keeps_the_rest() -> None:
    before, after = "first\n", "\nlast\n"
    text = before + algorithms.MARK + END + after
    once = algorithms.written(text)
    assert once.startswith(before) and once.endswith(after)
    assert algorithms.written(once) == once
