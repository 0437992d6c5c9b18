"""MoE Lens of the tiny study's MoE: every job after those that it needs, and what its files say together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import AutoModelForCausalLM

from moediff.analysis.reruns import Pass, Text
from moediff.core import artifact
from moediff.core.terms import ALL
from moediff.corpus.token_shards import read_token_shard
from moediff.study import expert_lens, open_routing
from snake import Study
from workflow import DICTIONARY

OF_MOE = "results/experts/moe/seed-0"
OF_SOURCE = f"results/{DICTIONARY}/experts/moe.0"
FILES = [
    f"{OF_MOE}/routing.json", f"{OF_MOE}/lens.parquet", f"{OF_MOE}/fewer_experts.parquet",
    f"{OF_MOE}/usage.parquet", f"{OF_MOE}/prune.parquet", f"{OF_MOE}/text.html",
    "results/pruned/moe/seed-0/reap-0.5/model.safetensors",
    "results/routing.json", "results/expert_lens.json", "results/fewer_experts.json", "results/prune.json",
    "results/expert_claims.json",
    f"{OF_SOURCE}/by_class.json", f"{OF_SOURCE}/pruned.parquet", "results/plots/pruning.svg",
]  # fmt: skip


@pytest.mark.slow
def test_the_jobs_of_moe_lens_follow_each_other(copied: Path) -> None:
    study, results = Study(copied), copied / "results"
    for name in FILES:
        study.job(name).run()
    # Stored routing, and the passes of the model, are of one and the same MoE.
    routed, lens = open_routing(results, "moe"), expert_lens(results, "moe")
    assert sorted(routed.layers) == sorted(lens["layer"].unique())
    rows = artifact.read_json(results / "routing.json")["rows"]
    assert {(row["layer"], row["domain"]) for row in rows} == {
        (layer, domain) for layer in routed.layers for domain in (ALL, *routed.domains)
    }
    for row in rows:
        experts = routed.layers[row["layer"]][0]
        here = np.ones(len(experts), bool)
        if row["domain"] != ALL:
            here = routed.domain == list(routed.domains).index(row["domain"])
        uses = np.bincount(experts[here].ravel(), minlength=routed.count)
        assert row["busiest_share"] == pytest.approx(uses.max() / here.sum())
    # The checkpoint of plain transformers has the perplexity that the table says.
    table = pl.DataFrame(
        artifact.read_json(results / "prune.json")["rows"], infer_schema_length=None
    )
    smaller = AutoModelForCausalLM.from_pretrained(results / "pruned/moe/seed-0/reap-0.5")
    params = study.job(f"{OF_MOE}/prune.parquet").snakemake.params
    shard = read_token_shard(results / "corpus/validation/00000.h5")
    run = Pass(smaller, Text(shard), slice(0, params.sequences), params.across)
    said = table.filter(
        (pl.col("chosen_on") == ALL) & (pl.col("score") == "reap") & (pl.col("keep") == 0.5)
        & (pl.col("domain") == ALL)
    )  # fmt: skip
    assert said["tokens"].to_list() == [len(run.losses())]
    assert said["cross_entropy"].to_list() == [pytest.approx(run.losses().mean(), abs=1e-5)]
    assert "46,432 of 58,848 parameters are left" in (
        results / "pruned/moe/seed-0/reap-0.5/README.md"
    ).read_text(encoding="utf-8")
    # The model as it is has one loss in every table.
    fewer = artifact.read_parquet(results / "experts/moe/seed-0/fewer_experts.parquet")
    assert fewer["cross_entropy"][0] == table.filter(pl.col("score").is_null())["cross_entropy"][0]
    # One seed has no interval, and this model beats no trigram.
    judged = artifact.read_json(results / "expert_claims.json")
    plain = lens.filter((pl.col("domain") == ALL) & (pl.col("weights") == "routed"))
    beside = plain.filter(
        (pl.col("term") == "heaviest") & (pl.col("experts") == 1) & (pl.col("stream") == "stream")
    )
    found = {row["metric"]: row["estimate"] for row in judged["claims"]}
    assert found["top1_cosine_with_stream"] == pytest.approx(beside["cosine"].max())
    assert found["one_expert_cost"] == fewer.filter(pl.col("k") == 1)["cost"][0]
    assert judged["losses"] == {"moe/seed-0": fewer["cross_entropy"][0]}
    assert {row["verdict"] for row in judged["claims"]} == {"no verdict", "not measured"}
