"""The types of the library are what they say, by mypy as pyproject.toml sets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workflow import ROOT


@pytest.mark.slow
def test_mypy_finds_no_error_in_the_library() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed; it comes with the extra `test`")
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
