"""Every number of docs/study.md: made again from docs/reference and the configs, or named no measurement."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import first_study  # noqa: F401  # its parts
from crossed_study import COMPARED, KINDS, compared, in_order, panels, value
from moediff.analysis import kinds
from moediff.models.build import build
from moediff.models.parameters import count_parameters
from stored import stored
from told import PARTS, Document, Part, part
from workflow import ROOT

PAGE = ROOT / "docs/study.md"


@pytest.mark.parametrize("comparison", [*COMPARED, "matched"])
def test_what_is_stored_of_a_panel_is_what_today_s_code_says(comparison: str) -> None:
    for found in panels(comparison):
        table = pl.read_parquet(KINDS / f"explained/{comparison}/seed-{found['seed']}.parquet")
        names = [name.removeprefix("explained_") for name in table.columns[1:]]
        again = kinds.graded_usage(table.drop("feature").to_numpy(), names, in_order(found))
        np.testing.assert_allclose(again["values"]["r2"], found["values"]["r2"], rtol=1e-9)
        for row, old in zip(again["judged"], found["judged"], strict=True):
            assert (row["statistic"], row["p"]) == (old["statistic"], old["p"])
            assert row["observed"] == pytest.approx(old["observed"])


def test_what_is_stored_of_other_recipes_and_of_rows_follows_from_their_distances() -> None:
    for found in stored(KINDS, "kinds")["panels"]:
        for one in (found, *found.get("without_dictionary", [])):
            again = kinds.graded(np.array(one["squared_distances"]), in_order(found))
            for row in again["judged"]:
                assert row["p"] == value(one, row["statistic"], "p")
                assert row["observed"] == pytest.approx(value(one, row["statistic"]))


@part
def sizes_are_those_of_the_configs(study: Document) -> None:
    config = {
        name: yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
        for name in ("study", "kinds")
    }
    first, second = config["study"], config["kinds"]
    tokens, recipe = first["corpus"]["tokens"], first["recipes"]["default"]
    dense, moe = (first["models"][name]["train"] for name in ("dense", "moe"))
    early = first["models"]["moe-early"]["sees"]["share"] * tokens["train"]
    paper = first["recipes"]["paper"]
    of_second = {"experts": 1, "top_k": 1, "renormalise": False} | second["models"]["dense"][
        "train"
    ]
    with torch.device("meta"):
        active = count_parameters(build(of_second, 2048, 256, 0, 0)).active
    steps = pl.read_parquet(KINDS / "losses.parquet")["step"].max()
    assert first["training"]["peak_lr"] == [0.003, 0.006]
    assert second["training"]["peak_lr"] == 0.003
    assert second["models"]["dense-fast"]["training"]["peak_lr"] == 0.006
    study.says(
        f"| width, layers | {dense['d_model']}, {dense['layers']} |",
        f"| {moe['experts']} experts of {moe['ffn']}, two active, against a feed-forward of "
        f"{dense['ffn']}: ",
        f"| training tokens | {tokens['train'] / 1e6:.2f}M a model ({early / 1e6:.2f}M of the MoEs of "
        "fewer)",
        f"| {len(first['training']['seeds'])} + 4 seeds, the better of two peak rates each (all MoEs "
        "0.006, "
        "dense ones 0.003)",
        f"| features, k | {recipe['features']:,} ({recipe['features'] // dense['d_model']} times the "
        "width), "
        f"{recipe['k']} |",
        f"| rows to fit | {recipe['rows'] / 1e6:.0f}M, {recipe['rows'] / tokens['fit']:.0f} times over "
        f"{tokens['fit'] / 1e6:.2f}M |",
        f"(k {paper['k']}, {paper['rows'] / 1e6:.1f}M rows, batches of {paper['batch']})",
        "all MoEs were trained at 0.006, all dense models at 0.003",
        "at a peak rate of 0.003 and as many at 0.006",
        "MoEs of 2, 4 and 16 experts",
        f"a width of {of_second['d_model']}, {of_second['layers']} layers, about {active / 1e6:.2f}M "
        "active "
        f"parameters and a vocabulary of {second['corpus']['tokenizer']['train']:,}, the MoEs "
        f"{second['models']['moe']['train']['experts']} experts of which a token uses two, and "
        f"{second['corpus']['tokens']['train'] / 1e6:.2f}M tokens to learn from, in {steps:,} steps; "
        "rows are "
        "the residual stream after layer 2 of layers 0 to 3",
    )
    vocabulary = first["corpus"].get("tokenizer", {}).get("train", 4096)  # the schema's default
    sizes = {}
    for name, train in {"dense": {"experts": 1, "top_k": 1} | dense, "moe": dense | moe}.items():
        settings = {"renormalise": False} | train
        with torch.device("meta"):
            sizes[name] = count_parameters(build(settings, vocabulary, 256, 0, 0))
    study.says(
        f"{sizes['moe'].active / 1e6:.2f}M and {sizes['dense'].active / 1e6:.2f}M active parameters, "
        f"{sizes['moe'].total / 1e6:.1f}M and {sizes['dense'].total / 1e6:.1f}M in all",
        f"a BPE of {vocabulary:,} trained on it",
    )


NO_MEASUREMENT = (
    # Of the paper and of the text: where they are from.
    "2603.05805",
    "| 768, 5 |",
    "| 8 experts, two active, equal active size |",
    "GPT-2's",
    "about 1B, twice",
    "| 1 + 1 |",
    "cuts at 150 tokens",
    "24,576 (32 times); k is not stated, 300 in its code",
    "82M, 3 times over 26M",
    "code of 36 public repositories",
    "(CC BY 4.0)",
    "(CC0)",
    "from 1927 or earlier",
    # Rules and arithmetic, which hold whatever is measured.
    "at least 0.2 of an equal part, which with eight models is 0.2 / 8 = 2.5 %",
    "less than 10 % of the sum and the MoEs more than 90 %",
    "is at 4.2 % in each dense model",
    "relative decoder norm is below 0.3 or above 0.7",
    "95 % interval",
    "256 tokens, packed",
    "Tied cosines are 1 by construction",
    "the two experts chosen in layer 2",
    "that layer 2 has just written to",
    "zero has no interval; and version 4 asks",
)


@pytest.mark.parametrize("check", PARTS, ids=lambda check: check.__name__)
def test_a_part_of_the_document_says_what_is_stored(check: Part) -> None:
    check(Document(PAGE))


def test_no_number_of_the_document_is_left_over() -> None:
    page = Document(PAGE)
    for check in PARTS:
        check(page)
    page.says(*NO_MEASUREMENT)
    assert page.untold() == []


def test_the_readme_has_the_table_of_the_second_study() -> None:
    readme = Document(ROOT / "README.md")
    for comparison in COMPARED:
        least = {
            row["least"] is None and row["largest_tried"]
            for row in panels(comparison)[0]["detectable"]
        }
        told = {frozenset(): "not tried", frozenset({0.03}): "not up to 3 %"}[frozenset(least)]
        readme.says(f"{compared(comparison)} {told} |")
