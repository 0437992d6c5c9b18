"""Models are what the config says, and packed sequences keep to themselves."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, OlmoeConfig, OlmoeForCausalLM

from conftest import DENSE, MOE, VOCABULARY
from moediff.config import resources
from moediff.config.models import active_block_parameters
from moediff.core import artifact, device
from moediff.core.errors import DamagedError, UserError
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    Vocabulary,
    read_vocabulary,
    train_tokenizer,
    write_tokenizer,
)
from moediff.models import build, fetching, inputs, loading, parameters, suitability

CPU = torch.device("cpu")


def test_parameters_are_those_of_theory(tiny_model) -> None:
    for settings in (DENSE, MOE):
        found = parameters.count_parameters(tiny_model(settings))
        d, layers, experts = settings["d_model"], settings["layers"], settings["experts"]
        router = layers * experts * d if experts > 1 else 0
        head = d // settings["heads"]
        norms = layers * (2 * d + 2 * head) + d
        embedding = 2 * VOCABULARY * d
        ffn = 3 * d * settings["ffn"] * experts
        assert found.embedding == embedding
        assert found.router == router
        assert found.total == embedding + router + norms + layers * (4 * d * d + ffn)
        assert found.active == embedding + router + norms + active_block_parameters(settings)


def test_dense_and_moe_share_all_but_the_feed_forward(tiny_model) -> None:
    dense, moe = tiny_model(DENSE), tiny_model(MOE)
    assert type(dense) is type(moe)
    shapes = [
        {n: tuple(p.shape) for n, p in model.named_parameters() if ".mlp." not in n}
        for model in (dense, moe)
    ]
    assert shapes[0] == shapes[1]


def test_the_seed_decides_the_initial_weights_and_nothing_else(architecture, tiny_model) -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    one, two, other = (tiny_model(architecture, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def olmoe() -> OlmoeForCausalLM:
    config = OlmoeConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return OlmoeForCausalLM(config).eval()


@pytest.mark.parametrize("family", ["dense", "moe", "gpt2", "olmoe"])
def test_packed_documents_do_not_see_each_other(family: str, tiny_model) -> None:
    made = {"dense": lambda: tiny_model(DENSE), "moe": lambda: tiny_model(MOE)}
    model = (made | {"gpt2": gpt2, "olmoe": olmoe})[family]().eval()
    random = np.random.default_rng(0)
    parts = [random.integers(1, VOCABULARY, (1, size)) for size in (1, 7, 12)]
    packed = np.concatenate(parts, axis=1)
    starts = np.zeros(packed.shape, bool)
    starts[0, [0, 1, 8]] = True
    with torch.no_grad():
        together = model(**inputs.model_inputs(packed, starts, CPU)).logits[0]
        for part, first in zip(parts, (0, 1, 8), strict=True):
            alone_starts = np.zeros(part.shape, bool)
            alone_starts[0, 0] = True
            alone = model(**inputs.model_inputs(part, alone_starts, CPU)).logits[0]
            found = together[first : first + part.shape[1]]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
        whole_starts = np.zeros(packed.shape, bool)
        whole_starts[0, 0] = True
        across = model(**inputs.model_inputs(packed, whole_starts, CPU)).logits[0]
    assert not torch.allclose(across[10:], together[10:], atol=1e-3)


def test_a_saved_model_comes_back_whole(architecture, tiny_model, tmp_path: Path) -> None:
    model = tiny_model(architecture).eval()
    loading.save(model, tmp_path)
    loading.write_manifest(
        tmp_path / "model.json", model, tmp_path, ".", "float32", {"format": artifact.FORMAT}
    )
    loaded, facts = loading.open_manifest(tmp_path / "model.json", CPU)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert facts["layers"] == 2
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedError, match=r"model\.safetensors.*config\.json beside it.*rm "):
        loading.open_manifest(tmp_path / "model.json", CPU)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"config\.json: not JSON.*rm "):
        loading.open_manifest(tmp_path / "model.json", CPU)


def test_a_checkpoint_of_a_folder_is_loaded_and_its_tokens_checked(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path)
    folder = fetching.fetch(str(tmp_path), None)
    loaded = loading.load(folder)
    assert parameters.count_parameters(loaded).total == sum(p.numel() for p in model.parameters())
    tokenizer = tmp_path / "corpus.json"  # of the corpus: its last entry is the 65th
    entries = {f"w{n}": n for n in range(VOCABULARY + 1)}
    Tokenizer(WordLevel(entries, unk_token="w0")).save(str(tokenizer))
    small = Vocabulary(VOCABULARY, 0, (0,), artifact.digest_files([tokenizer]), "entries")
    suitability.check_vocabulary(folder, loaded, small, tokenizer, "made")
    with pytest.raises(UserError, match=r"embedding has 64 rows.*'w64'"):
        suitability.check_vocabulary(folder, loaded, replace(small, size=65), tokenizer, "made")


def test_a_tokenizer_of_equal_size_and_other_entries_is_refused(tmp_path: Path) -> None:
    one, other = (
        train_tokenizer([text * 50], 265)
        for text in ("the cat sat on the mat ", "une vache qui rit au pays ")
    )
    one.save(str(tmp_path / "tokenizer.json"))
    model = build.build(DENSE, 265, 64, 0, 0)
    for tokenizer, wrong in ((one, False), (other, True)):
        write_tokenizer(
            tmp_path / "corpus.json", tmp_path / "vocabulary.json", tokenizer, END_OF_TEXT,
            [END_OF_TEXT],
        )  # fmt: skip
        vocabulary = read_vocabulary(tmp_path / "vocabulary.json")
        with pytest.raises(UserError, match="not that") if wrong else nullcontext():
            suitability.check_vocabulary(
                tmp_path, model, vocabulary, tmp_path / "corpus.json", "made"
            )


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_are_missing_or_of_another_shape_are_refused(
    tmp_path: Path, change: str
) -> None:
    gpt2().save_pretrained(tmp_path)
    weights = load_file(tmp_path / loading.WEIGHTS)
    name = "transformer.h.1.mlp.c_fc.weight"
    if change == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, tmp_path / loading.WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc\.weight") as caught:
        loading.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_gone_or_too_short_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    model = gpt2()
    model.save_pretrained(folder)
    loading.write_manifest(
        tmp_path / "model.json", model, folder, str(folder), "float32", {"format": artifact.FORMAT}
    )
    loading.open_manifest(tmp_path / "model.json", CPU)
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="gone"):
        loading.open_manifest(tmp_path / "model.json", CPU)
    suitability.check_context(model, model.config.n_positions, "made")
    with pytest.raises(UserError, match=r"corpus\.sequence\.length"):
        suitability.check_context(model, model.config.n_positions + 1, "made")


def test_a_missing_checkpoint_and_an_unreachable_hub_end_in_one_line(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="no/such-model") as raised:
        fetching.fetch("no/such-model", "abc")
    assert "\n" not in str(raised.value)


def test_a_missing_device_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="cuda"):
        device.pick_device("cuda")


def test_parameters_known_from_the_config_are_the_model_s_but_for_its_norms(
    architecture: dict,
) -> None:
    counted = parameters.count_parameters(build.build(architecture, 64, 64, 0, 0)).total
    assert resources.model_parameters(architecture, 64) == pytest.approx(counted, rel=0.02)
