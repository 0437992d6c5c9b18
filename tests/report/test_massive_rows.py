"""A checkpoint with one token of massive norm, from caching to the page: with that row, and without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from configured import completed
from conftest import DENSE, DROP, RECIPE, VOCABULARY, cached
from moediff.activations import caching, kept_rows
from moediff.activations.cautions import cautions
from moediff.activations.rows import AlignedRows
from moediff.activations.shards import Shard, summary
from moediff.analysis.evaluation import measure
from moediff.analysis.features import feature_table
from moediff.analysis.measured import POOLED, THRESHOLD, Measured, fve_rows
from moediff.config import dropped
from moediff.core import artifact
from moediff.corpus.token_shards import TokenShard, read_token_shard, write_token_shard
from moediff.dictionaries.fitting import fit
from moediff.dictionaries.principal_components import principal_components
from moediff.hooks.points import Point
from moediff.report.row_cautions import row_warnings, rows_left_out

CPU = torch.device("cpu")
NEWLINE = 63  # the token of massive norm
TIMES = 400  # of an embedding; of a row behind two blocks that is about 150
SMALL = RECIPE | {"features": 48, "k": 6, "rows": 60_000, "batch": 256, "threshold_rows": 400}
NAMES = ["base", "tuned"]


def with_one(path: Path, length: int, sequences: int, seed: int, special: list[int]) -> TokenShard:
    """Random text in which NEWLINE stands once, in its third sequence."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, NEWLINE, (sequences, length)).astype(np.uint16)
    tokens[2, length // 2] = NEWLINE
    place = np.broadcast_to(np.arange(length, dtype=np.uint32), tokens.shape)
    document = np.broadcast_to(np.arange(sequences)[:, None] + 1, tokens.shape).astype(np.int64)
    arrays = {
        "tokens": tokens, "document": document, "group": document, "domain": (document % 2).astype(np.uint8),
        "start": place.copy(), "end": place + 1, "word_end": np.ones(tokens.shape, bool),
    }  # fmt: skip
    made_by = artifact.made_by("token_shards")
    write_token_shard(path, arrays, ["odd", "even"], "tokenizer", 0, made_by, special)
    return read_token_shard(path)


def massive(model: PreTrainedModel, times: float = TIMES) -> PreTrainedModel:
    """NEWLINE is written so many times as long as other tokens; inside the blocks norms undo it."""
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        norms = embedding.norm(dim=1)
        embedding[NEWLINE] *= times * norms.median() / norms[NEWLINE]
    return model


class Chain:
    """Two models cached, a crosscoder fitted on one split and measured on another."""

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, PreTrainedModel],
        drop: Mapping,
        special: tuple[int, ...] = (0,),
        splits: tuple[str, ...] = ("fit", "validation"),
    ) -> None:
        folder.mkdir()
        rows = {}
        self.abouts = []
        for seed, split in enumerate(("fit", "validation")):
            text = with_one(
                folder / f"{split}.h5", 64, 60 if split == "fit" else 40, seed, list(special)
            )
            if split not in splits:
                text.tokens[text.tokens == NEWLINE] = 1
            paths = [folder / f"{split}-{name}.zarr.zip" for name in NAMES]
            for name, path in zip(NAMES, paths, strict=True):
                cached(models[name], text, path, drop=drop)
                found = summary([path])
                keys = ("rows", "tokens", "left_out", "share_left_out", "alignment")
                about = {"model": name, "seed": 0, "split": split}
                about |= {key: found[key] for key in (*keys, "standing_out") if key in found}
                self.abouts.append(about)
            rows[split] = AlignedRows([[path] for path in paths])
        self.dictionary, _ = fit(rows["fit"], SMALL, 0, folder / "state", CPU)
        baseline = principal_components(rows["fit"])
        self.measured: Measured = measure(
            self.dictionary, baseline, rows["validation"], NAMES, SMALL, CPU
        )
        self.table = feature_table(
            self.dictionary, self.measured, NAMES, ("odd", "even"), 1, (0.3, 0.7)
        )
        self.rows = rows

    @property
    def metrics(self) -> dict:
        """What the page reads of metrics.json."""
        about = {"comparison": "c", "member": "base.0_tuned.0", "recipe": "r", "seed": 0}
        fve = fve_rows(self.measured, NAMES, 0, about | {"k": 6, "features": 48})
        return {"rows": self.abouts, "fve": fve}


