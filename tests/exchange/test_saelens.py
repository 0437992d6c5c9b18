"""SAEs of SAELens: the same reconstructions and the same features fire, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exchanged import (
    FACTS,
    PAIR,
    ROWS,
    activations,
    assert_same,
    assert_same_dictionary,
    changed,
    code,
    jump_thresholds,
    made,
    normal,
    opened,
)
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import Rms, Whitened
from moediff.exchange import saelens


@pytest.mark.parametrize("rank", ["summed", "mixed"])
@pytest.mark.parametrize("thresholds", ["one", "many", "zero"])
def test_saelens_computes_what_we_wrote(tmp_path: Path, thresholds: str, rank: str) -> None:
    dictionary = made([16], rank=rank, threshold=0.0 if thresholds == "zero" else 0.4)
    if thresholds == "many":
        jump_thresholds(dictionary)
    saelens.save(dictionary, tmp_path, FACTS)
    (rows,) = sources = activations(dictionary)
    sae = opened(tmp_path)
    with torch.no_grad():
        assert_same(code(dictionary, sources), sae.encode(rows), sae(rows))
    assert type(sae).__name__ == "JumpReLUSAE"
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert sae.cfg.metadata.model_name == "moe.0"
    assert sae.cfg.metadata.moediff["recipe"] == FACTS["recipe"]
    assert (sae.encode(rows)[:, [3, 5]] == 0).all()
    assert (sae.threshold >= 0).all()


def test_saelens_computes_what_a_whitened_dictionary_does(tmp_path: Path) -> None:
    dictionary = made([16], normaliser=Whitened([16]))
    square = normal(16, 16, seed=4)
    dictionary.normaliser.matrix(0).copy_(square @ square.T / 16 + 0.3 * torch.eye(16))
    saelens.save(dictionary, tmp_path, FACTS)
    (rows,) = sources = activations(dictionary)
    sae = opened(tmp_path)
    with torch.no_grad():
        assert_same(code(dictionary, sources), sae.encode(rows), sae(rows))
    back, _ = saelens.load(tmp_path)
    assert_same_dictionary(dictionary, back)


def test_rows_over_their_own_norms_are_refused_by_saelens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"normalise: rms.*export it for the Hub"):
        saelens.save(made([16], normaliser=Rms([16])), tmp_path, FACTS)


@pytest.mark.parametrize("many", [False, True])
def test_a_dictionary_comes_back_from_saelens(tmp_path: Path, many: bool) -> None:
    dictionary = made([16])
    if many:
        jump_thresholds(dictionary)
    saelens.save(dictionary, tmp_path / "one", FACTS)
    back, metadata = saelens.load(tmp_path / "one")
    assert_same_dictionary(dictionary, back)
    assert metadata["recipe"] == {"select": "jumprelu"}
    assert metadata["sources"] == ["moe.0"]
    back.save(tmp_path / "own.safetensors", metadata)
    loaded, kept = Dictionary.load(tmp_path / "own.safetensors")
    saelens.save(loaded, tmp_path / "two", kept)
    one, two = (load_file(tmp_path / name / saelens.WEIGHTS) for name in ("one", "two"))
    torch.testing.assert_close(one, two)


def their_sae(kind: str, centred: bool, rescaled: bool):
    """A SAELens training SAE of random weights, trained for a few steps where that sets a threshold."""
    from sae_lens import saes
    from sae_lens.saes.sae import TrainStepInput

    classes = {
        "standard": (saes.StandardTrainingSAE, saes.StandardTrainingSAEConfig, {}),
        "jumprelu": (saes.JumpReLUTrainingSAE, saes.JumpReLUTrainingSAEConfig, {}),
        "topk": (saes.TopKTrainingSAE, saes.TopKTrainingSAEConfig, {"k": 5}),
        "batchtopk": (saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig,
                      {"k": 5.0, "topk_threshold_lr": 0.5}),
        "matryoshka_batchtopk": (
            saes.MatryoshkaBatchTopKTrainingSAE, saes.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": 5.0, "topk_threshold_lr": 0.5, "matryoshka_widths": [12, 40]},
        ),
    }  # fmt: skip
    cls, config, more = classes[kind]
    if kind not in ("standard", "jumprelu"):
        more = more | {"rescale_acts_by_decoder_norm": rescaled}
    sae = cls(config(d_in=16, d_sae=40, apply_b_dec_to_input=centred, **more))
    with torch.no_grad():
        sae.W_enc += 0.3 * normal(16, 40)
        sae.W_dec += 0.1 * normal(40, 16, seed=1)
        if not rescaled:
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True) / 0.8
        sae.b_enc += 0.2 * normal(40, seed=2)
        sae.b_dec += normal(16, seed=3)
        if kind == "jumprelu":
            sae.threshold.copy_(normal(40, seed=4).abs())
    for seed in range(5 if "batch" in kind else 0):
        sae.training_forward_pass(
            TrainStepInput(
                sae_in=normal(64, 16, seed=seed), coefficients={}, dead_neuron_mask=None,
                n_training_steps=seed, is_logging_step=False,
            )
        )  # fmt: skip
    return sae


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("kind", "rescaled"),
    [("standard", True), ("jumprelu", True), ("topk", True), ("topk", False),
     ("batchtopk", True), ("batchtopk", False), ("matryoshka_batchtopk", True)],
)  # fmt: skip
def test_we_compute_what_saelens_wrote(
    tmp_path: Path, kind: str, rescaled: bool, centred: bool
) -> None:
    sae = their_sae(kind, centred, rescaled)
    sae.save_inference_model(tmp_path / "inference")
    dictionary, metadata = saelens.load(tmp_path / "inference")
    rows = 1.5 * normal(ROWS, 16, seed=5)
    theirs = opened(tmp_path / "inference")
    select = ("topk", 5) if kind == "topk" else None
    ours = code(dictionary, [rows], select)
    with torch.no_grad():
        assert_same(ours, theirs.encode(rows), theirs(rows))
    if kind == "topk":
        assert metadata["recipe"] == {"select": "topk", "k": 5}
        assert (code(dictionary, [rows]).values == 0).all()
    if "batch" in kind:  # the training checkpoint says the same as the SAE made of it
        sae.save_model(tmp_path / "training")
        dictionary, metadata = saelens.load(tmp_path / "training")
        assert metadata["recipe"] == {"select": "batchtopk", "k": 5}
        again = code(dictionary, [rows])
        assert_same(ours, again.values, again.guess)


def test_a_topk_over_bare_values_is_refused_and_a_batchtopk_keeps_its_threshold(
    tmp_path: Path,
) -> None:
    for kind in ("topk", "batchtopk"):
        sae = their_sae(kind, True, False)
        sae.W_dec.data *= torch.linspace(0.5, 2, 40)[:, None]
        sae.save_model(tmp_path / kind)
    with pytest.raises(UserError, match=r"cfg\.json: ranks pre-activations without"):
        saelens.load(tmp_path / "topk")
    sae.save_inference_model(tmp_path / "inference")
    dictionary, metadata = saelens.load(tmp_path / "batchtopk")
    assert metadata["recipe"] == {"select": "jumprelu"}
    rows, theirs = 1.5 * normal(ROWS, 16, seed=5), opened(tmp_path / "inference")
    with torch.no_grad():
        assert_same(code(dictionary, [rows]), theirs.encode(rows), theirs(rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    saelens.save(made([16]), tmp_path, FACTS)
    path = tmp_path / saelens.WEIGHTS
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    dictionary, _ = saelens.load(tmp_path)
    wanted = load_file(path)["W_dec"].float()
    torch.testing.assert_close(dictionary.decoders()[0], wanted, rtol=0, atol=0)


def test_what_saelens_cannot_hold_is_refused(tmp_path: Path) -> None:
    refusals = [
        (made([12, 12], tied=0), PAIR, r"one source, this dictionary has 2 \(moe\.0, dense\.0\)"),
        (made([12], threshold=torch.inf), FACTS, "no finite thresholds"),
    ]
    for dictionary, facts, said in refusals:
        with pytest.raises(UserError, match=said) as error:
            saelens.save(dictionary, tmp_path / "out", facts)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


BAD_SAES = {
    "no architecture": ({"architecture": None}, {}, r"cfg\.json: key 'architecture' is missing"),
    "gated": ({"architecture": "gated"}, {}, "'gated' has no counterpart"),
    "layer norm": ({"normalize_activations": "layer_norm"}, {}, "is 'layer_norm'; fold"),
    "no k": ({"architecture": "topk"}, {"threshold": None}, "k is None"),
    "width in words": ({"d_in": "many"}, {}, "d_in is many"),
    "missing": ({}, {"b_enc": None}, r"weights\.safetensors: tensor 'b_enc' is missing"),
    "unknown": ({}, {"r_mag": torch.ones(3)}, "tensor 'r_mag' is not known"),
    "shape": ({"d_sae": 47}, {}, r"shape \[16, 48\], the config says \[16, 47\]|'W_dec'|'W_enc'"),
    "nan": ({}, {"b_dec": torch.full((16,), torch.nan)}, "tensor 'b_dec' is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SAES)
def test_a_bad_sae_ends_in_one_line(tmp_path: Path, name: str) -> None:
    config, tensors, said = BAD_SAES[name]
    saelens.save(made([16]), tmp_path, FACTS)
    changed(tmp_path, config, **tensors)
    with pytest.raises(UserError, match=said) as error:
        saelens.load(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
