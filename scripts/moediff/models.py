"""Language models: build, load, count parameters, and run on packed sequences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward
from transformers.models.qwen3_moe import Qwen3MoeForCausalLM

from moediff import artifact
from moediff.errors import DamagedError, UserError, first_line
from moediff.tokens import Vocabulary, entries_digest, segment_positions, vocabulary_size

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")


def build(
    settings: Mapping[str, Any], vocabulary: int, context: int, end_of_text: int, seed: int
) -> PreTrainedModel:
    """A freshly initialised model; dense and MoE are the same class (decision 1).

    `settings` are the config's `train` keys. Dense is an MoE class whose every layer is named in
    `mlp_only_layers`, so that only the feed-forward differs.
    """
    experts, layers = settings["experts"], settings["layers"]
    config = Qwen3MoeConfig(
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


def follow_autocast(model: PreTrainedModel) -> None:
    """Make fused experts compute in the dtype of autocast, as every linear layer does.

    torch's grouped product is not on autocast's list: without this an MoE's experts would run in
    the masters' float32 beside a dense feed-forward in bfloat16.
    """
    ALL_EXPERTS_FUNCTIONS.register("autocast", _autocast_experts)
    model.set_experts_implementation("autocast")


class _Narrowed:
    """An experts module whose parameters are seen in another dtype; gradients reach the masters."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self.experts, self.dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.experts, name)
        return value.to(self.dtype) if isinstance(value, nn.Parameter) else value


def _autocast_experts(experts: nn.Module, hidden: Tensor, *routing: Tensor) -> Tensor:
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        experts = _Narrowed(experts, torch.get_autocast_dtype(kind))
    return grouped_mm_experts_forward(experts, hidden, *routing)


@dataclass(frozen=True)
class Parameters:
    """Parameter counts; `active` are those that one token uses."""

    total: int
    active: int
    embedding: int  # token embedding and unembedding, part of both
    router: int  # part of both


def count_parameters(model: PreTrainedModel) -> Parameters:
    """Counts by structure: of `.experts.` tensors a token uses top_k of every expert's."""
    total = active = embedding = router = 0
    expert_count, top_k = _first(model, _EXPERT_COUNTS), _first(model, _TOP_K)
    unembedding = model.get_output_embeddings()
    heads = {id(part) for part in model.get_input_embeddings().parameters()}
    heads |= {id(part) for part in unembedding.parameters()} if unembedding is not None else set()
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        total += size
        if ".experts." in name and expert_count and top_k:
            size = size * top_k // expert_count
        active += size
        if id(parameter) in heads:
            embedding += size
        elif name.endswith(
            ("mlp.gate.weight", "mlp.router.weight", "block_sparse_moe.gate.weight")
        ):
            router += size
    return Parameters(total, active, embedding, router)


def _first(model: PreTrainedModel, names: tuple[str, ...]) -> int | None:
    config = model.config.get_text_config()
    return next((getattr(config, name) for name in names if getattr(config, name, None)), None)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors as `save_pretrained` does, each whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        model.save_pretrained(scratch, max_shard_size="1TB")
        for name in (CONFIG, WEIGHTS):
            artifact.copy_whole(Path(scratch) / name, folder / name)


def fetch(name: str, revision: str | None) -> Path:
    """Folder of a checkpoint: a local one as it is, a Hub id downloaded (safetensors only)."""
    if Path(name).is_dir():
        folder = Path(name)
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.txt"]
                )
            )
        except Exception as error:  # the Hub's client raises a dozen unrelated classes
            raise UserError(
                f"model '{name}': no such folder, and the Hub cannot be read "
                f"({type(error).__name__}: {first_line(error)}); check the name, the revision and the network"
            ) from error
    if not (folder / CONFIG).is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(f"model '{name}': needs {CONFIG} and safetensors weights in {folder.name}/")
    return folder


def digest(folder: Path) -> str:
    """Digest of a checkpoint's config and weights."""
    return artifact.digest_files([folder / CONFIG, *sorted(folder.glob("*.safetensors"))])


def load(
    folder: Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    device_map: str | None = None,
) -> PreTrainedModel:
    """A causal language model of a folder, for inference; no code of the folder is run.

    It lies whole on `device`, or, by a `device_map` of accelerate, layer by layer on the devices
    that there are. Raises UserError when transformers has no such class or a weight is missing or of another
    shape (which transformers would fill with random numbers), DamagedError when weights are cut.
    """
    from safetensors import SafetensorError

    if device_map and not find_spec("accelerate"):
        raise UserError("device_map: needs the package accelerate; install it, or leave it out")
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed, and refused below by name
            device_map=device_map,
        )
    except SafetensorError as error:
        raise DamagedError(folder, f"its weights are not whole ({first_line(error)})") from error
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{folder}: transformers cannot load it as a causal language model "
            f"({first_line(error)})"
        ) from error
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise UserError(
            f"{folder}: {len(absent)} weights of {type(model).__name__} are missing or of another "
            f"shape ({absent[0]}); take a whole checkpoint of a causal language model"
        )
    placed = model if device_map else model.to(device)
    return placed.eval().requires_grad_(False)


