"""The workflow as its users run it: what a tiny study leaves, its rows, its panel, every config."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from conftest import PRESETS, SCHEMA
from families import tiny
from moediff.activations.shard_writer import TOKENS
from moediff.activations.shards import Shard
from moediff.core import artifact
from moediff.corpus.tales import tales
from moediff.corpus.tokenizer import END_OF_TEXT, train_tokenizer
from moediff.models import loading
from moediff.study import open_rows
from moediff.training.history import final_losses
from workflow import (
    DICTIONARY,
    ROOT,
    TINY,
    changed,
    planned,
    prepare,
    run,
    shard_files,
    snakemake,
)


@pytest.mark.slow
def test_a_run_leaves_numbers_tables_and_a_page(finished: Path) -> None:
    results = finished / "results"
    rows = pl.DataFrame(json.loads((results / "fve.json").read_text())["rows"])
    assert set(rows["source"]) == {"pooled", "moe.0", "dense.0"}
    assert set(rows["mode"]) == {"threshold", "batchtopk"}
    assert (rows["fve"] > rows["baseline_mean"]).all()
    pooled = rows.filter(source="pooled", mode="batchtopk", comparison="moe-dense").row(
        0, named=True
    )
    assert pooled["l0"] == pytest.approx(6, rel=0.01)
    metrics = json.loads((results / DICTIONARY / "metrics.json").read_text())
    assert sum(metrics["classes"].values()) == 96
    assert list(metrics["classes"]) == sorted(["tied", "dead", "A-only", "common", "B-only"])
    features = pl.read_parquet(results / DICTIONARY / "features.parquet")
    assert features["block"].value_counts().height == 4
    own = features.filter(block="exclusive-moe.0")
    assert (own["decoder_norm_dense.0"] == 0).all()
    assert set(own["class"]) <= {"A-only", "dead"}


@pytest.mark.slow
def test_pages_and_plots_open_offline(finished: Path) -> None:
    pages = [finished / "results/report.html", *(finished / "results/plots").glob("*.html")]
    assert len(pages) == 1 + 9
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["']https?:""", text), page
    report = (finished / "results/report.html").read_text(encoding="utf-8")
    assert "no evidence of what larger ones do" in report
    assert report.count("<svg") >= 9
    assert "Features: search, sort, read" in report


