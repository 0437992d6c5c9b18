"""KL divergence of two models: known from theory, as SciPy has it token by token, and over real targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from torch import Tensor
from transformers import PreTrainedModel

from conftest import DENSE, MOE, VOCABULARY
from families import tiny
from moediff.analysis import divergence as module
from moediff.analysis.divergence import COLUMNS, divergence, same_tokens
from moediff.analysis.reruns import Text
from moediff.core import artifact
from moediff.core.bootstrap import Units, group_bootstrap
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.models import loading
from moediff.models.inputs import packed_inputs
from snake import run_script
from spliced import one_pass

Change = Callable[[Tensor], Tensor]


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return read_token_shard(token_shard(sequences=40, length=24))


def compared(
    models: Sequence[PreTrainedModel],
    shards: Sequence[TokenShard],
    across: bool = False,
    sequences: int = 99,
    batch: int = 4,
) -> pl.DataFrame:
    return divergence(models, [Text(one) for one in shards], across, sequences, batch)


def saying(model: PreTrainedModel, change: Change) -> PreTrainedModel:
    """A model whose logits [sequence, position, V] are changed."""
    model.lm_head.register_forward_hook(lambda _, given, logits: change(logits))
    return model.eval()


def whole(table: pl.DataFrame) -> dict:
    return table.row(0, named=True)


# --- answers known from theory ---


def test_equal_models_do_not_diverge_at_all(shard, tiny_model, architecture) -> None:
    pair = [tiny_model(architecture, 3).eval() for _ in range(2)]
    found = compared(pair, [replace(shard, group=shard.document)])
    assert dict(found.schema) == COLUMNS
    assert set(found["domain"]) == {ALL, *shard.domains}
    for name in ("kl_first_second", "kl_low", "kl_high", "kl_second_first"):
        assert found[name].to_list() == [0.0] * 3
    assert found["top1_agreement"].to_list() == [1.0] * 3


def test_fixed_distributions_have_the_divergence_of_the_formula(shard, tiny_model) -> None:
    """Unigram models: two tokens in use, with chances 1/2, 1/2 and 1/4, 3/4."""

    def only(*chances: float) -> Change:
        logits = torch.full([VOCABULARY], -torch.inf)
        logits[: len(chances)] = torch.tensor(chances).log()
        return lambda given: logits.expand_as(given)

    pair = [saying(tiny_model(DENSE), only(*chances)) for chances in ((0.5, 0.5), (0.25, 0.75))]
    found = compared(pair, [shard])
    forward = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    back = 0.25 * np.log(1 / 2) + 0.75 * np.log(3 / 2)
    assert found["kl_first_second"].to_list() == pytest.approx([forward] * 3, rel=1e-6)
    assert found["kl_second_first"].to_list() == pytest.approx([back] * 3, rel=1e-6)
    assert found["top1_agreement"].to_list() == [0.0] * 3
    assert whole(found)["kl_low"] == pytest.approx(forward, rel=1e-6)


def test_a_constant_added_to_all_logits_changes_nothing(shard, tiny_model) -> None:
    model, shifted = tiny_model(MOE).eval(), saying(tiny_model(MOE), lambda logits: logits + 20)
    found = whole(compared([model, shifted], [shard]))
    assert found["kl_first_second"] == pytest.approx(0, abs=1e-11)
    assert found["kl_second_first"] == pytest.approx(0, abs=1e-11)
    assert found["top1_agreement"] == 1


def test_a_token_that_only_one_embedding_has_is_left_out_of_both(shard, tiny_model) -> None:
    def longer(logits: Tensor) -> Tensor:
        return torch.cat([logits, logits.new_full((*logits.shape[:2], 3), 9.0)], dim=2)

    one, other = tiny_model(DENSE, 0).eval(), tiny_model(DENSE, 1).eval()
    wanted = compared([one, other], [shard])
    assert compared([one, saying(tiny_model(DENSE, 1), longer)], [shard]).equals(wanted)
    assert compared([saying(tiny_model(DENSE, 0), longer), other], [shard]).equals(wanted)


# --- the same, computed by other means ---


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("at_once", [module.AT_ONCE, 3 * VOCABULARY])
def test_two_models_diverge_as_scipy_says_token_by_token(
    token_shard, tiny_model, monkeypatch, across: bool, at_once: int
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    shards = [
        read_token_shard(token_shard(f"{n}.h5", sequences=60, length=24, seed=n)) for n in (0, 1)
    ]
    shards[1] = replace(shards[1], document=shards[1].document + 100, group=shards[1].group + 9000)
    pair = [tiny_model(DENSE, 0).eval(), tiny_model(MOE, 1).eval()]
    found = compared(pair, shards, across, sequences=96, batch=5)
    rows = []
    for shard, count in ((shards[0], 60), (shards[1], 36)):
        starts = segment_starts(shard.document, across)
        with torch.no_grad():
            said = [
                log_softmax(
                    model(**packed_inputs(model, shard.tokens[:count], starts[:count])).logits
                    .double().numpy(), axis=-1
                )
                for model in pair
            ]  # fmt: skip
        for sequence in range(count):
            for position in range(1, 24):
                if (
                    across
                    or shard.document[sequence, position] == shard.document[sequence, position - 1]
                ):
                    p, q = (chances[sequence, position - 1] for chances in said)
                    rows.append(
                        {"domain": shard.domains[shard.domain[sequence, position]],
                         "document": int(shard.document[sequence, position]),
                         "group": int(shard.group[sequence, position]),
                         "forward": rel_entr(np.exp(p), np.exp(q)).sum(),
                         "back": rel_entr(np.exp(q), np.exp(p)).sum(),
                         "agree": float(p.argmax() == q.argmax())}
                    )  # fmt: skip
    tokens = pl.DataFrame(rows)
    assert tokens["forward"].min() > 1e-3
    assert 0 < tokens["agree"].mean() < 1
    each = {ALL: tokens} | {name: tokens.filter(domain=name) for name in shards[0].domains}
    assert set(found["domain"]) == set(each)
    for row in found.iter_rows(named=True):
        wanted = each[row["domain"]]
        assert row["tokens"] == len(wanted)
        assert row["kl_first_second"] == pytest.approx(wanted["forward"].mean(), rel=1e-4)
        assert row["kl_second_first"] == pytest.approx(wanted["back"].mean(), rel=1e-4)
        assert row["top1_agreement"] == pytest.approx(wanted["agree"].mean())
        units = Units(wanted["group"], wanted["domain"].replace_strict({"odd": 0, "even": 1}))
        resampled = group_bootstrap(wanted["forward"], np.ones(len(wanted)), units)
        assert row["text_groups"] < wanted["document"].n_unique()
        assert row["text_groups"] == resampled["text_groups"] == wanted["group"].n_unique()
        assert [row["kl_low"], row["kl_high"]] == pytest.approx(resampled["interval"], rel=1e-4)
    assert found["domain"][0] == ALL
    assert found["kl_first_second"][1] > found["kl_first_second"][2]  # the largest first


def test_batches_and_shards_do_not_decide(shard, tiny_model) -> None:
    pair = [tiny_model(DENSE, 0).eval(), tiny_model(DENSE, 1).eval()]
    parts = []
    for part in (slice(0, 7), slice(7, 40)):
        arrays = ("tokens", "document", "group", "domain", "start", "end", "word_end")
        parts.append(replace(shard, **{name: getattr(shard, name)[part] for name in arrays}))
    one, other = compared(pair, [shard], batch=3), compared(pair, parts, batch=40)
    assert one["domain"].equals(other["domain"])
    np.testing.assert_allclose(one[:, 1:].to_numpy(), other[:, 1:].to_numpy(), rtol=1e-5)


# --- which tokens count ---


def test_padding_and_what_begins_a_document_are_not_counted(shard, tiny_model) -> None:
    """The second model says strange things where nothing is predicted, and only there."""
    fills = {
        "tokens": 0,
        "document": PADDING,
        "group": PADDING,
        "domain": 0,
        "start": 0,
        "end": 0,
        "word_end": False,
    }
    padded = replace(shard, **{
        name: np.pad(getattr(shard, name), [(0, 0), (0, 5)], constant_values=fill)
        for name, fill in fills.items()
    })  # fmt: skip
    run = one_pass(padded)
    nothing = torch.from_numpy(np.pad(~run.target, [(0, 0), (0, 1)], constant_values=True))
    assert nothing.sum() > 40 * 6

    def strange(logits: Tensor) -> Tensor:
        return logits.masked_fill(nothing[:, :, None], torch.nan)

    pair = [tiny_model(DENSE, 0).eval(), saying(tiny_model(DENSE, 1), strange)]
    found = compared(pair, [padded], batch=40)
    plain = compared([pair[0], tiny_model(DENSE, 1).eval()], [shard], batch=40)
    assert whole(found)["tokens"] == run.target.sum() == one_pass(shard).target.sum()
    assert found["domain"].equals(plain["domain"])
    np.testing.assert_allclose(found[:, 1:].to_numpy(), plain[:, 1:].to_numpy(), rtol=1e-5)


def test_few_groups_have_no_interval_and_are_named(shard, tiny_model, caplog) -> None:
    pair = [tiny_model(DENSE, 0).eval(), tiny_model(DENSE, 1).eval()]
    few = replace(shard, group=shard.document % 2 + 2 * (np.arange(40)[:, None] // 8))
    found = compared(pair, [few])
    counts = {
        name: len(np.unique(few.group[few.domain == n])) for n, name in enumerate(few.domains)
    }
    assert all(count < 10 for count in counts.values())
    assert found.filter(pl.col("domain") != ALL)["kl_low"].to_list() == [None, None]
    assert whole(found)["kl_low"] < whole(found)["kl_first_second"] < whole(found)["kl_high"]
    assert "no interval over fewer than 10 groups of documents" in caplog.text
    for name, count in counts.items():
        assert f"{name} {count}" in caplog.text
    assert "(all" not in caplog.text


def test_a_domain_that_is_not_predicted_has_no_row(shard, tiny_model) -> None:
    more = replace(shard, domains=(*shard.domains, "another"))
    found = compared([tiny_model(DENSE).eval()] * 2, [more])
    assert set(found["domain"]) == {ALL, *shard.domains}


# --- what is refused ---


def test_what_has_no_divergence_is_refused(shard, tiny_model) -> None:
    model = tiny_model(DENSE).eval()
    with pytest.raises(UserError, match="no token is predicted"):
        compared([model] * 2, [])
    alone = replace(shard, document=np.arange(shard.document.size).reshape(shard.document.shape))
    with pytest.raises(UserError, match="no token is predicted"):
        compared([model] * 2, [alone])

    def without_first(logits: Tensor) -> Tensor:
        return torch.cat([torch.full_like(logits[..., :1], -torch.inf), logits[..., 1:]], dim=2)

    for change in (without_first, lambda logits: logits * torch.nan):
        with pytest.raises(UserError, match="no finite prediction"):
            compared([model, saying(tiny_model(DENSE), change)], [shard])
    both = [saying(tiny_model(DENSE, seed), without_first) for seed in (0, 1)]
    assert np.isfinite(whole(compared(both, [shard]))["kl_first_second"])
    with pytest.raises(UserError, match=r"documents of a sequence.*attend_across_documents"):
        compared([model, tiny("opt")], [shard])


def test_the_same_tokens_of_the_same_documents_are_the_same_text(shard) -> None:
    assert same_tokens(shard, replace(shard, tokenizer="another", digest="x"))
    assert not same_tokens(shard, replace(shard, tokens=(shard.tokens + 1) % 60))
    assert not same_tokens(shard, replace(shard, document=shard.document + 1))
    assert not same_tokens(shard, replace(shard, tokens=shard.tokens[:, :-1]))


# --- the job ---


def test_the_job(token_shard, tiny_model, tmp_path: Path, caplog) -> None:
    tokens = [token_shard(f"{n}.h5", sequences=12, length=24, seed=n) for n in (0, 1)]
    pair, manifests = {"base": tiny_model(DENSE, 0), "tuned": tiny_model(DENSE, 1)}, []
    for name, model in pair.items():
        folder = tmp_path / name / "seed-0"
        loading.save(model.eval(), folder)
        manifests.append(folder / "model.json")
        made_by = artifact.made_by("models")
        loading.write_manifest(manifests[-1], model, folder, ".", "float32", made_by)

    def run(paths: list[Path]) -> pl.DataFrame:
        out = tmp_path / "out" / "divergence.parquet"
        run_script(
            "analysis/divergence", tmp_path,
            input={"models": manifests, "tokens": paths}, output=[out],
            params={"models": list(pair), "across": False, "sequences": 20, "batch": 5},
            config={"device": "cpu", "models": {name: {} for name in pair}},
        )  # fmt: skip
        return artifact.read_parquet(out)

    found = run([tokens[0], tokens[0], tokens[1], tokens[1]])
    shards = [read_token_shard(path) for path in tokens]
    assert found.equals(compared(list(pair.values()), shards, sequences=20, batch=5))
    assert "same most probable token" in caplog.text
    for manifest in manifests:
        manifest.unlink()  # no model is opened where the two read other tokens
    other = run([tokens[0], tokens[0], tokens[0], tokens[1]])
    assert other.equals(pl.DataFrame(schema=COLUMNS))
    assert "base and tuned read the text by different tokenizers" in caplog.text