def write_manifest(
    path: Path | str,
    model: PreTrainedModel,
    folder: Path,
    shown: str,
    dtype: str,
    made_by: Mapping[str, Any],
) -> None:
    """Write what later stages need of a model: where it is, its digest, its sizes."""
    config = model.config.get_text_config()
    artifact.write_json(
        path,
        {
            **made_by,
            "folder": shown,  # "." is the manifest's own
            "digest": digest(folder),
            "dtype": dtype,
            "class": type(model).__name__,
            "layers": config.num_hidden_layers,
            "d_model": config.hidden_size,
            "parameters": asdict(count_parameters(model)),
        },
    )


def open_manifest(
    path: Path | str, device: torch.device, device_map: str | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model that a manifest describes, and the manifest.

    Raises DamagedError when the weights are no longer those that it describes.
    """
    facts = artifact.read_json(path)
    artifact.check_format(path, facts)
    folder = Path(path).parent if facts["folder"] == "." else Path(facts["folder"])
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{path} describes the checkpoint in {folder}, which is gone; put it back, or run "
            f"rm '{path}' and then the same snakemake command again"
        )
    if digest(folder) != facts["digest"]:
        changed = folder / WEIGHTS if facts["folder"] == "." else path
        raise DamagedError(changed, "the weights are not those that model.json describes")
    return load(folder, facts["dtype"], device, device_map), facts


def check_vocabulary(
    folder: Path, model: PreTrainedModel, vocabulary: Vocabulary, name: str
) -> None:
    """Refuse a checkpoint whose tokens are not those of the corpus."""
    entries = model.get_input_embeddings().num_embeddings
    if vocabulary.size > entries:
        raise UserError(
            f"model '{name}': its vocabulary has {entries} entries, the corpus tokenizer "
            f"{vocabulary.size}; set corpus.tokenizer to {{load: {name}}}"
        )
    own = folder / "tokenizer.json"
    if own.is_file():
        tokenizer = Tokenizer.from_file(str(own))
        if entries_digest(tokenizer) != vocabulary.entries:
            raise UserError(
                f"model '{name}': its tokenizer ({vocabulary_size(tokenizer)} entries) is not that "
                f"of the corpus ({vocabulary.size}); set corpus.tokenizer to {{load: {name}}}"
            )


def check_context(model: PreTrainedModel, length: int, name: str) -> None:
    """Refuse sequences longer than a checkpoint was made for.

    By a tokenizer of its own the longest sequence of a shard may have more tokens than the corpus's.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length > most:
        raise UserError(
            f"model '{name}': made for sequences of {most} tokens, corpus.sequence.length is "
            f"{length}; lower it"
        )


def model_inputs(
    tokens: np.ndarray, starts: np.ndarray, device: torch.device | str
) -> dict[str, Tensor | bool | None]:
    """Arguments of a forward pass over packed sequences [batch, position].

    Positions count from 0 in every segment. transformers reads such positions, without an
    attention mask, as packed sequences and keeps attention inside each.
    """
    positions = torch.from_numpy(segment_positions(starts)).to(device)
    return {
        "input_ids": torch.from_numpy(tokens.astype(np.int64)).to(device),
        "position_ids": positions,
        "use_cache": False,
    }


# Families that transformers runs without looking at packed positions: their attention would cross
# documents (seen in 5.23). `capture.calibrate` proves it of every model.
_IGNORES_PACKING = ("gpt_oss",)


def packed_inputs(
    model: PreTrainedModel, tokens: np.ndarray, starts: np.ndarray
) -> dict[str, Tensor | bool | None]:
    """`model_inputs` on the model's own device, with masks where the family needs them."""
    inputs = model_inputs(tokens, starts, model.device)
    config = model.config.get_text_config()
    if config.model_type in _IGNORES_PACKING:
        segment = torch.from_numpy(starts.cumsum(1)).to(model.device)
        inputs["attention_mask"] = {
            "full_attention": _mask(segment, None, model.dtype),
            "sliding_attention": _mask(segment, config.sliding_window, model.dtype),
        }
    return inputs


def _mask(segment: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to attention [batch, 1, query, key]: 0 where a query sees a key."""
    place = torch.arange(segment.shape[1], device=segment.device)
    distance = place[:, None] - place[None]
    seen = (segment[:, :, None] == segment[:, None]) & (distance >= 0)
    if window is not None:
        seen &= distance < window
    hidden = torch.finfo(dtype).min
    return torch.where(seen, 0.0, hidden).to(dtype)[:, None]


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its unembedding."""
    return model.base_model
