"""Parameters of a model, total and active."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")


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
