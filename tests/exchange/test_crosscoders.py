"""Crosscoders of dictionary_learning: the same reconstructions and the same features fire, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exchanged import (
    FACTS,
    PAIR,
    activations,
    assert_same,
    assert_same_dictionary,
    changed,
    code,
    jump_thresholds,
    made,
    stated,
)
from moediff.core.errors import UserError
from moediff.dictionaries.normalising import Rms, Whitened
from moediff.exchange import crosscoders

PAIRS = {
    "free": {"tied": 0},
    "tied by norm, exclusive": {"tied": 10, "exclusive": 6},
    "tied by direction": {"tied": 10, "tie": "direction", "exclusive": 6},
    "mixed": {"tied": 10, "exclusive": 6, "rank": "mixed"},
    "relu": {"tied": 0, "threshold": 0.0},
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_crosscoder_computes_what_we_wrote_and_comes_back(tmp_path: Path, name: str) -> None:
    dictionary = made([12, 12], **PAIRS[name])
    crosscoders.save(dictionary, tmp_path, PAIR)
    sources = activations(dictionary)
    theirs = stated(tmp_path, sources)
    assert_same(code(dictionary, sources), theirs.values, theirs.guess)
    back, metadata = crosscoders.load(tmp_path)
    assert_same_dictionary(dictionary, back)
    torch.testing.assert_close(back.norms(), dictionary.norms())
    assert metadata["recipe"] == {
        "select": "batchtopk", "k": 6, "rank": PAIRS[name].get("rank", "summed"),
    }  # fmt: skip


def test_a_crosscoder_of_three_sources_and_one_of_large_units(tmp_path: Path) -> None:
    for scales in ([2.5, 0.3, 7.0], [1e4, 3e5, 1.0]):
        dictionary = made([12, 12, 12], tied=8)
        dictionary.scale.copy_(torch.tensor(scales))
        crosscoders.save(dictionary, tmp_path, PAIR | {"sources": ["a", "b", "c"]})
        sources = activations(dictionary)
        wanted, theirs = code(dictionary, sources), stated(tmp_path, sources)
        for source, scale in enumerate(scales):
            part = dictionary.shape.columns(source)
            torch.testing.assert_close(
                theirs.guess[wanted.clear, part], wanted.guess[wanted.clear, part],
                rtol=1e-5, atol=1e-5 * scale,
            )  # fmt: skip
        assert_same_dictionary(dictionary, crosscoders.load(tmp_path)[0])


def test_a_crosscoder_without_normaliser_or_threshold(tmp_path: Path) -> None:
    dictionary = made([12, 12], tied=0, threshold=0.0)
    dictionary.mean.zero_()
    dictionary.scale.fill_(1.0)
    crosscoders.save(dictionary, tmp_path, PAIR)
    missing = torch.full((2, 12), torch.nan)
    changed(tmp_path, activation_mean=missing, activation_std=missing.clone(),
            threshold=torch.tensor(-1.0))  # fmt: skip
    back, metadata = crosscoders.load(tmp_path)
    sources = activations(dictionary)
    assert metadata["recipe"]["select"] == "batchtopk"
    assert (code(back, sources).values == 0).all()
    wanted = code(dictionary, sources, ("batchtopk", 6))
    torch.testing.assert_close(code(back, sources, ("batchtopk", 6)).guess, wanted.guess)
    changed(tmp_path, {"code_normalization": "SAE"}, threshold=None, k=None, activation_std=None,
            activation_mean=None)  # fmt: skip
    back, metadata = crosscoders.load(tmp_path)
    assert metadata["recipe"] == {"select": "relu"}
    assert_same_dictionary(dictionary, back)


@pytest.mark.parametrize("name", PAIRS)
def test_the_crosscoder_s_own_class_computes_what_we_wrote(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("dictionary_learning")
    if not hasattr(library, "BatchTopKCrossCoder"):
        pytest.skip("the package of PyPI has no crosscoder; that of science-of-finetuning has")
    dictionary = made([12, 12], **PAIRS[name])
    crosscoders.save(dictionary, tmp_path / "ours", PAIR)
    theirs = library.BatchTopKCrossCoder.from_pretrained(str(tmp_path / "ours"), from_hub=True)
    sources = activations(dictionary)
    rows = torch.stack(sources, dim=1)
    with torch.no_grad():
        assert_same(code(dictionary, sources), theirs.encode(rows), theirs(rows).flatten(1))
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same_dictionary(dictionary, crosscoders.load(tmp_path / "theirs")[0])


def test_what_a_crosscoder_cannot_hold_is_refused(tmp_path: Path) -> None:
    jump = jump_thresholds(made([12, 12], tied=0))
    refusals = [
        (made([12]), FACTS, r"an SAE of moe\.0 is no crosscoder"),
        (made([12, 10], tied=0), PAIR, r"moe\.0 12, dense\.0 10"),
        (jump, PAIR, "one threshold, here features differ"),
        (made([12, 12], normaliser=Rms([12, 12])), PAIR, "normalise: rms.*for the Hub"),
        (made([12, 12], normaliser=Whitened([12, 12])), PAIR, "normalise: whiten.*for the Hub"),
    ]
    for dictionary, facts, said in refusals:
        with pytest.raises(UserError, match=said) as error:
            crosscoders.save(dictionary, tmp_path / "out", facts)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    jump.threshold.clamp_(max=0)  # all of them fire when positive
    crosscoders.save(jump, tmp_path / "out", PAIR)


def test_a_rank_that_crosscoders_do_not_know_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delitem(crosscoders.NORMALIZATIONS, "summed")
    with pytest.raises(UserError, match="no norm like rank: summed, but mixed; export it for the"):
        crosscoders.save(made([12, 12], tied=0), tmp_path, PAIR)


BAD_CROSSCODERS = {
    "sae": ({"code_normalization": "SAE"}, {}, "code_normalization SAE has no counterpart"),
    "alphas": ({"code_normalization": "mixed"}, {}, r"MIXED \(0 and 1\)"),
    "decoupled": ({"code_normalization": "DECOUPLED"}, {}, "DECOUPLED has no counterpart"),
    "layers": ({"encoder_layers": [1, 0]}, {}, r"encoder_layers is \[1, 0\]"),
    "no layers": ({"num_layers": None}, {}, r"config\.json: key 'num_layers' is missing"),
    "missing": ({}, {"decoder__bias": None}, r"'decoder\.bias' is missing"),
    "shape": ({}, {"encoder__bias": torch.zeros(3)}, r"'encoder\.bias' has shape \[3\]"),
    "nan": ({}, {"activation_mean": torch.tensor([[torch.nan] * 12, [0.0] * 12])}, "mean' is not f"),
    "half a normaliser": ({}, {"activation_global_scale": None}, "scale' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CROSSCODERS)
def test_a_bad_crosscoder_ends_in_one_line(tmp_path: Path, name: str) -> None:
    config, tensors, said = BAD_CROSSCODERS[name]
    crosscoders.save(made([12, 12], tied=0), tmp_path, PAIR)
    changed(tmp_path, config, **tensors)
    with pytest.raises(UserError, match=said) as error:
        crosscoders.load(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
