"""From a model to a shard: the right rows, as a fresh pass gives them, with the routing that was used."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import DENSE, DROP, MOE, cached
from families import FAMILIES, MOE_FAMILIES, tiny
from moediff.activations.kept_rows import kept_rows
from moediff.activations.rows import AlignedRows
from moediff.activations.shards import Shard
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.models import inputs, loading
from moediff.models.families import blocks

BATCH = 8


def hand_made(special: tuple[int, ...] = (0,)) -> TokenShard:
    place = np.arange(8, dtype=np.uint32).reshape(2, 4)
    return TokenShard(
        tokens=np.array([[5, 6, 0, 7], [8, 0, 9, 9]], np.uint16),
        document=np.array([[1, 1, 1, 2], [2, 2, 3, -1]]),
        group=np.array([[4, 4, 4, 4], [4, 4, 5, -1]]),
        domain=np.zeros((2, 4), np.uint8),
        start=place, end=place + 1, word_end=np.ones((2, 4), bool),
        domains=("one",), tokenizer="x", first=10, digest="y", special=special,
    )  # fmt: skip


def test_rows_left_out_are_padding_specials_and_what_attention_sees_first() -> None:
    kept = kept_rows(hand_made(), DROP, across_documents=False)
    assert kept.mask.tolist() == [[False, True, False, False], [False, False, False, False]]
    assert kept.columns["token"].tolist() == [6]
    assert kept.columns["sequence"].tolist() == [10]
    assert kept.columns["position"].tolist() == [1]
    assert kept.columns["document"].tolist() == [1]
    assert kept.columns["group"].tolist() == [4]
    assert kept.columns["end"].tolist() == [2]
    assert kept.left_out == {"padding": 1, "special_tokens": 2, "sequence_start": 4}
    kept = kept_rows(hand_made(), DROP, across_documents=True)
    assert kept.mask.tolist() == [[False, True, False, True], [False, False, True, False]]
    off = {"sequence_start": False, "special_tokens": False, "massive_norm": None}
    assert kept_rows(hand_made(), off, False).mask.sum() == 7  # padding is never a row
    assert (
        kept_rows(hand_made(special=(0, 9)), off | {"special_tokens": True}, False).mask.sum() == 4
    )


def fresh(model, shard: TokenShard, layer: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """resid_post [sequence, position, d_model] of a plain pass, and the experts of each MoE layer.

    By hooks of its own: the block's output, and what its router returns.
    """
    rows, experts = [], {}
    stack = blocks(model)

    def take(_, __, out) -> None:
        rows.append((out[0] if isinstance(out, tuple) else out).float())

    handles = [stack[layer].register_forward_hook(take)]
    for number, block in enumerate(stack[: layer + 1]):
        for name, part in block.named_modules():
            if name.endswith((".gate", ".router")):

                def routed(_, __, out, number=number) -> None:
                    if isinstance(out, tuple) and len(out) == 3:
                        experts.setdefault(number, []).append(out[2])

                handles.append(part.register_forward_hook(routed))  # fmt: skip
    starts = segment_starts(shard.document)
    with torch.no_grad():
        for first in range(0, len(shard.tokens), BATCH):
            part = slice(first, first + BATCH)
            model(**inputs.packed_inputs(model, shard.tokens[part], starts[part]))
    for handle in handles:
        handle.remove()
    shape = (*shard.tokens.shape, -1)
    return (
        torch.cat(rows).numpy(),
        {number: torch.cat(found).reshape(shape).numpy() for number, found in experts.items()},
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_stored_rows_and_experts_are_those_of_a_fresh_pass(
    family: str, token_shard, tmp_path: Path
) -> None:
    model, shard = tiny(family).eval(), read_token_shard(token_shard())
    stored = cached(model, shard, tmp_path / "a.zarr.zip", batch=BATCH)
    wanted, experts = fresh(model, shard, 1)
    chosen = np.random.default_rng(0).choice(stored.count, 200, replace=False)
    at = stored.read("sequence")[chosen] - shard.first, stored.read("position")[chosen]
    np.testing.assert_array_equal(stored.read("document")[chosen], shard.document[at])
    np.testing.assert_array_equal(stored.read("token")[chosen], shard.tokens[at])
    rows = stored.rows(0, stored.count).numpy()[chosen]
    np.testing.assert_allclose(rows, wanted[at], rtol=2**-10, atol=1e-5 * np.abs(wanted).max())
    assert (family in MOE_FAMILIES) == bool(stored.routed())
    for layer in stored.routed():
        found = np.sort(stored.read(f"experts.{layer}")[chosen], 1)
        differs = (found != np.sort(experts[layer][at], 1)).any(1)
        assert differs.mean() < 0.01, f"{differs.sum()} of 200 rows have other experts"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_moments_and_facts(token_shard, tiny_model, tmp_path: Path, dtype: str) -> None:
    stored = cached(
        tiny_model(MOE).eval(),
        read_token_shard(token_shard()),
        tmp_path / "a.zarr.zip",
        dtype=dtype,
    )
    rows = stored.rows(0, stored.count).double().numpy()
    ((mean, variance),) = AlignedRows([[stored.path]]).moments()
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-12)
    assert variance == pytest.approx(rows.var(0).sum())
    assert stored.facts["left_out"]["sequence_start"] > 0
    assert stored.points["resid_post.1"]["hook"] == "resid_post.1"
    gates = stored.read("gates.1")
    assert gates.dtype == np.float32
    assert (gates.sum(1) < 1).all()  # norm_topk_prob is off: the mass of the chosen two of four


def test_several_points_in_one_pass_are_those_of_one_each(
    token_shard, tiny_model, tmp_path: Path
) -> None:
    model, shard = tiny_model(MOE).eval(), read_token_shard(token_shard())
    points = [("resid_post", 0), ("mlp_out", 1), ("resid_pre", 1), ("resid_post", 1)]
    together = cached(model, shard, tmp_path / "all.zarr.zip", points)
    for number, point in enumerate(points):
        alone = cached(model, shard, tmp_path / f"{number}.zarr.zip", [point])
        name = f"{point[0]}.{point[1]}"
        np.testing.assert_array_equal(together.read(name), alone.read(name))
    np.testing.assert_array_equal(
        together.rows(0, 99, "resid_post.0").numpy(), together.rows(0, 99, "resid_pre.1").numpy()
    )
    names = ["resid_post.0", "resid_post.1"]
    data = AlignedRows([[together.path]] * 2, names)
    assert [origin["hook"] for origin in data.origins] == names
    one, two = next(data.in_order(50))
    assert not torch.equal(one, two)


def test_routing_is_kept_as_far_as_it_is_asked_for(token_shard, tiny_model, tmp_path: Path) -> None:
    shard = read_token_shard(token_shard())
    for routing, kinds in (
        ("none", set()),
        ("used", {"experts", "gates"}),
        ("probabilities", {"experts", "gates", "probabilities"}),
    ):
        path = tmp_path / f"{routing}.zarr.zip"
        stored = cached(tiny_model(MOE).eval(), shard, path, routing=routing)
        found = {name.split(".")[0] for name in stored.arrays if name.endswith((".0", ".1"))}
        assert found == kinds | {"resid_post"}
    probabilities, experts = stored.read("probabilities.1"), stored.read("experts.1")
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    best = np.sort(np.argsort(-probabilities, 1)[:, :2], 1)
    np.testing.assert_array_equal(best, np.sort(experts, 1))
    dense = cached(tiny_model(DENSE).eval(), shard, tmp_path / "dense.zarr.zip")
    assert dense.routed() == []


def test_massive_rows_are_marked_from_the_median_of_the_calibration(
    token_shard, tiny_model, tmp_path: Path
) -> None:
    drop = DROP | {"massive_norm": 1.2}
    stored = cached(
        tiny_model(DENSE).eval(), read_token_shard(token_shard()), tmp_path / "a.zip", drop=drop
    )
    norms = stored.rows(0, stored.count).norm(dim=1).numpy()
    massive = stored.massive("resid_post.1")
    most = stored.points["resid_post.1"]["most"]
    assert 0 < massive.sum() < stored.count / 2
    assert ((norms > most * 1.001) <= massive).all()
    assert (massive <= (norms > most * 0.999)).all()
    assert AlignedRows([[stored.path]]).count == stored.count - massive.sum()


def test_the_same_shard_twice_has_the_same_contents(
    token_shard, architecture, tiny_model, tmp_path: Path
) -> None:
    model, shard = tiny_model(architecture).eval(), read_token_shard(token_shard())
    one, two = (cached(model, shard, tmp_path / name) for name in ("1.zip", "2.zip"))
    for name in one.arrays:
        np.testing.assert_array_equal(one.read(name), two.read(name))


def test_a_model_that_gives_no_numbers_is_named(token_shard, tiny_model, tmp_path: Path) -> None:
    model = tiny_model(DENSE).eval()
    with torch.no_grad():
        blocks(model)[1].mlp.down_proj.weight[:] = torch.nan
    with pytest.raises(UserError, match=r"resid_post\.1: not finite in the first 24 sequences"):
        cached(model, read_token_shard(token_shard()), tmp_path / "a.zip")
    assert not list(tmp_path.glob("a.zip*"))
    assert not list(tmp_path.glob(".a.zip*"))


@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_a_checkpoint_placed_by_accelerate_gives_the_same_rows(
    token_shard, tiny_model, tmp_path: Path, device_map: str
) -> None:
    pytest.importorskip("accelerate")
    loading.save(tiny_model(MOE), tmp_path / "m")
    shard = read_token_shard(token_shard())
    found = [
        cached(loading.load(tmp_path / "m", device_map=placed), shard, tmp_path / f"{placed}.zip")
        for placed in (None, device_map)
    ]
    np.testing.assert_array_equal(*(stored.read("resid_post.1") for stored in found))


def test_a_shard_says_what_it_is(token_shard, tiny_model, tmp_path: Path) -> None:
    stored = cached(tiny_model(DENSE).eval(), read_token_shard(token_shard()), tmp_path / "a.zip")
    facts = Shard(stored.path).facts
    assert facts["tokens"] == 24 * 32
    assert facts["count"] + sum(facts["left_out"].values()) == 24 * 32
    assert facts["tokenizer"] == "tokenizer"


# --- killed ---


def cache_missing(model, shards: list[TokenShard], folder: Path) -> None:
    """What Snakemake does: make the shards that are not there."""
    torch.set_num_threads(1)
    for number, shard in enumerate(shards):
        path = folder / f"{number}.zarr.zip"
        if not path.exists():
            cached(model, shard, path)


def test_killed_at_twenty_random_instants_caching_ends_with_the_same_contents(
    token_shard, tiny_model, tmp_path: Path
) -> None:
    def digests(folder: Path) -> list[str]:
        return [
            artifact.digest(*(stored.read(name) for name in stored.facts["arrays"]))
            for stored in (Shard(path) for path in sorted(folder.glob("*.zarr.zip")))
        ]

    model = tiny_model(MOE).eval()
    shards = [read_token_shard(token_shard(f"{n}.h5", seed=n)) for n in range(6)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    cache_missing(model, shards, whole)
    needed = time.monotonic() - start
    random, deaths, seen = np.random.default_rng(0), 0, {}
    while deaths < 20:
        process = multiprocessing.get_context("fork").Process(
            target=cache_missing, args=(model, shards, killed)
        )
        process.start()
        time.sleep(float(random.uniform(0, 0.6 * needed)))
        process.kill()
        process.join()
        deaths += 1
        for path in killed.glob("*.zarr.zip"):  # whole, and never touched again
            assert seen.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if len(seen) == len(shards):  # all made: begin anew, to be killed again
            assert digests(killed) == digests(whole)
            shutil.rmtree(killed)
            seen = {}
    cache_missing(model, shards, killed)
    assert digests(killed) == digests(whole)
    assert not list(killed.glob(".*partial"))
