"""A freshly initialised language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig
from transformers.models.qwen3_moe import Qwen3MoeForCausalLM

# Matrices of one shape that lie under one another in a parameter, by the end of its name: an expert's gate
# and up projections, which a dense feed-forward has apart.
FUSED = {"gate_up_proj": 2}


def build(
    settings: Mapping[str, Any], vocabulary: int, context: int, end_of_text: int, seed: int
) -> PreTrainedModel:
    """A freshly initialised model; dense and MoE are the same class (decision 1).

    `settings` are the config's `train` keys. Dense is an MoE class whose every layer is named in
    `mlp_only_layers`, so that only the feed-forward differs.
    """
    experts, layers = settings["experts"], settings["layers"]
    config = Qwen3MoeConfig(  # type: ignore[call-arg]  # it takes head_dim as one of **kwargs
        vocab_size=vocabulary,
        hidden_size=settings["d_model"],
        num_hidden_layers=layers,
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["heads"],
        head_dim=settings["d_model"] // settings["heads"],
        intermediate_size=settings["ffn"],
        moe_intermediate_size=settings["ffn"],
        num_experts=experts,
        num_experts_per_tok=settings["top_k"],
        norm_topk_prob=settings["renormalise"],
        mlp_only_layers=list(range(layers)) if experts == 1 else [],
        max_position_embeddings=context,
        tie_word_embeddings=False,
        # The usual 0.02 suits a width of 768; a narrow model that starts as small learns far
        # slower (docs/decisions.md has the figures).
        initializer_range=0.02 * (768 / settings["d_model"]) ** 0.5,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3MoeForCausalLM(config)
