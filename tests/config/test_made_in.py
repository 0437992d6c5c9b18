"""A results folder is of one working directory, wherever the two are moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moediff.config import made_in
from moediff.core.errors import ConfigError

CONFIG = made_in.config_digest({"recipes": {"default": {"k": 6}}})


def works(results: str, directory: Path, config: str = CONFIG) -> None:
    """What a run does: look, then mark."""
    made_in.check(results, directory, config)
    made_in.claim(results, directory, config)
    made_in.check(results, directory, config)


def refused(results: str, directory: Path, config: str = CONFIG) -> str:
    with pytest.raises(ConfigError) as caught:
        made_in.check(results, directory, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "two").mkdir()
    return tmp_path / "two"


def test_looking_makes_nothing(one: Path) -> None:
    made_in.check("results", one, CONFIG)
    assert not list(one.iterdir())


def test_two_directories_with_one_results_folder_are_refused(one: Path, two: Path) -> None:
    shared = str(one.parent / "shared")
    works(shared, one)
    works(shared, one)
    told = refused(shared, two)
    assert told.startswith(f"results: {shared} holds what was made in {one},")
    assert f"rm '{shared}/{made_in.MARK}'" in told
    works("results", two)  # whoever has an identity of his own is refused as well
    refused(shared, two)
    (two / "results" / made_in.MARK).unlink()
    works("../two/results", one)
    refused("results", two)


def test_a_folder_inside_another_working_directory_is_refused(one: Path, two: Path) -> None:
    works("results", one)
    assert str(one) in refused(str(one / "results"), two)
    (two / "link").symlink_to(one / "results")
    refused("link", two)


def test_a_copied_working_directory_does_not_share_the_results_of_the_first(
    one: Path, two: Path
) -> None:
    shared = str(one.parent / "shared")
    works(shared, one)
    two.rmdir()
    shutil.copytree(one, two)
    refused(shared, two)
    made_in.check(shared, one, CONFIG)


@pytest.mark.parametrize("results", ["results", "deep/er", "absolute"])
def test_what_is_moved_works_on(one: Path, two: Path, results: str) -> None:
    results = str(one.parent / "far") if results == "absolute" else results
    works(results, one)
    two.rmdir()
    one.rename(two)
    works(results, two)
    one.mkdir()  # another one where the first was
    (one / "results").mkdir()
    if Path(results).is_absolute():
        refused(results, one)


def test_results_inside_are_moved_without_what_snakemake_notes(one: Path, two: Path) -> None:
    works("results", one)
    shutil.rmtree(one / ".snakemake")
    works("results", one)
    shutil.copytree(one / "results", two / "results")
    works("results", two)


def test_results_are_moved_to_a_larger_disk(one: Path) -> None:
    works("results", one)
    far = one.parent / "far"
    (one / "results").rename(far)
    works(str(far), one)
    (one / "results").symlink_to(far)
    works("results", one)


def test_of_two_that_begin_at_once_one_goes_on(one: Path, two: Path) -> None:
    shared = str(one.parent / "shared")
    made_in.check(shared, one, CONFIG)
    made_in.check(shared, two, CONFIG)
    made_in.claim(shared, one, CONFIG)
    with pytest.raises(ConfigError, match="holds what was made in"):
        made_in.claim(shared, two, CONFIG)
    made_in.check(shared, one, CONFIG)
    assert [path.name for path in Path(shared).iterdir()] == [made_in.MARK]


def test_a_damaged_mark_is_named(one: Path) -> None:
    works("results", one)
    mark = one / "results" / made_in.MARK
    mark.write_bytes(mark.read_bytes()[:-9])
    assert f"rm '{mark}'" in refused("results", one)


def test_another_config_is_refused_where_nothing_tells_what_results_were_made_by(one: Path) -> None:
    other = made_in.config_digest({"recipes": {"default": {"k": 9}}})
    works("results", one)
    works("results", one, other)  # known to .snakemake, which finds what to make again
    works("results", one)
    shutil.rmtree(one / ".snakemake")
    told = refused("results", one, other)
    assert ".snakemake is gone" in told
    assert f"rm '{one / 'results' / made_in.MARK}'" in told
    works("results", one)


def test_where_it_is_drawn_and_run_is_not_what_decides_a_result() -> None:
    config = {"recipes": {}, "results": "results", "plots": {"width": 1}, "device": "cpu"}
    other = config | {"results": "out", "plots": {"width": 2}, "device": "cuda"}
    assert made_in.config_digest(config) == made_in.config_digest(other)
    assert made_in.config_digest(config) != made_in.config_digest(config | {"recipes": {"a": {}}})
