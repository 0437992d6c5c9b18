"""The table of families agrees with transformers' models, and nothing beside it knows an MoE by its names."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from families import DENSE_FAMILIES, MOE_FAMILIES, ODD, tiny
from moediff.models.families import (
    FAMILIES,
    backbone,
    blocks,
    expert_count,
    find_router,
    gates_of,
    ignores_packing,
    is_expert_parameter,
    read_routed,
    residual_scale,
    routers,
    top_k,
    write_routed,
)
from moediff.models.parameters import count_parameters
from workflow import ROOT

LIBRARY = ROOT / "scripts/moediff"
EVERY = [*MOE_FAMILIES, "llama4"]  # all of the table
# Names by which configs, modules and parameters of an MoE are known.
NAMES = re.compile(
    r"model_type|num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_experts_per_tok(en)?"
    r"|moe_top_k|moe_k|norm_topk_prob|routed_scaling_factor|residual_multiplier|e_score_correction_bias"
    r"|router_jitter_noise|n_group|topk_group|feed_forward|block_sparse_moe|mlp\.(gate|router)|\.experts\."
)


def names_in(source: str) -> set[str]:
    """Names of an MoE in a module's attributes and strings; docstrings and keywords apart."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    words = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words += [] if id(node) in docstrings else [node.value]
    return {word for word in words if re.search(rf"(?<!\w)(?:{NAMES.pattern})(?!\w)", word)}


def test_no_other_module_knows_an_moe_by_its_names() -> None:
    own = LIBRARY / "models/families.py"
    assert len(names_in(own.read_text(encoding="utf-8"))) > 15
    for path in sorted(LIBRARY.rglob("*.py")):
        if path != own:
            assert not names_in(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "source",
    [
        'getattr(block, "residual_multiplier", 1.0)', 'config.model_type == "x"', "config.num_experts",
        'name.endswith(".mlp.gate")', 'if ".experts." in name: pass', 'f"{a}.block_sparse_moe.router"',
    ],
)  # fmt: skip
def test_names_of_an_moe_are_seen_wherever_they_stand(source: str) -> None:
    assert names_in(source)
    assert not names_in(f"'''{source}'''")  # as a docstring


@pytest.mark.parametrize("family", EVERY)
def test_the_table_says_what_a_model_is(family: str) -> None:
    model = tiny(family)
    config = model.config.get_text_config()
    found = routers(model)
    settings = (MOE_FAMILIES | ODD)[family][1]
    held = {name.split(".")[2] for name, _ in model.named_modules() if name.endswith(".experts")}
    assert {str(layer) for layer in found} == held != set()
    assert expert_count(model) == 8
    assert top_k(model) == settings["num_experts_per_tok"]
    for layer, router in found.items():
        assert router is blocks(model)[layer].get_submodule(FAMILIES[config.model_type].router)
        assert router is find_router(model, blocks(model)[layer])
        assert router.weight.shape[0] == expert_count(model)
    experts = [name for name, _ in model.named_parameters() if is_expert_parameter(name)]
    assert {name.split(".")[2] for name in experts} == held
    assert not any("shared" in name for name in experts)


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_a_dense_model_has_no_routers(family: str) -> None:
    model = tiny(family)
    assert routers(model) == {}
    assert expert_count(model) is top_k(model) is None
    assert not ignores_packing(model)
    assert [residual_scale(block) for block in blocks(model)] == [1.0] * 3


def test_packing_is_ignored_where_the_table_says_so() -> None:
    assert ignores_packing(tiny("gpt-oss"))
    assert not ignores_packing(tiny("olmoe"))
    assert not ignores_packing(tiny("minimax-m2"))  # which is not in the table


def test_a_block_says_by_what_it_scales_its_stream() -> None:
    model = tiny("granite-moe")
    blocks(model)[1].residual_multiplier = 0.22
    assert [residual_scale(block) for block in blocks(model)] == [1.0, 0.22, 1.0]


@pytest.mark.parametrize("family", EVERY)
def test_a_routers_output_comes_back_from_the_common_form_as_it_was(family: str) -> None:
    model, outputs = tiny(family), []
    for router in routers(model).values():
        router.register_forward_hook(lambda _, __, out: outputs.append(out))
    with torch.no_grad():
        backbone(model)(input_ids=torch.arange(1, 20)[None])
    assert len(outputs) == len(routers(model))
    for out in outputs:
        routed = read_routed(model, out)
        assert routed.logits.shape == (19, 8)
        assert routed.gates.shape == routed.experts.shape == (19, top_k(model))
        again = write_routed(model, routed)
        assert len(again) == len(out)
        assert all(torch.equal(one, two) for one, two in zip(again, out, strict=True))
        assert torch.equal(gates_of(model, routed.logits, routed.experts), routed.gates)


def test_outputs_of_another_form_are_not_taken_for_routing() -> None:
    model = tiny("olmoe")
    logits, gates, experts = torch.randn(4, 8), torch.rand(4, 2), torch.zeros(4, 2).long()
    assert read_routed(model, (logits, gates, experts)) is not None
    for out in (
        logits, (logits, gates), (logits, gates, experts, gates), (logits, experts, gates),
        (logits, gates[:, :1], experts), (logits[0], gates[0], experts[0]), [logits, gates, experts],
    ):  # fmt: skip
        assert read_routed(model, out) is None
    assert read_routed(tiny("llama4"), (logits, gates, experts)) is None


@pytest.mark.parametrize("family", [*EVERY, "gemma4-moe", "minimax-m2", "llama", "opt"])
def test_parameters_of_routers_are_counted_by_structure(family: str) -> None:
    model = tiny(family)
    found = count_parameters(model)
    parts = [part for part in model.modules() if re.search(r"Router|TopK", type(part).__name__)]
    wanted = {id(p): p.numel() for part in parts for p in part.parameters()}
    assert found.router == sum(wanted.values())
    assert (found.router > 0) == (family not in ("llama", "opt"))
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert found.total - found.active == experts - experts * (top_k(model) or 0) // 8
    assert found.total == model.num_parameters()


def test_counts_of_models_whose_routers_are_not_found_are_made_all_the_same() -> None:
    model = tiny("gpt-oss")
    blocks(model)[1].mlp.chooser = blocks(model)[1].mlp.router
    del blocks(model)[1].mlp.router
    assert count_parameters(model).router == 0
    for family in ODD:
        found = count_parameters(tiny(family))
        assert found.total >= found.active > found.embedding > 0


def test_a_family_is_one_line(monkeypatch) -> None:
    """MiniMax-M2 with its line has all that families of the table have: here its rule for gates."""
    model = tiny("minimax-m2")
    router, out = routers(model)[1], []
    router.register_forward_hook(lambda _, __, given: out.append(given))
    with torch.no_grad():
        backbone(model)(input_ids=torch.arange(1, 20)[None])
    line = replace(
        FAMILIES["deepseek_v3"], renormalised=FAMILIES["mixtral"].renormalised, scaled=False
    )
    monkeypatch.setitem(FAMILIES, model.config.model_type, line)
    routed = read_routed(model, out[0])
    assert line.gates_sum(model.config) == 1.0
    assert torch.equal(gates_of(model, routed.logits, routed.experts), routed.gates)


def test_lists_beside_the_blocks_are_not_taken_for_them() -> None:
    model = tiny("llama")
    model.base_model.others = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert blocks(model) is model.base_model.layers
