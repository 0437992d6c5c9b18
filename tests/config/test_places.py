"""Places that a config names: the results folder, what globs match, checkpoints, the interpreter."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from configured import changed, completed
from conftest import PRESETS, SCHEMA
from moediff.config import complete, corpus, locks, places, rows
from moediff.core.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    (folder / "own").mkdir(parents=True)
    (folder / "own/a.txt").write_text("a")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("results", "results"), ("./out", "out"), ("out/", "out"), ("a/.././out//x/", "out/x"),
        ("../beside", "../beside"), ("/abs/./path/", "/abs/path"), ("~/out", "{home}/out"),
        ("my results (v1) 'q'", "my results (v1) 'q'"), ("résultats", "résultats"), ("own/deep", "own/deep"),
    ],
)  # fmt: skip
def test_results_have_one_spelling(tmp_path: Path, given: str, found: str) -> None:
    whole = completed({"results": given})
    assert whole["results"] == found.replace("{home}", str(tmp_path / "home"))
    assert complete.complete(whole, SCHEMA, PRESETS) == whole


@pytest.mark.parametrize(
    "given",
    ["", " ", "out ", " out", "out{1}", "{seed}", "a*", "a?", "out[1]", "a\nb", "a\x1b[31m", "a\x7f", "a\0b",
     "\u202eout", ".", "./", "..", "/", "own/..", "own/a.txt", "own/a.txt/deep", "-x", "~nobody_here/out"],
)  # fmt: skip
def test_a_place_that_cannot_hold_results_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^results: ") as caught:
        completed({"results": given})
    assert str(caught.value).isprintable()


def test_a_home_is_written_out_wherever_files_are_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "ck").mkdir(parents=True)
    for name in ("a.txt", "f.safetensors", "v.safetensors"):
        (home / name).touch()
    whole = completed(
        {
            "corpus": {
                "domains": {"code!": {"source": "files", "paths": ["~/*.txt"]}},
                "tokenizer!": {"load": "~/ck"},
            },
            "models": {
                "ck": {"load": "~/ck"},
                "theirs": {"rows": {"fit": ["~/f.*"], "validation": "~/v.*"}},
            },
        }
    )
    assert corpus.text_files(whole, "code") == [f"{home}/a.txt"]
    assert rows.row_paths(whole, "theirs", "fit") == [f"{home}/f.safetensors"]
    assert rows.row_paths(whole, "theirs", "validation") == [f"{home}/v.safetensors"]
    assert whole["models"]["ck"]["load"] == whole["corpus"]["tokenizer"]["load"] == f"{home}/ck"
    with pytest.raises(ConfigError, match=r"^models\.ck\.load: '~nobody_here/x': no user"):
        completed({"models": {"ck": {"load": "~nobody_here/x", "tokenizer": "own"}}})


# --- what the project itself wrote ---------------------------------------------------------------


def reads(*paths: str, results: str = "results") -> dict:
    source = {"source": "files", "paths": list(paths)}
    return changed({"results": results, "corpus": {"domains": {"code!": source}}})


def text_of(config: dict) -> list[str]:
    return corpus.text_files(complete.complete(config, SCHEMA, PRESETS), "code")


@pytest.mark.parametrize("results", ["results", "./results/", "{here}/results", "own/results"])
def test_a_glob_does_not_match_the_projects_own_results(here: Path, results: str) -> None:
    results = results.replace("{here}", str(here))
    Path(results, "corpus").mkdir(parents=True)
    Path(results, "corpus/mine.txt").touch()
    assert text_of(reads("**/*.txt", results=results)) == ["own/a.txt"]
    assert text_of(reads("./own/*.txt", results=results)) == ["./own/a.txt"]
    with pytest.raises(ConfigError, match="matches only this project's own"):
        text_of(reads(f"{results}/corpus/*.txt", results=results))


def test_results_behind_a_link_are_still_its_own(here: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/corpus").mkdir(parents=True)
    (tmp_path / "disk/corpus/mine.txt").touch()
    Path("results").symlink_to(tmp_path / "disk")
    assert text_of(reads("own/*.txt", "**/*.txt")) == ["own/a.txt", "own/a.txt"]
    with pytest.raises(ConfigError, match="matches only"):
        text_of(reads(f"{tmp_path}/disk/**/*.txt"))


def test_rows_and_checkpoints_are_none_of_its_own_results() -> None:
    Path("results/models/dense/seed-0").mkdir(parents=True)
    Path("results/acts.safetensors").touch()
    with pytest.raises(ConfigError, match=r"^models\.theirs\.rows\.fit: .* matches only"):
        completed({"models": {"theirs": {"rows": {"fit": "results/*", "validation": "results/*"}}}})
    load = {"load": "results/models/dense/seed-0"}
    with pytest.raises(ConfigError, match=r"^models\.ck\.load: .* own results/"):
        completed({"models": {"ck": load | {"tokenizer": "own"}}})
    with pytest.raises(ConfigError, match=r"^corpus\.tokenizer\.load: .* own results/"):
        completed({"corpus": {"tokenizer!": load}})


def test_rows_of_one_file_by_two_spellings_count_once() -> None:
    for name in ("f", "v"):
        Path(f"own/{name}.safetensors").touch()
    fit = ["own/f.safetensors", "./own/f.safetensors"]
    with pytest.raises(ConfigError, match="named twice"):
        completed({"models": {"theirs": {"rows": {"fit": fit, "validation": "own/v.*"}}}})


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"{domain}.txt", "braces"), (b"a{x}{y}.txt", "braces"), (b"latin-\xe9.txt", "not UTF-8")],
)
def test_a_file_that_snakemake_takes_for_another_is_refused(name: bytes, said: str) -> None:
    Path(os.fsdecode(b"own/" + name)).touch()
    with pytest.raises(ConfigError, match=r"^corpus\.domains\.code\.paths: ") as caught:
        text_of(reads("own/*.txt"))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


# --- checkpoints ---------------------------------------------------------------------------------


def loaded(place: str) -> dict:
    return completed({"models": {"ck": {"load": place, "tokenizer": "own"}}})


@pytest.mark.parametrize("place", ["gpt2", "allenai/OLMoE-1B-7B-0924", "org/v1.5_x"])
def test_what_can_be_a_hub_id_is_not_asked_for_here(place: str) -> None:
    assert loaded(place)["models"]["ck"]["load"] == place


@pytest.mark.parametrize(
    "place", ["/no/folder", "a/b/c", "a b", "{x}", "./none", "x" * 5000 + "/a/b"]
)
def test_what_is_neither_here_nor_a_hub_id_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"^models\.ck\.load: there is no folder"):
        loaded(place)


@pytest.mark.parametrize(
    "content",
    [
        b"[1]", b"null", b"{", b'{"n_layer": 2, "name": "caf\xe9"}', b"[" * 100_000, b"1" * 5000,
        b'{"num_hidden_layers": "12"}', b'{"num_hidden_layers": NaN}', b'{"num_hidden_layers": [2]}',
        b'{"num_hidden_layers": true}', b'{"num_hidden_layers": 0}', b'{"num_hidden_layers": -1}',
        b'{"num_hidden_layers": 1000000000}', b'{"num_hidden_layers": 2.0}', b'{"n_layer": {}}',
        b'{"text_config": [1]}', b'{"text_config": "x"}', b'{"text_config": {"num_hidden_layers": "2"}}',
    ],
)  # fmt: skip
def test_a_checkpoint_whose_config_says_nonsense_is_one_line(content: bytes) -> None:
    Path("ck").mkdir()
    Path("ck/config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^models\.ck\.load: ck/config\.json ") as caught:
        loaded("ck")
    assert len(str(caught.value)) < 300


def test_a_config_of_a_checkpoint_that_cannot_be_read_is_one_line() -> None:
    Path("ck/config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"^models\.ck\.load: ck/config\.json cannot be read"):
        loaded("ck")


@pytest.mark.parametrize(
    "facts",
    [{"text_config": None, "n_layer": 2}, {"text_config": {}, "n_layer": 2}, {"n_layer": 2},
     {"num_hidden_layers": None, "n_layer": 2}, {"model_type": "other"}],
)  # fmt: skip
def test_a_checkpoint_that_leaves_its_text_part_out_is_read_at_the_top(facts: dict) -> None:
    from moediff.config.models import layer_count

    Path("ck").mkdir()
    Path("ck/config.json").write_text(json.dumps(facts))
    assert layer_count(loaded("ck"), "ck") == facts.get("n_layer")


# --- interpreter and lock ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/home/a b/bin/python", "/it's/python", "/a(1)/python", "/$x/python"]
)
def test_a_python_that_snakemake_cannot_start_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"Python's path .* make \.venv in another folder"):
        places.check_interpreter(path)


def test_a_plain_python_is_let_pass() -> None:
    places.check_interpreter("/opt/py-3.11_x/bin/python3.11")


def test_a_lock_says_the_command_that_removes_it(here: Path) -> None:
    arguments = ["snakemake", "out/fve.json", "--configfile", "my config.yaml"]
    assert locks.left_behind(here / ".snakemake", arguments) == ""
    (here / ".snakemake/locks").mkdir(parents=True)
    assert locks.left_behind(here / ".snakemake", arguments) == ""
    (here / ".snakemake/locks/0.input.lock").write_text("own/a.txt\n")
    said = locks.left_behind(here / ".snakemake", arguments)
    assert said.count("\n") == 1
    command = shlex.split(said.rpartition(": ")[2])
    assert command[1:] == ["-m", *arguments, "--unlock"]
    assert locks.left_behind(here / ".snakemake", [*arguments, "--unlock"]) == ""
