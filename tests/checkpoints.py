"""Tiny checkpoints as the world publishes them: multimodal, quantised, an adapter, a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel

from families import tiny

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 16, "bos_token_id": 0,
    "max_position_embeddings": 128, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
# As many layers as the text part has: nothing but its place tells the two stacks apart.
TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_TOWER = {
    "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 14,
    "intermediate_size": 24,
}  # fmt: skip
QWEN = {
    "image_token_id": 63, "video_token_id": 62, "vision_start_token_id": 61, "vision_end_token_id": 60,
}  # fmt: skip
THREE_POSITIONS = {
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
}
LLAMA4_TOWER = TOWER | {
    "intermediate_size": 64, "vision_output_dim": 32, "projector_input_dim": 32,
    "projector_output_dim": 32,
}  # fmt: skip
DEEP_STACK = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}


def text(kind: str, **more: object) -> dict:
    return TEXT | {"model_type": kind} | more


def tower(kind: str, **more: object) -> dict:
    return TOWER | {"model_type": kind} | more


# model_type of transformers -> settings. The ids of images are the last ones: no text of tests has them.
MULTIMODAL = {
    "gemma3": {"text_config": text("gemma3_text", sliding_window=4), "image_token_index": 63,
               "vision_config": tower("siglip_vision_model"), "mm_tokens_per_image": 4,
               "boi_token_index": 62, "eoi_token_index": 61},
    "gemma4": {"text_config": text("gemma4_text", global_head_dim=16, hidden_size_per_layer_input=0,
                                   vocab_size_per_layer_input=64, num_kv_shared_layers=0,
                                   sliding_window=4,
                                   layer_types=["sliding_attention", "full_attention"]),
               "vision_config": tower("gemma4_vision", head_dim=8, num_key_value_heads=2),
               "image_token_id": 63},
    "llava": {"text_config": text("llama"), "image_token_index": 63,
              "vision_config": tower("clip_vision_model", projection_dim=16)},
    "mistral3": {"text_config": text("mistral"), "vision_config": tower("pixtral"),
                 "image_token_index": 63},
    "internvl": {"text_config": text("qwen2"), "image_token_id": 63,
                 "vision_config": tower("internvl_vision", image_size=[28, 28], patch_size=[14, 14])},
    "idefics3": {"text_config": text("llama"), "vision_config": tower("idefics3_vision"),
                 "image_token_id": 63},
    "qwen2_vl": QWEN | {"text_config": text("qwen2_vl_text", **THREE_POSITIONS),
                        "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 32,
                                          "num_heads": 2, "patch_size": 14}},
    "qwen2_5_vl": QWEN | {"text_config": text("qwen2_5_vl_text", **THREE_POSITIONS),
                          "vision_config": QWEN_TOWER},
    "qwen3_vl": QWEN | {"text_config": text("qwen3_vl_text", **THREE_POSITIONS),
                        "vision_config": QWEN_TOWER | DEEP_STACK},
    "qwen3_vl_moe": QWEN | {"text_config": text("qwen3_vl_moe_text", num_experts=4,
                                                num_experts_per_tok=2, moe_intermediate_size=16,
                                                **THREE_POSITIONS),
                            "vision_config": QWEN_TOWER | DEEP_STACK},
    "llama4": {"text_config": text("llama4_text", num_local_experts=4, num_experts_per_tok=1,
                                   intermediate_size_mlp=48, attention_chunk_size=64),
               "vision_config": LLAMA4_TOWER, "image_token_index": 63},
}  # fmt: skip
# In its text part a token sees those after it.
PREFIX = {
    "paligemma": {"text_config": text("gemma"), "vision_config": tower("siglip_vision_model"),
                  "projection_dim": 32, "image_token_index": 63},
}  # fmt: skip


def multimodal(kind: str) -> PreTrainedModel:
    """A random multimodal model; its weights are large enough to tell rows apart."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(MULTIMODAL | PREFIX)[kind])
    model = AutoModelForMultimodalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


def change_config(folder: Path, **keys: object) -> Path:
    """Set keys of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def save_fp8(folder: Path) -> PreTrainedModel:
    """Save a checkpoint in 8-bit floats by blocks, as DeepSeek-V3 comes; gives what it stands for."""
    model, block = tiny("llama"), 16
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_proj" in name:
                out, into = (size // block for size in parameter.shape)
                blocks = parameter.reshape(out, block, into, block)
                scale = blocks.abs().amax((1, 3)) / 448  # [block of rows, block of columns]
                small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
                weights[name] = small.reshape(parameter.shape)
                weights[f"{name}_scale_inv"] = scale
                parameter.copy_((small.float() * scale[:, None, :, None]).reshape(parameter.shape))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(
        folder,
        quantization_config={"quant_method": "fp8", "weight_block_size": [block, block]},
    )
    return model


FOUR_BITS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def save_mxfp4(folder: Path) -> PreTrainedModel:
    """Save experts in 4-bit floats, 32 to a scale, as GPT-OSS comes; gives what it stands for."""
    model = tiny("gpt-oss", intermediate_size=32)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                experts, into, out = parameter.shape
                shape = (experts, out, into // 32)
                codes = torch.randint(0, 16, (*shape, 32), generator=random, dtype=torch.uint8)
                scales = torch.randint(121, 126, shape, generator=random, dtype=torch.uint8)
                low, high = codes[..., 0::2], codes[..., 1::2]
                del weights[name]
                weights[f"{name}_blocks"] = (low | high << 4).contiguous()
                weights[f"{name}_scales"] = scales
                values = FOUR_BITS[codes.long()] * 2.0 ** (scales.float()[..., None] - 127)
                parameter.copy_(values.reshape(experts, out, into).transpose(1, 2))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(
        folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": []}
    )
    return model
