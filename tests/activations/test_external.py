"""External activations: read as they were written, proved against our own, or refused in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from conftest import cached, write_tokens
from external_rows import COUNT, WIDTH, arrays, convert, write
from moediff.activations import external
from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import TOKENS
from moediff.activations.shards import Shard
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.token_shards import read_token_shard
from workflow import ROOT

# --- what is read ---


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_and_columns_are_read_as_they_were_written(
    tmp_path: Path, name: str, dtype: type
) -> None:
    values = arrays() | {"domain": np.arange(COUNT) % 2, "sequence": np.arange(COUNT) // 20}
    values["activations"] = values["activations"].astype(dtype)
    shard = convert(write(tmp_path / name, values), tmp_path / "a.zarr.zip", domains=("x", "y"))
    order = shard.order()
    np.testing.assert_array_equal(shard.rows(0, COUNT), values["activations"][order])
    for column in TOKENS:
        np.testing.assert_array_equal(shard.read(column), values[column][order])
    assert shard.facts["domains"] == ["x", "y"]
    assert shard.points["rows"]["hook"] == "rows"


def test_bfloat16_is_read_exactly_under_the_name_that_the_config_gives(tmp_path: Path) -> None:
    rows = torch.from_numpy(arrays()["activations"]).bfloat16()
    values = {key: torch.from_numpy(v) for key, v in arrays().items() if key != "activations"}
    safetensors.torch.save_file(values | {"resid": rows}, tmp_path / "a.safetensors")
    shard = convert(tmp_path / "a.safetensors", tmp_path / "a.zarr.zip", name="resid")
    np.testing.assert_array_equal(shard.rows(0, COUNT), rows.float()[shard.order()])


def test_float16_shards_take_the_scale_of_the_first_file(tmp_path: Path) -> None:
    large = arrays() | {"activations": arrays()["activations"] * 1000}
    first = write(tmp_path / "first.safetensors", large)
    second = write(tmp_path / "second.safetensors", arrays(1))
    shards = [
        convert(path, tmp_path / f"{path.stem}.zarr.zip", "float16", first=first)
        for path in (first, second)
    ]
    assert [shard.points["rows"]["exponent"] for shard in shards] == [-10, -10]
    wanted = arrays(1)["activations"][shards[1].order()]
    np.testing.assert_allclose(shards[1].rows(0, COUNT), wanted, atol=1e-3)
    AlignedRows([[shard.path for shard in shards]])  # one model, one scale


def test_the_model_is_what_its_first_file_holds(tmp_path: Path) -> None:
    one, same, other = (
        write(
            tmp_path / f"{name}.safetensors", arrays(seed) | {"twin": arrays(seed)["activations"]}
        )
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    found = [
        external.measure(path, "activations", "float16")["model"] for path in (one, same, other)
    ]
    assert found[0] == found[1] != found[2]
    assert external.measure(one, "twin", "float16")["model"] != found[0]


def test_no_more_than_a_chunk_of_rows_is_read_at_once(tmp_path: Path, monkeypatch) -> None:
    source, sizes = write(tmp_path / "a.safetensors", arrays()), []
    opened = external.open_rows

    def watched(path: Path, name: str) -> tuple:
        rows, every = opened(path, name)

        def read(start: int, stop: int) -> np.ndarray:
            sizes.append(len(rows.read(start, stop)))
            return rows.read(start, stop)

        return external.Array(rows.shape, rows.dtype, read), every

    measured = external.measure(source, "activations", "float32")
    monkeypatch.setattr(external, "open_rows", watched)
    external.convert(source, "activations", ["all"], "float32", 64, measured,
                    tmp_path / "a.zarr.zip", artifact.made_by("activations"))  # fmt: skip
    assert sizes == [64, 64, 64, 64, 44]


# --- the proof ---


def readme_snippet(their_rows: Callable[[np.ndarray], np.ndarray]) -> None:
    """Runs the README's own example in the working directory."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Your own activations")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    exec(code, {"json": json, "Path": Path, "h5py": h5py, "np": np, "safetensors": safetensors,
                "their_rows": their_rows})  # fmt: skip


@pytest.fixture
def own_and_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable, architecture: dict
) -> tuple[Path, Path]:
    """A shard of a model of ours, and a file that the README's program wrote for the same tokens."""
    monkeypatch.chdir(tmp_path)
    for folder in ("acts", "results/corpus/fit", "results/corpus/validation"):
        Path(folder).mkdir(parents=True)
    Path("results/corpus/vocabulary.json").write_text('{"special": [0]}')
    path = write_tokens(Path("results/corpus/fit/00000.h5"), 24, 32)
    own = tmp_path / "own.zarr.zip"
    cached(tiny_model(architecture).eval(), read_token_shard(path), own, dtype="float32")
    random = np.random.default_rng(0)
    readme_snippet(lambda token: random.normal(size=(*token.shape, WIDTH)).astype(np.float32))
    return own, tmp_path / "acts/fit-00000.safetensors"


