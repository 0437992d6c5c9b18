"""What the documents say: their links, their words, and the numbers of the study's headline."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moediff.analysis.panel import users
from workflow import ROOT

DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*/*.md")])
REFERENCE = (ROOT / "docs/reference/README.md").read_text(encoding="utf-8")
# Its programs; the last one reads tables that are not in the repository.
FIGURE, OWN_SHARES, GRADED, _AFFINITY = re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL)


def words(path: str) -> str:
    """A document as one line."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def names_of(program: str) -> dict:
    """What a program of docs/reference/README.md has bound when it ends."""
    bound: dict = {}
    exec(compile(program, "docs/reference/README.md", "exec"), bound)
    return bound


@pytest.fixture
def at_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory like the root, whose docs/ can be written to."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/reference").symlink_to(ROOT / "docs/reference")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_the_documents_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_the_glossary_has_each_word_once_in_two_lines_at_most() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+(?:\n  .+)*)", text, re.MULTILINE)
    named = [word for word, _ in entries]
    assert len(named) == len(set(named)) == text.count("\n- ")
    assert not [word for word, meaning in entries if meaning.count("\n") > 1]


def test_files_named_by_adding_exist() -> None:
    for name in re.findall(r"`([\w/]+\.(?:py|smk|yaml|json|md))`", words("docs/adding.md")):
        places = [ROOT / name, ROOT / "scripts/moediff" / name]
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize(("times", "own"), [(5, False), (8.9, False), (9.1, True)])
def test_the_strict_rule_sees_what_is_nine_times_stronger(times: float, own: bool) -> None:
    explained = np.array([[times] * 4 + [1.0] * 4]) / 1000  # four models of each kind
    used = users(explained, np.array([True]), floor=0.2)[0]
    assert used[:4].all()
    assert used[4:].any() != own


def test_graded_statistics_are_those_of_the_stored_pairs(at_root: None) -> None:
    graded: pl.DataFrame = names_of(GRADED)["graded"]
    assert graded["rank"].to_list() == [1, 1, 1, 1]
    study = words("docs/study.md")
    for row in graded.iter_rows(named=True):
        percent = row["statistic"] == "excess"
        values = [
            f"{100 * row[key]:.1f} %" if percent else f"{row[key]:.2f}"
            for key in ("true", "largest_other")
        ]
        assert " | ".join([*values, "1"]) in study
    excess = graded.row(0, named=True)
    assert f"excess of {100 * excess['true']:.1f} points" in words("README.md")
    assert f"({100 * excess['largest_other']:.1f} at most" in words("README.md")


def test_programs_of_the_reference_results_run(
    at_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names_of(FIGURE)
    assert Path("docs/panel.png").stat().st_size
    names_of(OWN_SHARES)
    assert "dense-dense" in capsys.readouterr().out
