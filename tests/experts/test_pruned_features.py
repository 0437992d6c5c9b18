"""Features of an MoE without some of its experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.analysis.reruns import Rerun
from moediff.core.errors import UserError
from moediff.experts.pruned_features import pruned_features
from moediff.experts.pruning import Choice, Usage, pruned
from moediff.models.families import routers
from routed import made_dictionary, routed_rows

CPU = torch.device("cpu")


def usage(model) -> dict[int, Usage]:
    """Higher numbers are the less used."""
    return {layer: Usage(*(np.arange(8.0)[::-1] for _ in range(4))) for layer in routers(model)}


def test_what_is_lost_is_what_the_smaller_model_does_not_fire(tmp_path, token_shard) -> None:
    model, shard, data = routed_rows(tmp_path, token_shard, ("resid_post", 2))
    dictionary = made_dictionary(data, 40)
    again = Rerun(model, shard, False, 24, 8)
    table = pruned_features(
        dictionary, data, 0, again, usage(model), Choice(["frequency"], [1.0, 0.5]), CPU
    )
    assert table["keep"].unique().to_list() == [0.5]  # where all stay nothing is lost
    assert table["lost"].mean() > 0.05
    assert table["drive"].fill_null(0).is_between(-1, 2).all()
    # The smaller model by itself, its rows encoded by the same dictionary.
    smaller = pruned(model, {layer: [4, 5, 6, 7] for layer in routers(model)})
    masked = pruned_features(
        dictionary, data, 0, again, usage(model), Choice(["frequency"], [0.5]), CPU
    )
    assert masked.equals(table)
    from moediff.analysis.reruns import stored_passes
    from moediff.hooks.capture import Capture
    from moediff.hooks.points import Point

    point, fired, kept = Point("resid_post", 2), np.zeros(40), np.zeros(40)
    for run in stored_passes(data, 0, again, "test"):
        codes = []
        for one in (model, smaller):
            with Capture(one, [point]) as capture:
                rows = capture(**run.run.inputs).points[point].flatten(0, 1)[run.place]
            row, feature = dictionary.encode(dictionary.standardise([rows]))[0]
            table_of = torch.zeros(len(rows), 40, dtype=torch.bool)
            table_of[row, feature] = True
            codes.append(table_of.numpy())
        fired += codes[0].sum(0)
        kept += (codes[0] & codes[1]).sum(0)
    assert table["fired"].to_list() == pytest.approx(fired.tolist(), abs=2)
    assert np.allclose(table["lost"].fill_null(0), np.nan_to_num(1 - kept / fired), atol=0.02)


def test_a_hook_before_every_expert_is_refused(tmp_path, token_shard) -> None:
    model, shard, data = routed_rows(tmp_path, token_shard, ("resid_pre", 0))
    again = Rerun(model, shard, False, 24, 8)
    with pytest.raises(UserError, match=r"no layer has experts below resid_pre\.0"):
        pruned_features(
            made_dictionary(data, 8), data, 0, again, usage(model), Choice(["reap"], [0.5]), CPU
        )
