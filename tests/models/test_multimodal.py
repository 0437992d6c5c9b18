"""Of a multimodal checkpoint the language model is found, counted and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from checkpoints import MULTIMODAL, PREFIX, change_config, multimodal
from moediff.core.errors import UserError
from moediff.models import loading, parameters, suitability
from moediff.models.families import blocks


def text_parameters(model) -> int:
    """Those whose name is not of a tower of images or what joins it to the text."""
    beside = ("vision", "visual", "projector", "connector", "multi_modal")
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not any(word in name for word in beside)
    )


@pytest.mark.parametrize("kind", sorted(MULTIMODAL))
def test_a_multimodal_checkpoint_is_loaded_whole_and_its_text_part_counted(
    kind: str, tmp_path: Path
) -> None:
    made = multimodal(kind)
    made.save_pretrained(tmp_path)
    loaded = loading.load(tmp_path)
    assert type(loaded) is type(made)
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    stack = blocks(loaded)
    assert len(stack) == 2
    assert "ision" not in type(stack[0]).__name__
    assert hasattr(stack[0], "mlp") or hasattr(stack[0], "feed_forward")
    found = parameters.count_parameters(loaded)
    text = loaded.config.get_text_config()
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    idle = 0
    if experts:
        every = sum(p.numel() for n, p in loaded.named_parameters() if ".experts." in n)
        idle = every - every * text.num_experts_per_tok // experts
    assert found.total == sum(parameter.numel() for parameter in loaded.parameters())
    assert found.active == text_parameters(loaded) - idle
    assert found.active < found.total - idle
    suitability.check_causal(loaded, "made")


def test_the_architecture_that_the_checkpoint_names_decides_among_classes(tmp_path: Path) -> None:
    multimodal("llama4").save_pretrained(tmp_path)
    assert type(loading.load(tmp_path)).__name__ == "Llama4ForConditionalGeneration"


@pytest.mark.parametrize("kind", sorted(PREFIX))
def test_a_model_in_which_tokens_see_those_after_them_is_refused(kind: str, tmp_path: Path) -> None:
    multimodal(kind).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sees those after it"):
        suitability.check_causal(loading.load(tmp_path), "made")


def test_a_tower_of_another_depth_than_its_weights_is_refused(tmp_path: Path) -> None:
    made = multimodal("gemma3")
    made.save_pretrained(tmp_path)
    tower = made.config.vision_config.to_dict()
    for layers in (1, 3, 10**9):
        change_config(tmp_path, vision_config=tower | {"num_hidden_layers": layers})
        with pytest.raises(UserError) as caught:
            loading.load(tmp_path)
        assert "\n" not in str(caught.value)
