"""A profile whose plugins are missing ends with one line."""

from __future__ import annotations

import tomllib

import pytest

from moediff.config import plugins
from workflow import ROOT


def test_plugins_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        f"{name}=={version}" for of in plugins.PLUGINS.values() for name, version in of.items()
    }
    assert pinned == set(project["optional-dependencies"]["cluster"])


@pytest.mark.parametrize("profile", plugins.PLUGINS)
def test_every_profile_says_first_what_it_needs_and_asks_for_it(profile: str) -> None:
    lines = (ROOT / "profiles" / profile / "config.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {plugins.INSTALL}"
    assert f'  - plugins.check("{profile}")' in lines


@pytest.mark.parametrize(
    ("wanted", "said"), [({"no-such": "1"}, "no-such 1 is not here, found none"),
                         ({"snakemake": "1.2"}, "snakemake 1.2 is not here, found 9.27.1")],
)  # fmt: skip
def test_a_plugin_that_is_missing_or_another_is_named(wanted: dict, said: str, monkeypatch) -> None:
    monkeypatch.setitem(plugins.PLUGINS, "slurm", wanted)
    with pytest.raises(SystemExit) as caught:
        plugins.check("slurm")
    assert caught.value.code == f"profile slurm: {plugins.INSTALL} ({said})"
