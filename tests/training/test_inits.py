"""How models begin: from scratch, and with the weights of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import DENSE, MOE, PLAN, SCHEMA, VOCABULARY
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.corpus.token_shards import TokenSplit
from moediff.models import loading
from moediff.training import inits, loop
from moediff.training.history import final_losses

CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path: Path, token_shard, architecture, tiny_model):
    """A start whose source is a trained model, that model, and what it was trained on."""
    data = TokenSplit([token_shard()])
    model = tiny_model(architecture, seed=3)
    loop.train(model, PLAN, data, data, tmp_path / "state", CPU)
    folder = tmp_path / "source"
    loading.save(model, folder)
    facts = {"format": artifact.FORMAT}
    loading.write_manifest(folder / "model.json", model, folder, ".", "float32", facts)
    start = inits.Start(architecture, VOCABULARY, 64, 0, 3, folder / "model.json")
    return start, model, data


def test_scratch_is_decided_by_the_seed(architecture, tiny_model) -> None:
    start = inits.Start(architecture, VOCABULARY, 64, 0, 3)
    model, same = inits.begin({}, start), tiny_model(architecture, seed=3)
    for name, value in same.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_checkpoint_begins_with_the_weights_of_its_source(trained) -> None:
    start, source, _ = trained
    model = inits.begin({"checkpoint": "source"}, start)
    assert model.config.to_dict().keys() == source.config.to_dict().keys()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_that_begins_with_another_goes_on_where_it_ended(trained, tmp_path: Path) -> None:
    start, source, data = trained
    untouched = replace(PLAN, sequences=0)
    copy = inits.begin({"checkpoint": "source"}, start)
    at_0 = final_losses(loop.train(copy, untouched, data, data, tmp_path / "0", CPU))
    ended = final_losses(loop.train(source, untouched, data, data, tmp_path / "1", CPU))
    assert at_0 == ended
    more = loop.train(copy, replace(PLAN, data_seed=1), data, data, tmp_path / "2", CPU)
    assert final_losses(more)["all"] < at_0["all"]


def test_checkpoint_of_another_architecture_is_refused_in_one_line(trained, architecture) -> None:
    start, _, _ = trained
    other = MOE if architecture is DENSE else DENSE
    with pytest.raises(UserError, match=r"model\.json: not a model of the architecture") as caught:
        inits.begin({"checkpoint": "source"}, replace(start, architecture=other))
    assert "\n" not in str(caught.value)


def test_checkpoint_whose_weights_were_changed_is_refused(trained) -> None:
    start, _, _ = trained
    weights = Path(start.source).with_name("model.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-5] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(DamagedError, match="rm "):
        inits.begin({"checkpoint": "source"}, start)


def test_provenance_names_the_source_and_its_digest(trained) -> None:
    start, _, _ = trained
    digest = artifact.read_json(start.source)["digest"]
    assert inits.provenance({}, start) == {}
    assert inits.provenance({"checkpoint": "base"}, start) == {
        "init": {"checkpoint": "base", "digest": digest}
    }


def test_the_schema_names_every_init_but_scratch() -> None:
    (trained_branch,) = (
        branch for branch in SCHEMA["$defs"]["model"]["oneOf"] if branch["required"] == ["train"]
    )
    keys = trained_branch["properties"]["init"]["properties"]
    assert {"scratch", *keys} == set(inits.INITS)