def test_the_program_of_the_readme_passes_the_proof(own_and_theirs, tmp_path: Path) -> None:
    own, source = own_and_theirs
    theirs = convert(source, tmp_path / "theirs.zarr.zip", domains=("odd", "even"))
    data = AlignedRows([[own], [theirs.path]])
    assert data.count == theirs.count > 500
    assert data.widths == [32, WIDTH]


def swap(values: dict) -> dict:
    order = np.arange(len(values["token"]))
    order[[5, 6]] = [6, 5]
    return {name: array[order] for name, array in values.items()}


@pytest.mark.parametrize(
    ("change", "domains", "said"),
    [
        (swap, ("odd", "even"), r"token of row 5: \d+ and \d+"),
        (lambda v: {k: a[:-1] for k, a in v.items()}, ("odd", "even"), r"\d+ rows and \d+"),
        (lambda v: v | {"document": v["document"] + 1}, ("odd", "even"), "document of row 0: 1 and 2"),
        (lambda v: v | {"sequence": v["sequence"] + 1}, ("odd", "even"), "sequence of row 0"),
        (lambda v: v, ("even", "odd"), "domains differently .odd, even and even, odd."),
    ],
)  # fmt: skip
def test_other_rows_are_refused_and_the_first_difference_is_named(
    own_and_theirs, tmp_path: Path, change: Callable, domains: tuple, said: str
) -> None:
    own, source = own_and_theirs
    changed = write(tmp_path / "c.safetensors", change(safetensors.numpy.load_file(source)))
    theirs = convert(changed, tmp_path / "theirs.zarr.zip", domains=domains)
    with pytest.raises(UserError, match=said) as caught:
        AlignedRows([[own], [theirs.path]])
    assert "write both from the same rows" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- groups ---


def with_groups(folder: Path, groups: dict[str, np.ndarray | None]) -> dict[str, Shard]:
    """The same rows by several programs, each with its own groups (None: none)."""
    shards = {}
    for name, group in groups.items():
        values = arrays() | ({} if group is None else {"group": group})
        source = write(folder / f"{name}.safetensors", values)
        shards[name] = convert(source, folder / f"{name}.zarr.zip")
    return shards


