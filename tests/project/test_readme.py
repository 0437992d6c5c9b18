"""What the README says can be run."""

import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

from configured import SHIPPED, changed
from conftest import PRESETS, SCHEMA
from moediff.config import complete, config_files
from workflow import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README, re.S)
# What of these is a second file over the default; the others name text and checkpoints of the reader's.
OVER_THE_DEFAULT = [text for text in EXAMPLES if not re.search("corpus:|olmoe|rows: {fit:", text)]


def test_ci_runs_the_readme_s_own_test_command() -> None:
    command = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert command in README


def test_links_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_a_config_file(tmp_path: Path, number: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(EXAMPLES[number], encoding="utf-8")
    config_files.check_files([path])


@pytest.mark.parametrize("count", range(1, len(OVER_THE_DEFAULT) + 1))
def test_an_example_over_the_default_and_those_before_it_is_taken(count: int) -> None:
    parts = [yaml.safe_load(text) for text in OVER_THE_DEFAULT[:count]]
    whole = reduce(lambda config, part: changed(part, config), parts, SHIPPED["config"])
    complete.complete(whole, SCHEMA, PRESETS)
