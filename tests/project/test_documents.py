"""What the documents say: their links, their words, and the programs of the reference results."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from moediff.analysis.panel import users
from stored import OWN_SHARES, PANEL, SPLITS, names_of
from workflow import ROOT

DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*/*.md")])


def words(path: str) -> str:
    """A document as one line."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


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


def test_programs_of_the_reference_results_run(
    at_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for figure, program in (("docs/splits.png", SPLITS), ("docs/panel.png", PANEL)):
        names_of(program)
        assert Path(figure).stat().st_size
    names_of(OWN_SHARES)
    assert "dense-dense" in capsys.readouterr().out