@pytest.fixture
def models(tiny_model: Callable) -> dict[str, PreTrainedModel]:
    return {name: massive(tiny_model(DENSE, seed)) for seed, name in enumerate(NAMES)}


def loaded_drop(change: str = "{}") -> dict:
    """What is left out of a loaded model's rows, by a config that says no more than `change`."""
    whole = completed(
        {"corpus": {"tokenizer!": {"load": "x"}}, "models!": {"base": {"load": "x"}},
         "comparisons!": {"c": {"each": ["base"]}}, "activations": {"drop": change}}
    )  # fmt: skip
    return dropped(whole, "base")


def test_the_defaults_of_a_loaded_model_give_what_its_rows_without_the_massive_one_give(
    models, tmp_path: Path
) -> None:
    drop = loaded_drop({})
    default = Chain(tmp_path / "default", models, drop)
    without = Chain(tmp_path / "without", models, DROP, special=(0, NEWLINE))
    kept = Chain(tmp_path / "kept", models, DROP)
    assert default.rows["validation"].count == without.rows["validation"].count
    assert kept.rows["validation"].count == default.rows["validation"].count + 1
    for key, value in without.measured.fve.items():
        assert abs(default.measured.fve[key] - value) < 0.01, key
    assert abs(kept.measured.fve[THRESHOLD, POOLED] - without.measured.fve[THRESHOLD, POOLED]) > 0.1
    norms = [np.sort(one.table["relative_norm"].to_numpy()) for one in (default, without)]
    assert np.abs(norms[0].mean() - norms[1].mean()) < 0.01
    shares = [
        one.table["class"].value_counts(normalize=True, name="share") for one in (default, without)
    ]
    for name in {*shares[0]["class"], *shares[1]["class"]}:
        found, wanted = (sum(s.filter(s["class"] == name)["share"]) for s in shares)
        assert abs(found - wanted) <= 0.01 + 2 / len(default.table), name
    assert [about["left_out"]["massive_norm resid_post.1"] for about in default.abouts] == [1] * 4
    assert not default.measured.massive_rows
    assert row_warnings([default.metrics]) == []
    sentence = rows_left_out([default.metrics])
    assert "base.0 validation 1 of" in sentence
    assert "tuned.0 fit 1 of" in sentence


def test_in_validation_alone_the_row_changes_nothing_at_all_by_default(
    models, tmp_path: Path
) -> None:
    chains = [
        Chain(tmp_path / name, models, drop, special, ("validation",))
        for name, drop, special in (
            ("default", loaded_drop({}), (0,)), ("without", DROP, (0, NEWLINE)), ("kept", DROP, (0,)),
        )
    ]  # fmt: skip
    default, without, kept = chains
    for key, value in without.measured.fve.items():
        if key[0] == SMALL["select"]:  # whose code of a row depends on the batch
            continue
        assert default.measured.fve[key] == pytest.approx(value, abs=1e-9), key
        assert kept.measured.fve_without[key] == pytest.approx(value, abs=1e-9), key
    for name in ("relative_norm", "decoder_cosine", "class", "density"):
        assert default.table[name].equals(without.table[name]), name
    assert abs(kept.measured.fve[THRESHOLD, POOLED] - without.measured.fve[THRESHOLD, POOLED]) > 0.1


