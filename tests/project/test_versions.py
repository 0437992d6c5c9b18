"""A stage whose output changes raises its number in config.STAGE_VERSIONS, or this test fails.

After a change that was meant: raise the number, then run
MOEDIFF_GOLDEN=write pytest tests/project/test_versions.py, which leaves all other stages as they stand
"""

from __future__ import annotations

import ast
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import golden
import golden_world
from conftest import DENSE, MOE, PLAN, RECIPE, cached
from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import measure
from moediff.analysis.features import feature_table
from moediff.config.versions import STAGE_PARTS, STAGE_VERSIONS
from moediff.core import artifact
from moediff.corpus import ngrams, sources, token_shards
from moediff.corpus.tales import tales
from moediff.corpus.tokenizer import train_tokenizer
from moediff.dictionaries.fitting import fit
from moediff.dictionaries.principal_components import principal_components
from moediff.models import build
from moediff.training import loop
from packed import pack
from workflow import ROOT

GOLDEN = ROOT / "tests/golden.json"
CPU = torch.device("cpu")


def summary(values: object) -> float:
    """A number that any change of consequence moves."""
    array = np.asarray(values, np.float64).ravel()
    return float((array * np.cos(np.arange(array.size))).sum())


def outcomes(folder: Path, token_shard) -> dict[str, object]:
    """A digest where a stage is exact on every machine, else a few numbers."""
    found: dict[str, object] = {}
    (folder / "text").mkdir()
    for number, text in enumerate(itertools.islice(tales(3), 60)):
        (folder / "text" / f"{number}.txt").write_text(text, encoding="utf-8")
    pattern = str(folder / "text" / "*.txt")
    settings = {"source": "files", "paths": [pattern], "column": "text", "group": None,
                "group_pattern": None}  # fmt: skip
    table = pl.concat(sources.documents("made", settings, {"fit": 0.3, "validation": 0.2}, None))
    name = pl.col("group").str.split("/").list.last()  # without the test's folder
    table = table.with_columns(pl.lit("train").alias("split"), name)
    found["documents"] = artifact.digest(table["document"].to_list())
    tokenizer = train_tokenizer(table["text"], 300)
    found["tokenizer"] = artifact.digest(sorted(tokenizer.get_vocab().items()))
    corpus = folder / "made.parquet"
    artifact.write_parquet(corpus, table, {"format": artifact.FORMAT})
    packed = pack({"made": corpus}, {"made": 1}, tokenizer, 0, "train", 20, 32, 0)
    found["token_shards"] = artifact.digest(
        *(packed[name] for name in ("tokens", "document", "group"))
    )

    shard = token_shard(sequences=40)
    split = token_shards.TokenSplit([shard])
    rows = ngrams.ngram_losses(split, split, 64)
    found["ngrams"] = [row["cross_entropy"] for row in rows]
    losses, kept = [], {}
    for name, shape in (("dense", DENSE), ("moe", MOE)):
        model = build.build(shape, 64, 64, 0, 0)
        history = loop.train(model, PLAN, split, split, folder / name, CPU)
        losses += history.filter(name="cross_entropy")["value"].to_list()
        kept[name] = model.eval()
    found["models"] = losses
    paths, sums = [], []
    for name, model in kept.items():
        path = folder / f"{name}.zarr.zip"
        stored = cached(model, token_shards.read_token_shard(shard), path, chunk_rows=200)
        paths.append([path])
        sums.append(summary(stored.rows(0, 500)))
        sums += [summary(stored.read(f"gates.{layer}")) for layer in stored.routed()]
    found["activations"] = sums
    data = AlignedRows(paths)
    baseline = principal_components(data)
    found["baselines"] = baseline.variances[:8].tolist()
    recipe = RECIPE | {"features": 48, "k": 4, "rows": 60 * 128, "batch": 128, "tied": 6,
                       "exclusive": 3, "threshold_rows": 200}  # fmt: skip
    dictionary, history = fit(data, recipe, 0, folder / "state", CPU)
    found["dictionaries"] = [*history["fve"][::10], float(dictionary.threshold[0])]
    measured = measure(dictionary, baseline, data, ["moe", "dense"], recipe, CPU)
    table = feature_table(dictionary, measured, ["moe", "dense"], data.domains, 1, (0.3, 0.7))
    found["metrics"] = [
        *measured.fve.values(), *measured.l0.values(), *(float(n) for n in table["relative_norm"]),
    ]  # fmt: skip
    rows = AlignedRows(paths[::-1])
    models = {name: kept[name] for name in ("moe", "dense")}
    small = golden_world.Small(models, token_shards.read_token_shard(shard), rows, folder)
    return found | golden.outcomes(small)


def same(value: object, wanted: object) -> bool:
    """Texts are equal and numbers near, in lists too."""
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(value, float) and isinstance(wanted, int | float):
        return value == pytest.approx(wanted, rel=2e-2, abs=2e-2)
    return value == wanted


def test_outputs_change_only_with_their_version(tmp_path: Path, token_shard) -> None:
    found = outcomes(tmp_path, token_shard)
    golden_file = json.loads(GOLDEN.read_text())
    versions, wanted = golden_file["versions"], golden_file["outcomes"]
    if os.environ.get("MOEDIFF_GOLDEN") == "write":  # of stages that are new or have a new number
        for stage in found:
            if versions.get(stage) != STAGE_VERSIONS[stage]:
                versions[stage], wanted[stage] = STAGE_VERSIONS[stage], found[stage]
        GOLDEN.write_text(json.dumps(golden_file, indent=1) + "\n")
    for stage, value in found.items():
        assert stage in versions, f"stage '{stage}' is new: write the golden file"
        if versions[stage] != STAGE_VERSIONS[stage]:
            pytest.fail(f"stage '{stage}' has a new number: write the golden file again")
        assert same(value, wanted[stage]), (
            f"stage '{stage}' gives other results: raise its number and write the golden file"
        )


def test_every_stage_has_a_golden_value() -> None:
    assert set(json.loads(GOLDEN.read_text())["outcomes"]) == set(STAGE_VERSIONS)


# --- the stages that files name ---


def named_stages() -> Iterator[tuple[str, str]]:
    """Every file that calls `made_by`, with the stage that it writes."""
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("made_by"):
                assert isinstance(node.args[0], ast.Constant), f"{path}: a stage is written out"
                yield path.relative_to(ROOT).as_posix(), node.args[0].value


def test_files_name_a_stage_that_has_a_number_or_a_part_of_one() -> None:
    named = list(named_stages())
    assert {stage for _, stage in named} <= {*STAGE_VERSIONS, *STAGE_PARTS}, named
    assert set(STAGE_PARTS) <= {stage for _, stage in named}
    assert set(STAGE_PARTS.values()) <= set(STAGE_VERSIONS)
    assert not set(STAGE_PARTS) & set(STAGE_VERSIONS)