def test_groups_are_read_where_they_are_told_and_are_documents_where_not(tmp_path: Path) -> None:
    group = np.arange(COUNT) // 50
    shards = with_groups(tmp_path, {"told": group, "untold": None})
    for name, wanted in (("told", group), ("untold", np.arange(COUNT) // 10)):
        np.testing.assert_array_equal(shards[name].read("group"), wanted[shards[name].order()])
    alone = AlignedRows([[shards["untold"].path]])
    np.testing.assert_array_equal(alone.column("group"), alone.column("document"))


@pytest.mark.parametrize("names", [("told", "untold"), ("untold", "told")])
def test_rows_take_the_groups_that_one_of_the_sources_tells(tmp_path: Path, names: tuple) -> None:
    group = np.arange(COUNT) // 50
    shards = with_groups(tmp_path, {"told": group, "untold": None})
    data = AlignedRows([[shards[name].path] for name in names])
    np.testing.assert_array_equal(data.column("group"), group[shards["told"].order()])


def test_other_groups_are_other_rows_and_are_not_compared(tmp_path: Path) -> None:
    group = np.arange(COUNT) // 50
    shards = with_groups(tmp_path, {"one": group, "same": group, "other": group // 2})
    one, same, other = ([shards[name].path] for name in ("one", "same", "other"))
    AlignedRows([one, same])
    with pytest.raises(UserError, match=r"different groups \(group of row 50: 1 and 0\)"):
        AlignedRows([one, other])
    assert AlignedRows([one]).digest != AlignedRows([other]).digest
    elsewhere = write(
        tmp_path / "elsewhere.safetensors", arrays() | {"sequence": np.ones(COUNT, int)}
    )
    convert(elsewhere, tmp_path / "elsewhere.zarr.zip")
    with pytest.raises(UserError, match=r"different tokens .sequence of row 0: 0 and 1"):
        AlignedRows([one, [tmp_path / "elsewhere.zarr.zip"]])


# --- faults of a file ---


def without(*names: str) -> dict:
    return {name: array for name, array in arrays().items() if name not in names}


def with_value(value: float) -> dict:
    values = arrays()
    values["activations"][123, 2] = value
    return values


UNFIT = {
    "no activations": (without("activations"), "no 'activations'; set rows.array to one of docu"),
    "no token": (without("token"), "no 'token'; rows without"),
    "no document": (without("document"), "no 'document'; rows without .* cannot be proved"),
    "no position": (without("document", "position"), "no 'document'; rows without"),
    "vector": (arrays() | {"activations": np.ones(COUNT, np.float32)}, r"shape \[300\], not"),
    "no rows": (arrays() | {"activations": np.ones((0, 4), np.float32)}, r"shape \[0, 4\]"),
    "float64": (arrays() | {"activations": np.ones((COUNT, 4))}, "float64; write one of float16"),
    "whole numbers": (arrays() | {"activations": np.ones((COUNT, 4), int)}, "is int64; write"),
    "rows that differ": (arrays() | {"token": np.arange(299)}, r"'token' is of shape \[299\], th"),
    "column of floats": (arrays() | {"document": np.ones(COUNT)}, "'document' is float64, not"),
    "column of bools": (arrays() | {"domain": np.ones(COUNT, bool)}, "'domain' is bool, not of"),
    "negative token": (arrays() | {"token": np.arange(COUNT) - 1}, "'token' holds -1, outside 0 "),
    "group of floats": (arrays() | {"group": np.ones(COUNT)}, "'group' is float64, not of"),
    "huge document": (
        arrays() | {"document": np.arange(COUNT, dtype=np.uint64) + 2**63},
        "'document' holds 9223372036854776107, outside",
    ),
    "domain without a name": (arrays() | {"domain": np.arange(COUNT) % 2}, "domain 1, .* at 0 .all"),
    "places that tell nothing": (
        arrays() | {"position": np.zeros(COUNT, int)},
        "rows 0 and 1 stand at one place",
    ),
    "nan": (with_value(np.nan), "document 00000000000000c at rows is not a finite number"),
    "inf": (with_value(np.inf), "document 00000000000000c at rows is not a finite number"),
    "overflow": (with_value(1e6), "document 00000000000000c at rows overflows float16; set activ"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
@pytest.mark.parametrize("case", UNFIT)
def test_a_file_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path, case: str, name: str
) -> None:
    values, said = UNFIT[case]
    source = write(tmp_path / name, values)
    first = write(tmp_path / "first.safetensors", arrays())
    with pytest.raises(UserError, match=said) as caught:
        convert(source, tmp_path / "a.zarr.zip", "float16", first=first)
    assert str(caught.value).startswith(str(source))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.zarr.zip").exists()


def test_the_rows_those_faults_change_are_sound(tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", arrays())
    assert convert(first, tmp_path / "a.zarr.zip", "float16").count == COUNT


def test_a_first_file_with_nothing_finite_is_measured_and_left_to_its_own_job(
    tmp_path: Path,
) -> None:
    values = arrays() | {"activations": np.full((COUNT, 4), np.nan, np.float32)}
    source = write(tmp_path / "a.safetensors", values)
    assert external.measure(source, "activations", "float16")["exponent"] == 0
    with pytest.raises(UserError, match="document 000000000000000 at rows is not a finite"):
        convert(source, tmp_path / "a.zarr.zip", "float16")


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
@pytest.mark.parametrize("outlier", [3e38, -1e8])
def test_a_value_far_above_the_rest_of_its_file_is_named(
    tmp_path: Path, outlier: float, name: str
) -> None:
    source = write(tmp_path / name, with_value(outlier))
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "a.zarr.zip", "float16")
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert f"{outlier:.3g} of row 123, document 00000000000000c" in message
    assert "set activations.dtype to float32" in message
    assert "\n" not in message
    kept = convert(source, tmp_path / "a.zarr.zip", "float32")
    np.testing.assert_array_equal(
        kept.rows(0, COUNT), with_value(outlier)["activations"][kept.order()]
    )


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_rows_that_may_not_be_read_are_not_called_cut(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / name, arrays())

    def refuse(path: object, *_: object, **__: object) -> None:  # root may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as caught:
        external.open_rows(source, "activations")
    assert str(source) in str(caught.value)


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", arrays())
    narrow = arrays() | {"activations": arrays()["activations"][:, :4].copy()}
    source = write(tmp_path / "a.safetensors", narrow)
    with pytest.raises(UserError, match="4 wide, those of the first fit file 6"):
        convert(source, tmp_path / "a.zarr.zip", first=first)


def test_several_domains_without_a_column_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", arrays())
    with pytest.raises(UserError, match=r"has no 'domain', and its rows are of several .x, y."):
        convert(source, tmp_path / "a.zarr.zip", domains=("x", "y"))


@pytest.mark.parametrize("size", [0, 5, 200, -7])
@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_a_cut_file_is_named(tmp_path: Path, name: str, size: int) -> None:
    source = write(tmp_path / name, arrays())
    file = source / "activations.npy" if source.is_dir() else source
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"not a whole .* file of plain numbers") as caught:
        external.open_rows(source, "activations")
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    source = write(tmp_path / "folder", without("token"))
    np.save(source / "token.npy", np.array([Trap()] * COUNT, object), allow_pickle=True)
    with pytest.raises(UserError, match=r"token\.npy: not a whole npy file of plain numbers"):
        external.open_rows(source, "activations")
    assert not (tmp_path / "sprung").exists()
