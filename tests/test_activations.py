"""Activation shards: the right rows, written whole, read once, damage noticed."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import DENSE, MOE
from moediff import activations, artifact, capture, models
from moediff.activations import AlignedRows, Shard, held_out_documents, kept_rows, scale_exponent
from moediff.errors import DamagedError, UserError
from moediff.hooks import HOOKS, Capture
from moediff.tokens import TokenShard, read_token_shard
from test_models import gpt2, olmoe

CPU = torch.device("cpu")
DROP = {"sequence_start": True, "special_tokens": True}


def whole_inputs() -> dict:
    tokens = np.random.default_rng(0).integers(1, 60, (2, 10))
    starts = np.zeros(tokens.shape, bool)
    starts[:, 0] = True
    return models.model_inputs(tokens, starts, CPU)


@pytest.mark.parametrize("family", ["dense", "moe", "gpt2", "olmoe"])
@pytest.mark.parametrize("layer", [0, 1])
def test_hooks_read_what_the_model_computes(family: str, layer: int, tiny_model) -> None:
    made = {"dense": lambda: tiny_model(DENSE), "moe": lambda: tiny_model(MOE)}
    model = (made | {"gpt2": gpt2, "olmoe": olmoe})[family]().eval()
    inputs = whole_inputs()
    found = {}
    for hook in HOOKS:
        with Capture(model, hook, layer) as read:
            found[hook] = read(**inputs)
    torch.testing.assert_close(found["resid_mid"] + found["mlp_out"], found["resid_post"])
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    if layer == 0:  # the last one is given after the final norm
        torch.testing.assert_close(found["resid_post"], hidden[1])
    with pytest.raises(UserError, match="layer 2"):
        Capture(model, "resid_post", 2)


def hand_made() -> TokenShard:
    return TokenShard(
        tokens=np.array([[5, 6, 0, 7], [8, 0, 9, 9]], np.uint16),
        document=np.array([[1, 1, 1, 2], [2, 2, 3, 3]]),
        domain=np.zeros((2, 4), np.uint8),
        domains=("one",), tokenizer="x", first=10, digest="y",
    )  # fmt: skip


def test_rows_left_out_are_specials_and_what_attention_sees_first() -> None:
    columns, keep, left_out = kept_rows(hand_made(), [0], DROP, across_documents=False)
    assert keep.tolist() == [[False, True, False, False], [False, False, False, True]]
    assert columns["token"].tolist() == [6, 9]
    assert columns["sequence"].tolist() == [10, 11]
    assert columns["position"].tolist() == [1, 3]
    assert columns["document"].tolist() == [1, 3]
    assert left_out == {"special_tokens": 2, "sequence_start": 4}
    columns, keep, _ = kept_rows(hand_made(), [0], DROP, across_documents=True)
    assert keep.tolist() == [[False, True, False, True], [False, False, True, True]]
    off = {"sequence_start": False, "special_tokens": False}
    assert kept_rows(hand_made(), [0], off, False)[1].all()


def test_a_scale_is_a_power_of_two_near_the_typical_size() -> None:
    assert scale_exponent(1.0, "float16") == 0
    assert scale_exponent(1000.0, "float16") == -10
    assert scale_exponent(0.001, "float16") == 10
    assert scale_exponent(1000.0, "float32") == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cached_rows_are_those_of_a_fresh_pass(
    token_shard, architecture, tiny_model, tmp_path: Path, dtype: str
) -> None:
    model = tiny_model(architecture).eval()
    shard = read_token_shard(token_shard())
    found = capture.calibrate(model, "resid_post", 1, shard, [0], DROP, False, dtype)
    path = tmp_path / "a.zarr.zip"
    count = capture.cache(
        model, "resid_post", 1, shard, [0], DROP, False, dtype, found["exponent"], 8, 100, path,
        artifact.made_by("activations", model="m"),
    )  # fmt: skip
    stored = Shard(path)
    rows = stored.rows(0, count)
    _, keep, _ = kept_rows(shard, [0], DROP, False)
    blocks = capture.captured_rows(model, "resid_post", 1, shard, keep, False, 8)
    wanted = np.concatenate(list(blocks))
    np.testing.assert_allclose(rows, wanted, rtol=1e-3 if dtype == "float16" else 0, atol=1e-6)
    ((mean, variance),) = AlignedRows([[path]]).moments()
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0), atol=1e-12)
    assert variance == pytest.approx(rows.astype(np.float64).var(0).sum())
    assert stored.facts["left_out"]["sequence_start"] > 0
    assert stored.facts["hook"] == "resid_post.1"


def test_statistics_do_not_depend_on_chunks_and_shards(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 6)) * 5 + 1000
    found = [
        aligned_rows([rows], shard, chunk, folder=str(number)).moments()[0]
        for number, (shard, chunk) in enumerate([(3000, 3000), (999, 10), (1, 1)][:2])
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


def test_an_overflow_and_a_nan_stop_the_job_and_name_the_document(tmp_path: Path) -> None:
    columns = {name: np.full(3, 7) for name in activations.COLUMNS}
    for value, said in ((70_000.0, "overflows"), (np.nan, "not a finite")):
        rows = np.array([[1.0], [value], [2.0]], np.float32)
        path = tmp_path / "a.zarr.zip"
        with pytest.raises(UserError, match=said) as raised:
            activations.write_shard(path, iter([rows]), columns, 1, "float16", 0, 2, {})
        assert "document 000000000000007" in str(raised.value)
        assert list(tmp_path.iterdir()) == []


def written(aligned_rows) -> Path:
    rows = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    return aligned_rows([rows], chunk_rows=256).sources[0][0].path


def test_every_kind_of_damage_is_named(aligned_rows, tmp_path: Path) -> None:
    path = written(aligned_rows)
    whole = path.read_bytes()
    place = whole.index(b"rows/c/1/0") + 500
    flipped = bytearray(whole)
    flipped[place] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DamagedError, match=r"0-0\.zarr\.zip.*rows.*rm "):
        Shard(path).read("rows")
    for size in (0, 100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"0-0\.zarr\.zip"):
            Shard(path)
    path.write_bytes(whole)
    absent = path.with_name("absent.zarr.zip")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(absent, "w") as new:
        for name in old.namelist():
            if name != "rows/c/1/0":
                new.writestr(name, old.read(name))
    with pytest.raises(DamagedError, match="rows/c/1/0"):
        Shard(absent)


def test_rows_of_other_tokens_are_not_compared(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4))
    one = aligned_rows([rows], folder="one").sources[0][0].path
    two = aligned_rows([rows], document_rows=49, folder="two").sources[0][0].path
    with pytest.raises(UserError, match="different tokens"):
        AlignedRows([[one], [two]])


def test_shuffled_reads_every_row_once_an_epoch_and_resumes_anywhere(aligned_rows) -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None].repeat(2, 1)
    data = aligned_rows([rows, rows * 2], shard_rows=300, chunk_rows=64)
    keep = np.ones(1000, bool)
    keep[100:200] = False
    stream = data.shuffled(keep, 75, 3, seed=1)
    batches = [next(stream) for _ in range(36)]
    for one, two in batches:
        torch.testing.assert_close(one * 2, two)
    seen = [torch.cat([b[0][:, 0] for b in batches[e * 12 : e * 12 + 12]]) for e in range(3)]
    wanted = np.flatnonzero(keep).tolist()
    for epoch in seen:
        assert sorted(epoch.tolist()) == wanted
    assert not torch.equal(seen[0], seen[1])
    for skip in (1, 5, 12, 13, 30):
        resumed = next(data.shuffled(keep, 75, 3, seed=1, skip=skip))
        torch.testing.assert_close(resumed[0], batches[skip][0])
    uneven = data.shuffled(keep, 70, 3, seed=1)
    flat = torch.cat([next(uneven)[0][:, 0] for _ in range(27)])
    assert torch.equal(flat[:900], seen[0])


def test_in_order_gives_all_rows_in_batches_of_one_size(aligned_rows) -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None]
    batches = list(aligned_rows([rows], 300, 64).in_order(128))
    assert [len(b[0]) for b in batches] == [128] * 7 + [104]
    assert torch.cat([b[0] for b in batches])[:, 0].tolist() == list(range(1000))


def test_held_out_documents_are_whole_enough_and_of_every_domain() -> None:
    random = np.random.default_rng(0)
    document = np.concatenate([np.repeat(np.arange(400), 20), np.repeat(np.arange(400, 440), 200)])
    domain = (document >= 400).astype(np.uint8)
    order = random.permutation(len(document))
    document, domain = document[order], domain[order]
    mask = held_out_documents(document, domain, 2000, seed=3)
    assert mask.sum() >= 2000
    for name in np.unique(document):
        assert mask[document == name].all() or not mask[document == name].any()
    for index in (0, 1):
        assert 1000 <= mask[domain == index].sum() <= 1200
    with pytest.raises(UserError, match="too few"):
        held_out_documents(document, domain, 15_000, seed=3)


def test_more_shards_than_may_be_open_at_once(aligned_rows, monkeypatch) -> None:
    monkeypatch.setattr(activations, "MOST_OPEN", 3)
    rows = np.random.default_rng(0).normal(size=(1000, 4))
    data = aligned_rows([rows, rows + 1], shard_rows=100)
    assert len(activations.Shard._open) <= 3
    found = np.concatenate([one for one, _ in data.in_order(64)])
    np.testing.assert_allclose(found, rows, rtol=1e-6)
    for seed in (0, 1):  # again, in another order
        batches = data.shuffled(np.ones(1000, bool), 100, 2, seed)
        total = sum(float(next(batches)[1].sum()) for _ in range(10))
        assert total == pytest.approx((rows + 1).sum(), rel=1e-4)


def test_the_digest_of_rows_follows_their_values(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    changed = rows.copy()
    changed[17, 2] = np.nextafter(changed[17, 2], np.float32(np.inf))
    found = [aligned_rows([values], folder=name).digest
             for name, values in (("a", rows), ("b", rows), ("c", changed))]  # fmt: skip
    assert found[0] == found[1] != found[2]


def test_a_refusal_of_the_machine_is_not_called_damage(aligned_rows, monkeypatch) -> None:
    path = aligned_rows([np.random.default_rng(0).normal(size=(50, 4))]).sources[0][0].path

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(activations.zipfile, "ZipFile", refuse)
    with pytest.raises(UserError, match="cannot be read now") as caught:
        activations.Shard(path)
    assert not isinstance(caught.value, DamagedError)


def test_every_flip_in_a_shard_is_damage_or_harmless(aligned_rows) -> None:
    """No byte of a shard, changed, gives other values or a traceback."""
    values = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    path = aligned_rows([values], chunk_rows=20).sources[0][0].path
    whole = path.read_bytes()
    named = 0
    for place in np.linspace(0, len(whole) - 1, 400).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            shard = activations.Shard(path)
            np.testing.assert_array_equal(shard.rows(0, 60), values)
        except UserError:
            named += 1
    assert named > 200


def test_rows_that_never_vary_are_refused(aligned_rows) -> None:
    data = aligned_rows([np.random.default_rng(0).normal(size=(100, 4)), np.ones((100, 4))])
    with pytest.raises(UserError, match="never vary"):
        data.moments()