@pytest.mark.slow
def test_snakemake_makes_its_own_report(finished: Path) -> None:
    found = run(finished, "--report", "own-report.html")
    assert found.returncode == 0, found.stderr
    assert (finished / "own-report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_no_machine_path_stands_in_a_result(finished: Path) -> None:
    for path in (finished / "results").rglob("*.json"):
        assert str(finished) not in path.read_text(), path


@pytest.mark.slow
def test_rows_left_out_are_told_by_reason(finished: Path) -> None:
    about = json.loads((finished / "results/activations/moe/seed-0/fit.json").read_text())["about"]
    assert about["rows"] + sum(about["left_out"].values()) == about["tokens"]
    assert about["left_out"]["sequence_start"] > 0
    metrics = json.loads((finished / "results" / DICTIONARY / "metrics.json").read_text())
    assert about in metrics["rows"]
    report = (finished / "results/report.html").read_text(encoding="utf-8")
    assert "Rows kept and left out" in report


@pytest.mark.slow
def test_a_row_is_found_in_its_text(finished: Path) -> None:
    rows = open_rows(finished / "results", "moe", split="fit")
    table = {
        name: dict(pl.read_parquet(path).select("document", "text").iter_rows())
        for name, path in ((n, finished / f"results/corpus/{n}.parquet") for n in ("made", "own"))
    }
    tokenizer = Tokenizer.from_file(str(finished / "results/corpus/tokenizer.json"))
    tokens = rows.column("token")
    for row in range(0, rows.count, rows.count // 50):
        passage = rows.text(row, around=20)
        text = table[passage.domain][passage.document]
        assert passage.before + passage.token + passage.after in text
        assert passage.token == tokenizer.decode([int(tokens[row])])


@pytest.mark.slow
def test_several_points_are_read_in_one_pass_and_layers_share_a_crosscoder(copied: Path) -> None:
    change = {
        "activations": {"layer": [0, 1]},
        "comparisons": {
            "layers": {"each": ["moe@resid_post.0", "moe@resid_post.1"]},
            "dense": {"each": ["dense"]},
        },
    }
    before = len(shard_files(copied))
    found = changed(copied, change, "results/fve.json")
    assert found.returncode == 0, found.stderr
    assert len(shard_files(copied)) == before
    rows = pl.DataFrame(json.loads((copied / "results/fve.json").read_text())["rows"])
    layers = rows.filter(comparison="layers", mode="threshold")
    assert set(layers["source"]) == {"pooled", "moe.0@resid_post.0", "moe.0@resid_post.1"}
    assert (layers["fve"] > 0.2).all()
    assert rows.filter(comparison="dense")["member"].n_unique() == 2  # one at each point
    data = open_rows(copied / "results", "moe@resid_post.1", "dense@resid_post.0")
    assert [origin["hook"] for origin in data.origins] == ["resid_post.1", "resid_post.0"]
    assert data.sources[0][0].routed() == [0, 1]


@pytest.mark.slow
def test_a_panel_is_judged_by_every_other_labelling(copied: Path) -> None:
    change = {
        "training": {"seeds": [0, 1]},
        "models": {
            "narrow": {"like": "dense", "sees": {"domains": ["made"]}},
            "untrained": {"like": "dense", "sees": {"share": 0}, "seeds": [0]},
        },
        "comparisons": {
            "moe-dense": {"seeds": [0]},
            "moe": {"seeds": [0]},
            "panel": {"all": ["moe", "dense"], "dose": [4, 1]},
            "narrow": {"each": ["dense", "narrow"], "seeds": [0]},
            "rotated": {"each": ["moe"], "seeds": [0], "control": "rotated"},
            "permuted": {"each": ["moe", "dense"], "seeds": [0], "control": "permuted"},
        },
    }
    member = "panel/moe.0_moe.1_dense.0_dense.1"
    anchor = f"results/baselines/{member}/anchor.parquet"
    targets = ["results/panel.json", "results/classes.json", "results/report.html", anchor]
    change["detectable"] = {
        "comparisons": ["panel"],
        "shares": [0.3],
        "classes": ["quoted"],
        "tries": 2,
    }
    found = changed(copied, change, *targets)
    assert found.returncode == 0, found.stdout + found.stderr
    panels = json.loads((copied / "results/panel.json").read_text())["panels"]
    (panel,) = (one for one in panels if one["comparison"] == "panel")
    assert panel["kinds"] == {"moe": ["moe.0", "moe.1"], "dense": ["dense.0", "dense.1"]}
    (moe,) = (row for row in panel["groups"] if row["sources"] == ["moe.0", "moe.1"])
    others = {row["kind"]: row["others"] for row in panel["judged"]}
    assert others == {"moe": 5, "dense": 5, "either kind": 2}
    for row in panel["judged"]:
        if row["statistic"] == "share":
            assert row["interval"] is None  # fewer groups of documents than can be resampled
    folder = copied / f"results/dictionaries/{member}/default/seed-0"
    explained = artifact.read_parquet(folder / "explained.parquet")
    used = explained.select(pl.sum_horizontal(pl.selectors.starts_with("used_"))).to_series()
    assert used.value_counts(sort=True).height > 1
    assert sum(panel["features_by_users"][1:]) == (used > 0).sum()
    every = next(row for row in panel["groups"] if len(row["sources"]) == 4)
    assert every["features"] == (used == 4).sum()
    panels = json.loads((copied / "results/kinds.json").read_text())["panels"]
    (graded,) = (one for one in panels if one["comparison"] == "panel")
    assert graded["sources"] == ["moe.0", "moe.1", "dense.0", "dense.1"]
    assert len(graded["values"]["r2"]) == 3
    (dosed,) = json.loads((copied / "results/kinds.json").read_text())["trends"]
    assert [(row["kind"], row["dose"]) for row in dosed["rows"]] == [("dense", 1), ("moe", 4)]
    assert dosed["judged"]["p"] >= 1 / 10_000
    by_statistic = {row["statistic"]: row for row in graded["detectable"]}
    assert by_statistic["r2"]["smallest_p"] == pytest.approx(1 / 3)  # no p can be small enough
    assert by_statistic["r2"]["least"] is None
    tries = json.loads((folder / "detectable.json").read_text())["tries"]
    assert len(tries) == 2
    assert all(0.005 < one["frequency"] < 0.9 and len(one["planted"]) == 2 for one in tries)
    counted = json.loads((copied / "results/classes.json").read_text())
    rows = counted["rows"]
    assert sum(row["count"] for row in rows if row["member"] == "moe.0_dense.0") == 96
    rates = {row["control"]: row["exclusive"] for row in counted["error_rates"]}
    assert set(rates) == {"rotated", "permuted"}
    assert rates["rotated"] < rates["permuted"]
    ends = {
        name: final_losses(artifact.read_parquet(path))["all"]
        for name in ("dense", "narrow", "untrained")
        for path in [copied / f"results/models/{name}/seed-0/history.parquet"]
    }
    assert ends["dense"] < ends["narrow"] < ends["untrained"] - 0.5  # all text, half of it, none
    table = artifact.read_parquet(copied / anchor)
    assert len(table) == 12
    assert (table["r2"] < 1).all()
    page = (copied / "results/report.html").read_text()
    assert "against all other labels" in page
    assert "Kinds among all splits of the models" in page
    judged = json.loads((copied / "results/claims.json").read_text())
    claims = {row["id"]: row for row in judged["claims"]}
    share = claims["panel_moe_only"]
    assert share["estimate"] == pytest.approx(moe["share"])
    assert share["null"]["labellings"] == 5
    loss = json.loads((folder / "panel_loss.json").read_text())
    if loss["judged"]:  # models barely trained may lose nothing by it
        (lost,) = (row for row in loss["groups"] if row["sources"] == ["moe.0", "moe.1"])
        assert claims["panel_moe_only_loss"]["estimate"] == pytest.approx(lost["share"])
    assert claims["fve_level"]["estimate"] < 1
    analyses = {(row["A"], row["B"]): row["pairs"] for row in judged["sensitivity"]}
    assert analyses == {("moe", "dense"): 1, ("dense", "narrow"): 1}
    assert {row["verdict"] for row in claims.values()} == {"no verdict", "not measured"}
    assert judged["exploratory"] is None  # the run noted its claims before it measured anything
    assert any("do not beat the trigram" in reason for reason in judged["withheld"])
    assert any("not the primary analysis" in reason for reason in judged["withheld"])
    pair = "results/dictionaries/moe-dense/moe.0_dense.0/default/seed-0"
    assert "nu_error" in artifact.read_parquet(copied / pair / "features.parquet").columns
    assert set(panel["early"]) == set(panel["end"]) == {"all", "moe", "dense"}
    assert panel["end"]["all"] == every["features"]
    wrong = changed(copied, change, "-n", f"{pair}/panel.json")
    assert wrong.returncode != 0
    assert "a panel has several models of each of two kinds" in wrong.stdout + wrong.stderr


@pytest.mark.slow
def test_models_are_run_again_with_parts_replaced_or_masked(copied: Path) -> None:
    change = {"activations": {"hook": "mlp_out", "layer": 0}, "reruns": {"sequences": 20}}
    folder = f"results/{DICTIONARY}"
    tables = ["splicing", *(f"experts/moe.0/{name}" for name in ("affinity", "masked", "written"))]
    found = changed(copied, change, *(f"{folder}/{name}.parquet" for name in tables))
    assert found.returncode == 0, found.stdout + found.stderr
    splicing, affinity, masked, written = (
        artifact.read_parquet(copied / folder / f"{name}.parquet") for name in tables
    )
    whole = splicing.filter(domain="all", kind="spliced")
    assert whole["source"].to_list() == ["moe.0", "moe.0", "dense.0"]
    assert whole["routing"].to_list() == ["live", "frozen", "live"]
    assert (whole["recovered_zero"] < 1).all()
    assert {"clean", "zero", "mean", "without common"} <= set(splicing["kind"])
    assert affinity["layer"].unique().to_list() == [0]
    assert len(affinity) == 96
    named = affinity.drop_nulls("expert").height
    assert 0 < len(masked) == named
    seen = written.filter(pl.col("fired") > 0).select(
        pl.exclude("feature", "fired", "pre_activation")
    )
    np.testing.assert_allclose(seen.sum_horizontal(), 1, atol=1e-6)
    wrong = f"{folder}/experts/dense.0/affinity.parquet"
    assert "no experts are stored" in changed(copied, change, wrong).stderr


def write_checkpoint(folder: Path, family: str, entries: int, texts: list[str]) -> str:
    """A tiny random model with a tokenizer of its own, as a local folder."""
    tokenizer = train_tokenizer(iter(texts), entries)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    whole.save_pretrained(folder)
    model = tiny(family)
    model.resize_token_embeddings(entries)
    loading.save(model, folder)
    return str(folder)


@pytest.mark.slow
def test_models_of_two_tokenizers_meet_where_their_tokens_end(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "study")
    texts = list(itertools.islice(tales(3), 80))
    one = write_checkpoint(tmp_path / "one", "olmoe", 400, texts)
    two = write_checkpoint(tmp_path / "two", "llama", 900, texts[::2])
    config = {key: TINY[key] for key in ("recipes",)} | {
        "corpus": TINY["corpus"] | {"tokenizer": {"load": one}},
        "models": {"one": {"load": one}, "two": {"load": two, "tokenizer": "own"}},
        "comparisons": {"pair": {"each": ["one", "two"]}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = run(folder, "results/fve.json", "results/report.html")
    assert found.returncode == 0, found.stderr
    rows = open_rows(folder / "results", "one", "two", split="fit")
    table = {
        name: dict(pl.read_parquet(folder / f"results/corpus/{name}.parquet")
                   .select("document", "text").iter_rows())
        for name in ("made", "own")
    }  # fmt: skip
    spelt = [Tokenizer.from_file(f"{place}/tokenizer.json") for place in (one, two)]
    chunk = rows.chunks[0]
    columns = {
        source: {
            n: rows.column_of(chunk, n, source) for n in ("token", "document", "domain", "end")
        }
        for source in (0, 1)
    }
    for name in ("document", "domain", "end"):
        np.testing.assert_array_equal(columns[0][name], columns[1][name])
    assert (columns[0]["token"] != columns[1]["token"]).mean() > 0.5
    for row in range(0, chunk.size, 97):  # both have read the text up to this very character
        place = {name: int(columns[0][name][row]) for name in ("document", "domain", "end")}
        text = table[rows.domains[place["domain"]]][f"{place['document']:015x}"]
        for source in (0, 1):
            token = spelt[source].decode([int(columns[source]["token"][row])])
            assert text[: place["end"]].endswith(token)
    about = json.loads((folder / "results/activations/two/seed-0/fit.json").read_text())["about"]
    alignment = about["alignment"]
    assert 0.3 < alignment["share_kept"] < 1
    assert alignment["word_ends_kept"] > alignment["word_ends"]
    assert about["left_out"]["unaligned"] > 0
    assert "word ends kept" in (folder / "results/report.html").read_text(encoding="utf-8")


# --- external activations ---


def write_rows(study: Path, folder: Path, model: str) -> dict:
    """The rows of a finished model as plain safetensors files, and the setting that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (study / "results/activations" / model).rglob("*.zarr.zip"):
        shard = Shard(path)
        written = np.argsort(shard.order())
        arrays = {name: shard.read(name)[written] for name in (*TOKENS, "group")}
        name = f"{model}-{path.parent.name}-{path.name.split('.')[0]}.safetensors"
        save_file(
            arrays | {"activations": shard.rows(0, shard.count).numpy()[written]}, folder / name
        )
    return {
        split: f"{folder.name}/{model}-{split}-*.safetensors" for split in ("fit", "validation")
    }


@pytest.mark.slow
def test_external_rows_alone_give_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    rows = {model: write_rows(finished, tmp_path / "acts", model) for model in ("moe", "dense")}
    config = {key: TINY[key] for key in ("recipes", "comparisons")}
    config["models"] = {
        model: {"rows": named | {"domains": ["made", "own"]}} for model, named in rows.items()
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = run(tmp_path, "all", "results/budget.json")
    assert found.returncode == 0, found.stderr
    results = tmp_path / "results"
    own, theirs = (
        json.loads((folder / "results/fve.json").read_text())["rows"]
        for folder in (finished, tmp_path)
    )
    assert len(own) == len(theirs) == 10
    for mine, other in zip(own, theirs, strict=True):
        assert other == {
            key: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            for key, value in mine.items()
        }
    assert not (results / "corpus").exists()
    assert not (results / "models").exists()
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "acts/moe-fit-*.safetensors" in page
    assert "written by other code" in page
    assert "Cross-entropy" not in page
    assert planned(tmp_path) == {}
    edited = sorted((tmp_path / "acts").glob("dense-fit-*"))[1]
    edited.write_bytes(edited.read_bytes()[:-2] + b"ab")
    found = planned(tmp_path)
    assert found["external_store"] == 1
    assert "external_measure" not in found


@pytest.mark.slow
def test_external_rows_join_a_model_of_ours_only_in_its_order(copied: Path) -> None:
    change = {
        "models": {"theirs": {"rows": write_rows(copied, copied / "acts", "dense")}},
        "comparisons": {"mixed": {"each": ["moe", "theirs"]}},
    }
    found = changed(copied, change, "results/fve.json")
    assert found.returncode == 0, found.stderr
    rows = pl.DataFrame(json.loads((copied / "results/fve.json").read_text())["rows"])
    numbers = {
        name: rows.filter(comparison=name, source="pooled").sort("mode")["fve"].to_list()
        for name in ("moe-dense", "mixed")
    }
    assert numbers["mixed"] == pytest.approx(numbers["moe-dense"], abs=1e-6)
    path = copied / "acts/dense-validation-00000.safetensors"
    backwards = {name: array[::-1].copy() for name, array in load_file(path).items()}
    save_file(backwards, path)
    found = changed(copied, change, "results/fve.json")
    assert found.returncode != 0
    (line,) = (line for line in found.stderr.splitlines() if "error in" in line)
    assert "hold different tokens (token of row 0: " in line
    assert "write both from the same rows in the same order" in line


# --- every config, the format ---


def parsed(*files: Path) -> dict:
    from snakemake.utils import update_config

    from moediff.config.complete import complete

    config: dict = {}
    for file in files:
        update_config(config, yaml.safe_load(file.read_text(encoding="utf-8")))
    return complete(config, SCHEMA, PRESETS)


def test_a_named_config_stands_alone_and_two_merge(tmp_path: Path) -> None:
    paper = ROOT / "config/paper.yaml"
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"recipes": {"extra": {"k": 3}}}))
    found = snakemake(tmp_path, "-n", "results/paper/fve.json", "--configfile", str(paper))
    assert found.returncode == 0, found.stderr
    text = found.stdout + found.stderr
    domains = set(re.findall(r"corpus/(\w+)\.parquet", text))
    assert domains == {"arxiv", "code", "stories"} == set(parsed(paper)["corpus"]["domains"])
    fits = set(re.findall(r"dictionaries/[\w-]+/[\w.]+/([\w-]+)/", text))
    assert fits == {"paper-k50", "paper-k100", "paper-k300", "sae-k100"}
    merged = parsed(paper, tmp_path / "more.yaml")
    assert set(merged["recipes"]) == {*fits, "extra"}


def test_the_other_configs_dry_run(tmp_path: Path) -> None:
    assert snakemake(tmp_path, "-n").returncode == 0
    (tmp_path / "text").mkdir()
    for name in ("code", "science", "stories"):
        pl.DataFrame({"text": ["a"], "source": ["b"]}).write_parquet(
            tmp_path / f"text/{name}.parquet"
        )
    for name in ("local-text", "study"):
        target, config = f"results/{name}/report.html", str(ROOT / f"config/{name}.yaml")
        found = snakemake(tmp_path, "-n", target, "--configfile", config)
        assert found.returncode == 0, found.stderr


def test_lint_and_format() -> None:
    found = snakemake(ROOT, "--lint")
    assert found.returncode == 0, found.stderr
    subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"], check=True, cwd=ROOT
    )
