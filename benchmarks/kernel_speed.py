"""Kernels for CUDA against the same sums in plain torch: how far apart, and how much faster.

    python benchmarks/kernel_speed.py [--shapes 768,12288,32,8192 ...] [--repeats 20]

One function at a time on the entries of one batch, both on the same device, then whole fitting steps.
Without a GPU the kernels run in Triton's interpreter, which shows that this program works and
nothing about speed: TRITON_INTERPRET=1 python benchmarks/kernel_speed.py --device cpu --shapes 40,256,4,16
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from clock import seconds

from moediff.dictionaries import products, scores, sums_torch, sums_triton

SHAPES = ("768,12288,32,8192", "2048,16384,64,8192")
TOLERANCE = 1e-5  # of a difference, as in tests/dictionaries/test_sums_triton.py
Shape = tuple[int, int, int, int]  # width, features, k, rows of a batch


class Batch:
    """What a fitting step hands to its sums, on made tables of a shape."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        width, self.features, k, self.size = shape
        random = torch.Generator(device).manual_seed(0)
        made = partial(torch.randn, generator=random, device=device)
        self.table = made(self.features, width)  # [feature, width]
        self.rows = made(self.size, width)
        self.scores = made(self.size, self.features)
        some = self.scores.flatten()[:: max(1, self.scores.numel() // 2**20)]
        self.floor = some.quantile(1 - k / self.features).item()
        self.bounds = self.scores.bfloat16()
        self.narrow_floor = float(torch.tensor(self.floor).bfloat16())
        self.entries = sums_torch.above(self.scores, self.floor)  # about k a row, by row
        self.values = self.scores[self.entries]
        order = self.entries[1].argsort(stable=True)
        self.row_of, self.feature_of = (part[order] for part in self.entries)  # by feature
        self.weights = self.values[order].contiguous()


FUNCTIONS: dict[str, Callable[[Batch, ModuleType], object]] = {
    "entries above a floor": lambda b, sums: sums.above(b.scores, b.floor),
    "entries above a floor, bfloat16": lambda b, sums: sums.above(b.bounds, b.narrow_floor),
    "decode": lambda b, sums: sums.weighted_rows(
        b.table, b.entries[1], b.entries[0], b.values, b.size
    ),
    "gradient of a table": lambda b, sums: sums.weighted_rows(
        b.rows, b.row_of, b.feature_of, b.weights, b.features
    ),
    "gradient of a bias": lambda b, sums: sums.group_sums(b.weights, b.feature_of, b.features),
    "gradient of values": lambda b, sums: sums.row_dots(b.rows, b.table, b.entries),
}
STEPS = {"step of BatchTopK": False, "step of BatchTopK, screened": True}


def difference(found: object, wanted: object) -> float:
    """Largest difference over the largest number; of entries 1 where any is another, else 0."""
    if isinstance(wanted, tuple):
        return float(not all(map(torch.equal, found, wanted)))
    return float((found - wanted).abs().max() / wanted.abs().max())


def compare(name: str, shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """The difference of the two forms of one function, and the median seconds of each."""
    work = partial(FUNCTIONS[name], Batch(shape, device))
    measured = {"difference": difference(work(sums_triton), work(sums_torch))}
    for form, module in (("kernel", sums_triton), ("plain", sums_torch)):
        measured[form] = statistics.median(
            seconds(partial(work, module), device) for _ in range(repeats)
        )
    return measured


@contextmanager
def sums_by(module: ModuleType) -> Iterator[None]:
    """Have the library take its sums from one module, whatever the device."""
    users = (scores, products)
    before = [user.backend for user in users]
    for user in users:
        user.backend = lambda tensor: module
    try:
        yield
    finally:
        for user, backend in zip(users, before, strict=True):
            user.backend = backend


def compare_steps(name: str, shape: Shape, device: torch.device, repeats: int) -> dict[str, float]:
    """The same of whole fitting steps; the difference is that of the first step's squared error."""
    import fit_speed  # here: it needs more packages than the kernels do

    fit_speed.DEVICE = device
    width, features, _, batch = shape
    data = fit_speed.made_rows(width, features, batch, 1).to(device)
    measured: dict[str, float] = {}
    errors = []
    for form, module in (("kernel", sums_triton), ("plain", sums_torch)):
        with sums_by(module):
            torch.manual_seed(0)
            step = fit_speed.moediff("batchtopk", STEPS[name])(*shape)
            errors.append(torch.tensor(step(data)["error"]))
            measured[form] = statistics.median(
                seconds(partial(step, data), device) for _ in range(repeats)
            )
    return measured | {"difference": difference(*errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="width,features,k,batch")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for given in arguments.shapes:
        shape = tuple(map(int, given.split(",")))
        print(f"\nwidth, features, k, batch: {given}")
        for name in (*FUNCTIONS, *STEPS):
            measure = compare if name in FUNCTIONS else compare_steps
            measured = measure(name, shape, device, arguments.repeats)
            print(f"  {name:32s} difference {measured['difference']:.1e}, "
                  f"{1e3 * measured['kernel']:8.3f} ms, "
                  f"plain over kernel {measured['plain'] / measured['kernel']:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
