"""The kernels for CUDA equal plain torch: on a GPU where there is one, else by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import RECIPE
from moediff.dictionaries import entries, products, scores, sums_torch
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.trainer import Fitter

GPU = torch.cuda.is_available()
kernels = pytest.importorskip("moediff.dictionaries.sums_triton", reason="Triton has no wheel here")
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.float32, torch.float64]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=dtype).to(DEVICE)


def integers(high: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype
    tolerance = 1e-5 if found.dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- which entries ---

FLOORS = {
    "number": lambda v: 0.7,
    "a value that stands there": lambda v: float(v[1, 2]),
    "of each row": lambda v: random(len(v), 1, seed=1).to(v.dtype),
    "of each feature": lambda v: random(v.shape[1], seed=2).to(v.dtype),
    "none passes": lambda v: 1e9,
    "all pass": lambda v: -1e9,
}


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (7, 1024), (4, 2500)])
def test_entries_above_a_floor(shape: tuple[int, int], dtype: torch.dtype, floor: str) -> None:
    values = random(*shape).to(dtype)
    least = FLOORS[floor](values)
    if dtype == torch.bfloat16 and not isinstance(least, Tensor):
        least = float(torch.tensor(least).bfloat16())  # the plain form compares in bfloat16
    found, wanted = kernels.above(values, least), sums_torch.above(values, least)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_doubles_are_compared_as_doubles() -> None:
    """An evaluation in float64 fires at its threshold, not at the float32 beside it."""
    values = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]], dtype=torch.float64, device=DEVICE)
    assert kernels.above(values, torch.ones(3, dtype=torch.float64))[1].tolist() == [0, 1]


# --- sums ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 24, 300])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_sums_of_weighted_rows(count: int, width: int, dtype: torch.dtype) -> None:
    table, weights = random(40, width, dtype=dtype), random(count, seed=1, dtype=dtype)
    index = integers(40, count)
    groups = torch.cat([integers(9, count // 2), torch.full((count - count // 2,), 4)])
    groups = groups.to(DEVICE).sort().values  # one large group, some empty ones
    found = kernels.weighted_rows(table, index, groups, weights, 12)
    assert_same(found, sums_torch.weighted_rows(table, index, groups, weights, 12))
    assert torch.equal(found, kernels.weighted_rows(table, index, groups, weights, 12))
    assert_same(kernels.group_sums(weights, groups, 12), sums_torch.group_sums(weights, groups, 12))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 24, 300])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_dots_of_rows(count: int, width: int, dtype: torch.dtype) -> None:
    one, other = random(20, width, dtype=dtype), random(30, width + 7, seed=1, dtype=dtype)
    other = other[:, 7:]  # a stretch of columns
    entries = integers(20, count).sort().values, integers(30, count, seed=1)
    assert_same(kernels.row_dots(one, other, entries), sums_torch.row_dots(one, other, entries))


# --- in place of plain torch ---


def three_steps(
    select: str, screen: bool, monkeypatch, module
) -> tuple[dict[str, Tensor], list[float]]:
    """Gradients of the first step of a crosscoder with every kind of block, and the errors of three."""
    for user in (scores, products):
        monkeypatch.setattr(user, "backend", lambda tensor: module)
    penalties = {"l0": {"weight": 0.01, "tied": 1.0, "ramp": 0.0}} if select == "jumprelu" else {}
    recipe = RECIPE | {
        "features": 96, "k": 4, "tied": 8, "exclusive": 4, "select": select, "screen": screen,
        "batch": 32, "rows": 320, "dead_after": 0.1, "aux_k": 3, "penalties": penalties,
    }  # fmt: skip
    fitter = Fitter(Dictionary(Shape.of(recipe, [20, 12])).to(DEVICE), recipe)
    with torch.no_grad():
        for block in fitter.dictionary.blocks.values():
            block.encoder_bias[::3] = -9.0  # dead, so that AuxK works
    gradients: dict[str, Tensor] = {}
    move = fitter.optimizer.step

    def keep_gradients() -> None:
        for name, parameter in fitter.trained.named_parameters():
            gradients.setdefault(name, parameter.grad.clone())
        move()

    fitter.optimizer.step = keep_gradients
    errors = [fitter.update(random(32, 32, seed=step) / 6)["error"] for step in range(3)]
    assert fitter.violations == 0
    return gradients, errors


@pytest.mark.parametrize(
    ("select", "screen"),
    [("batchtopk", False), ("batchtopk", True), ("topk", True), ("jumprelu", False)],
)
def test_training_on_kernels_equals_training_in_plain_torch(
    select: str, screen: bool, monkeypatch
) -> None:
    monkeypatch.setattr(entries, "ENTRY_COST", 0)  # sums over entries, however many
    wanted, errors = three_steps(select, screen, monkeypatch, sums_torch)
    found, same_errors = three_steps(select, screen, monkeypatch, kernels)
    # Later steps less exactly: Adam makes whole steps of gradients that are nearly zero.
    assert same_errors[0] == pytest.approx(errors[0], rel=1e-6)
    assert same_errors == pytest.approx(errors, rel=2e-4)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * scale)


def test_the_device_chooses() -> None:
    assert scores.backend(torch.zeros(1)) is sums_torch
    assert scores._kernels() is kernels


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_a_cuda_tensor_goes_to_the_kernels() -> None:
    assert scores.backend(torch.zeros(1, device="cuda")) is kernels
