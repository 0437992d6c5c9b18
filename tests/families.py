"""Tiny random models of many families, for whatever must hold in all of them."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128,
    "use_cache": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip
SPARSE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# A window shorter than the segments of the tests, and not in every layer.
WINDOWS = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

# Name -> model_type of transformers and its settings.
DENSE_FAMILIES = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 128, "vocab_size": 64,
                      "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 4}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "olmo2": ("olmo2", {}),
    "gemma3": ("gemma3_text", WINDOWS | {"head_dim": 16}),
}  # fmt: skip
MOE_FAMILIES = {
    "mixtral": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen2-moe": ("qwen2_moe", SPARSE | {"shared_expert_intermediate_size": 24}),
    "qwen3-moe": ("qwen3_moe", SPARSE | {"head_dim": 16, "norm_topk_prob": True}),
    "qwen3-moe, raw": ("qwen3_moe", SPARSE | {"head_dim": 16, "norm_topk_prob": False}),
    "olmoe": ("olmoe", SPARSE),
    "deepseek-v2": ("deepseek_v2", LATENT | {"routed_scaling_factor": 2.0, "n_group": 1,
                    "topk_group": 1, "topk_method": "greedy"}),
    "deepseek-v2, groups": ("deepseek_v2", LATENT | {"routed_scaling_factor": 1.0, "n_group": 4,
                            "topk_group": 2, "topk_method": "group_limited_greedy"}),
    "deepseek-v3": ("deepseek_v3", LATENT | {"n_group": 4, "topk_group": 2,
                    "routed_scaling_factor": 2.5}),
    "gpt-oss": ("gpt_oss", WINDOWS | {"num_local_experts": 8, "num_experts_per_tok": 2,
                "head_dim": 16}),
    "granite-moe": ("granitemoe", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "glm4-moe": ("glm4_moe", SPARSE | {"n_routed_experts": 8, "n_shared_experts": 1, "head_dim": 16,
                 "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "phimoe": ("phimoe", {"num_local_experts": 8, "num_experts_per_tok": 2}),
}  # fmt: skip
FAMILIES = DENSE_FAMILIES | MOE_FAMILIES
# Attention and feed-forward side by side: no stream between them.
PARALLEL = {
    "gpt-neox": ("gpt_neox", {"use_parallel_residual": True}),
    "phi": ("phi", {}),
    "falcon": ("falcon", {"parallel_attn": True, "new_decoder_architecture": False}),
}
# What `FAMILIES` does not show, one each.
ODD = {
    # A router of another form.
    "llama4": ("llama4_text", {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16,
               "intermediate_size_mlp": 48, "moe_layers": [1, 2], "attention_chunk_size": 64}),
    # Not in the table: router and experts in the block itself; sigmoid; a form that is not known.
    "gemma4-moe": ("gemma4_text", SPARSE | {"head_dim": 16, "global_head_dim": 16,
                   "top_k_experts": 2, "enable_moe_block": True, "hidden_size_per_layer_input": 0,
                   "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0,
                   "sliding_window": 4, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
    "minimax-m2": ("minimax_m2", {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16,
                   "rotary_dim": 16}),
    "jetmoe": ("jetmoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 16,
               "num_key_value_heads": 1}),
    # A recurrent state beside attention; no part that is a feed-forward; four streams a token.
    "falcon-h1": ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16,
                  "mamba_d_state": 8, "mamba_n_groups": 1}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "deepseek-v4": ("deepseek_v4", LATENT | {"head_dim": 16}),
}  # fmt: skip


def tiny(name: str, seed: int = 0, **sizes: int) -> PreTrainedModel:
    """A random model of a family, for inference; its weights are large enough to tell rows apart."""
    kind, settings = (FAMILIES | PARALLEL | ODD)[name]
    whole = (settings if kind == "gpt2" else SIZES | settings) | sizes
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **whole)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
        for key, buffer in model.named_buffers():
            if "e_score_correction_bias" in key:  # learnt, and zero at first
                buffer.copy_(torch.rand(buffer.shape))
    return model.eval().requires_grad_(False)
