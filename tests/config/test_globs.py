"""Globs: what the standard library matches, and an end where links lead up again."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path

import pytest

from moediff.config.base import matches


def test_a_glob_below_links_that_lead_up_again_ends_and_follows_the_others(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own/a.txt", "own/deep/b.txt", "far/c.txt", "own/.hidden/d.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    wanted = ["own/a.txt", "own/deep/b.txt"]
    assert matches("own/**/*.txt") == wanted
    os.symlink(".", "own/self")
    os.symlink("..", "own/deep/up")
    os.symlink("../far", "own/link")
    began = time.monotonic()
    assert matches("own/**/*.txt") == [*wanted, "own/link/c.txt"]
    assert "own/deep/b.txt" in matches("**/b.txt")
    assert "own/deep/b.txt" in matches("own/**")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "pattern", ["**/*.txt", "own/**", "**", "*/**/*.txt", "./own/**/*.txt", "**.txt"]
)
def test_a_glob_without_links_matches_what_the_standard_library_does(
    tmp_path: Path, monkeypatch, pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own/a.txt", "own/deep/b.txt", "own/.hidden/d.txt", "c.txt", "e[1]/f.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert matches(pattern) == sorted(glob.glob(pattern, recursive=True))