def test_a_massive_row_that_is_left_in_is_said_with_what_hangs_on_it(
    models, tmp_path: Path
) -> None:
    kept = Chain(tmp_path / "kept", models, loaded_drop({"massive_norm": None}))
    assert rows_left_out([kept.metrics]) == ""
    sentences = row_warnings([kept.metrics])
    assert len(sentences) == 5  # two models, two splits; the dictionary's FVE
    pattern = (
        r"One row holds (\d+)% of the variance of (base|tuned)\.0 \((fit|validation) rows, resid_post\.1\): "
        rf"token {NEWLINE} in document 0+3, position 32, of norm [\d.e+]+, ([\d.]+) times the median\. .*"
        r"'activations: \{drop: \{massive_norm: 10\}\}' leaves such rows out\."
    )
    for sentence, about in zip(sentences, kept.abouts, strict=False):
        found = re.fullmatch(pattern, sentence)
        assert found, sentence
        path = tmp_path / "kept" / f"{about['split']}-{about['model']}.zarr.zip"
        shard = Shard(path)
        rows = shard.rows(0, shard.count).double().numpy()
        square = ((rows - rows.mean(0)) ** 2).sum(1)
        norm = np.linalg.norm(rows, axis=1)
        assert int(found[1]) == round(100 * square.max() / square.sum()) > 50
        assert 100 < float(found[4]) == pytest.approx(norm.max() / np.median(norm), rel=0.01)
    row = next(row for row in kept.metrics["fve"] if row["source"] == POOLED)
    assert row["massive_rows"] == 1
    assert f"is {row['fve']:.3f} with" in sentences[4]
    assert f"(1 of {row['rows']:,}) and {row['fve_without_massive']:.3f} without." in sentences[4]


def test_fve_without_massive_rows_is_that_of_the_rest_alone(aligned_rows, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [random.normal(size=(3000, 8)) + 1, random.normal(size=(3000, 6)) * 2]
    odd = [5, 1700, 2999]
    rows[0][odd[:2]] *= 80
    rows[1][odd[1:]] *= 200
    whole, rest = (
        aligned_rows([np.delete(part, gone, 0) for part in rows], folder=folder)
        for gone, folder in (([], "whole"), (odd, "rest"))
    )
    recipe = SMALL | {"rows": 10_000, "select": "topk"}  # a row's code does not depend on its batch
    dictionary, _ = fit(rest, recipe, 0, tmp_path / "state", CPU)
    baseline = principal_components(rest)
    found = measure(dictionary, baseline, whole, NAMES, recipe, CPU)
    wanted = measure(dictionary, baseline, rest, NAMES, recipe, CPU)
    assert (found.massive_rows, wanted.massive_rows, wanted.fve_without) == (3, 0, {})
    assert found.fve_without == pytest.approx(wanted.fve, abs=1e-9)
    assert found.fve[THRESHOLD, POOLED] != pytest.approx(wanted.fve[THRESHOLD, POOLED], abs=0.05)
    columns = {"fve_without_massive", "baseline_pca_without_massive", "massive_rows"}
    about = {"features": 48}
    assert columns <= fve_rows(found, NAMES, 0, about)[0].keys()
    assert not columns & fve_rows(wanted, NAMES, 0, about)[0].keys()


def test_rows_that_stand_out_are_told_by_their_share_of_the_split_not_of_a_shard(
    aligned_rows: Callable,
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 8)) + 30  # all but alike: a norm tells nothing of a row
    rows[1234] = -30
    data = aligned_rows([rows], shard_rows=1000)
    shards = [shard.path for shard in data.sources[0]]
    (one,) = summary(shards)["standing_out"]["made"]["rows"]
    square = ((rows - rows.mean(0)) ** 2).sum(1)
    assert one["share"] == pytest.approx(square[1234] / square.sum(), rel=0.01)
    assert (one["token"], one["position"]) == (1234 % VOCABULARY, 1234 % 50)
    assert one["times_median"] == pytest.approx(1, abs=0.05)
    about = SimpleNamespace(model="theirs", seed=0, split="fit")
    found = vars(about) | {"standing_out": summary(shards)["standing_out"]}
    (sentence,) = cautions(found)
    assert "no massive_norm leaves it out" in sentence
    rows[1234] = 30
    rows[1234, 0] = 80  # a tenth of its shard's variance, less of the split's
    shards = [s.path for s in aligned_rows([rows], shard_rows=1000, folder="less").sources[0]]
    assert [bool(Shard(path).standing_out("made")) for path in shards] == [
        False,
        True,
        False,
        False,
    ]
    assert "standing_out" not in summary(shards)


