"""A GGUF file is read as the model and the tokenizer that it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from families import tiny
from moediff.core.errors import UserError
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    entries_digest,
    load_tokenizer,
    read_vocabulary,
    train_tokenizer,
    write_tokenizer,
)
from moediff.models import fetching, loading, suitability

gguf = pytest.importorskip("gguf")
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
SIZES = {"vocab_size": 265, "intermediate_size": 64}


def write(path: Path, model, tokenizer: Tokenizer, kind=None) -> None:
    """Write a tiny Llama and its tokenizer as llama.cpp does: rotary pairs side by side."""
    config, file = model.config, gguf.GGUFWriter(str(path), "llama")
    file.add_block_count(config.num_hidden_layers)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(config.rope_parameters["rope_theta"])
    file.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    file.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(tokens)
    file.add_token_types([3 if token == END_OF_TEXT else 1 for token in tokens])
    file.add_token_merges([" ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]])
    file.add_bos_token_id(0)
    file.add_eos_token_id(0)
    for name, tensor in model.state_dict().items():
        array, place = tensor.numpy(), name.removesuffix(".weight")
        if place.startswith("model.layers."):
            _, _, layer, place = place.split(".", 3)
            if place.endswith(("q_proj", "k_proj")):
                pairs = array.reshape(config.num_attention_heads, 2, -1, array.shape[1])
                array = pairs.swapaxes(1, 2).reshape(array.shape)
            named = f"blk.{layer}.{NAMES[place]}.weight"
        else:
            named = f"{NAMES[place]}.weight"
        if kind is not None and array.ndim > 1:
            file.add_tensor(named, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            file.add_tensor(named, np.ascontiguousarray(array))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.mark.parametrize("kind", [None, "Q8_0"])
def test_a_gguf_file_gives_its_model_and_its_tokenizer(kind: str | None, tmp_path: Path) -> None:
    path, model = tmp_path / "small.gguf", tiny("llama", **SIZES)
    tokenizer = train_tokenizer(["the cat sat on the mat "] * 50, SIZES["vocab_size"])
    quantised = kind and gguf.GGMLQuantizationType[kind]
    write(path, model, tokenizer, quantised)
    if quantised:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    blocks = gguf.quants.quantize(parameter.numpy(), quantised)
                    parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, quantised)))
    loaded = loading.load(fetching.fetch(str(path), None))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)
    found, end, special = load_tokenizer(str(path), None)
    assert (end, entries_digest(found)) == (END_OF_TEXT, entries_digest(tokenizer))
    assert found.encode("the mat sat").ids == tokenizer.encode("the mat sat").ids
    suitability.check_causal(loaded, "made")
    suitability.check_own_tokenizer(path, loaded, "made")
    corpus = tmp_path / "corpus.json"
    write_tokenizer(corpus, tmp_path / "vocabulary.json", found, end, special)
    vocabulary = read_vocabulary(tmp_path / "vocabulary.json")
    suitability.check_vocabulary(path, loaded, vocabulary, corpus, "made")
    other = train_tokenizer(["une vache qui rit au pays "] * 50, SIZES["vocab_size"])
    write_tokenizer(corpus, tmp_path / "vocabulary.json", other, end, special)
    vocabulary = read_vocabulary(tmp_path / "vocabulary.json")
    with pytest.raises(UserError, match="is not that of the corpus"):
        suitability.check_vocabulary(path, loaded, vocabulary, corpus, "made")


@pytest.mark.parametrize("count", ["num_hidden_layers", "vocab_size"])
def test_a_gguf_file_that_names_more_than_its_weights_are_is_one_line(
    count: str, tmp_path: Path
) -> None:
    path, model = tmp_path / "small.gguf", tiny("llama", **SIZES)
    setattr(model.config, count, 10**9)
    write(path, model, train_tokenizer(["the cat sat on the mat "] * 50, SIZES["vocab_size"]))
    with pytest.raises(
        UserError, match=r"small\.gguf: its config (names 1000000000 layers|describes)"
    ):
        loading.load(fetching.fetch(str(path), None))


def test_the_manifest_of_a_gguf_file_covers_it_and_a_cut_one_is_one_line(tmp_path: Path) -> None:
    path, model = tmp_path / "small.gguf", tiny("llama", **SIZES)
    tokenizer = train_tokenizer(["the cat sat on the mat "] * 50, SIZES["vocab_size"])
    write(path, model, tokenizer)
    before, whole = loading.digest(path), path.read_bytes()
    for cut in (
        whole[:-1000],
        whole[:500],
        whole[:4],
        b"",
        b"GGUF" + bytes(100),
        whole[:-1] + b"x",
    ):
        path.write_bytes(cut)
        assert loading.digest(path) != before
        if cut != whole[:-1] + b"x":
            with pytest.raises(UserError) as caught:
                loading.load(fetching.fetch(str(path), None))
            assert "\n" not in str(caught.value)