def test_many_massive_rows_of_which_none_is_large_by_itself_are_said_together(
    aligned_rows: Callable,
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 8))
    rows[::100] *= 30
    shards = [shard.path for shard in aligned_rows([rows], shard_rows=1000).sources[0]]
    found = summary(shards)["standing_out"]["made"]
    norm = np.linalg.norm(rows, axis=1)
    many = norm > 10 * np.median(norm)
    square = ((rows - rows.mean(0)) ** 2).sum(1)
    assert found["massive_rows"] == many.sum() > 20
    assert found["massive_share"] == pytest.approx(square[many].sum() / square.sum(), rel=0.01)
    about = {"model": "m", "seed": 0, "split": "fit", "standing_out": {"made": found}}
    (sentence,) = cautions(about)
    assert sentence.startswith(f"{many.sum()} rows of massive norm")
    assert f"hold {found['massive_share']:.0%} of the variance" in sentence
    rows[100] *= 20  # more than a tenth by itself, and the others with it
    shards = [s.path for s in aligned_rows([rows], shard_rows=1000, folder="one").sources[0]]
    found = summary(shards)["standing_out"]["made"]
    (sentence,) = cautions(about | {"standing_out": {"made": found}})
    assert sentence.startswith(
        f"One row holds {found['rows'][0]['share']:.0%} of the variance of m.0"
    )
    assert f"; the {found['massive_rows']} rows of massive norm hold" in sentence


def test_even_rows_say_nothing(aligned_rows: Callable) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 8))  # of few rows each holds much
    shards = [shard.path for shard in aligned_rows([rows], shard_rows=7).sources[0]]
    found = summary(shards)
    assert "standing_out" not in found
    assert "standing_out" not in Shard(shards[0]).facts
    assert row_warnings([{"rows": [], "fve": []}]) == []


def test_a_massive_row_that_is_left_out_need_not_fit_its_dtype(tiny_model, tmp_path: Path) -> None:
    model = massive(tiny_model(DENSE), 3e6)
    text = with_one(tmp_path / "t.h5", 64, 40, 0, [0])
    text.tokens[2, 32], text.tokens[39, 5] = 1, NEWLINE  # behind what is calibrated on
    stored = cached(model, text, tmp_path / "a.zarr.zip", drop=loaded_drop({}))
    assert stored.facts["massive"] == {"resid_post.1": 1}
    assert AlignedRows([[stored.path]]).count == stored.count - 1


def test_calibration_says_which_row_stands_out_and_is_silent_of_what_is_left_out(
    models, tmp_path: Path
) -> None:
    text = with_one(tmp_path / "t.h5", 64, 40, 0, [0])
    reading = caching.Reading({"end": Point("resid_post", 1)}, "none")

    def found(drop: Mapping) -> dict:
        kept = kept_rows.kept_rows(text, drop, False)
        return caching.calibrate(
            models["base"], reading, text, kept, False, "float16", drop["massive_norm"]
        )["end"]

    kept, left_out = found(loaded_drop({"massive_norm": None})), found(loaded_drop({}))
    (row,) = kept.pop("standing_out")["rows"]
    assert (row["token"], row["position"], row["document"]) == (NEWLINE, 32, f"{3:015x}")
    assert row["times_median"] > 100
    assert row["share"] > 0.5
    assert kept == left_out
