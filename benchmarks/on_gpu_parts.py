"""The parts of on_gpu.py: each yields steps, and a step measures something and gives figures.

What a part imports stands in its function: where a package is missing, that part alone is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

ROOT = Path(__file__).parent.parent
DENSE = {
    "d_model": 768, "layers": 12, "heads": 12, "ffn": 2048, "experts": 1, "top_k": 1,
    "renormalise": False,
}  # fmt: skip
MOE = {"ffn": 1024, "experts": 8, "top_k": 2}
TINY = {"d_model": 32, "layers": 2, "heads": 2, "ffn": 64}
TINY_MOE = {"ffn": 32, "experts": 4}


@dataclass(frozen=True)
class Sizes:
    """How much every part does."""

    tests: tuple[str, ...]  # more arguments of pytest
    kernel_shapes: tuple[tuple[int, int, int, int], ...]  # width, features, k, rows of a batch
    fit_shapes: tuple[tuple[int, int, int, int], ...]
    repeats: int  # of a sum over entries
    turns: int  # of what alternates
    models: dict[str, dict[str, Any]]  # name -> architecture
    vocabulary: int
    length: int  # tokens of a sequence
    batch: int  # sequences of a training step and of a pass
    tokens: int  # of the shard that is cached


FULL = Sizes(
    tests=(),
    kernel_shapes=((768, 12_288, 32, 8192), (2048, 16_384, 64, 8192)),
    fit_shapes=((768, 12_288, 32, 8192), (2048, 16_384, 64, 8192)),
    repeats=20,
    turns=5,
    models={"dense, 98M": DENSE, "MoE, 8 experts of which 2, 98M active": DENSE | MOE},
    vocabulary=8192,
    length=512,
    batch=32,
    tokens=131_072,
)
SMALL = Sizes(
    tests=("-k", "not training_on_kernels"),
    kernel_shapes=((24, 128, 2, 8), (40, 128, 2, 8)),
    fit_shapes=((64, 512, 8, 256), (96, 512, 8, 256)),
    repeats=1,
    turns=1,
    models={"dense, tiny": DENSE | TINY, "MoE, tiny": DENSE | TINY | MOE | TINY_MOE},
    vocabulary=512,
    length=64,
    batch=4,
    tokens=2048,
)


@dataclass(frozen=True)
class Settings:
    """Where everything is computed, and how much of it."""

    device: str
    small: bool

    @property
    def sizes(self) -> Sizes:
        return SMALL if self.small else FULL


@dataclass(frozen=True)
class Figure:
    """One number that was measured; None where there is none, and `unit` says why."""

    what: str
    figure: float | None
    unit: str


Step = tuple[str, Callable[[], Iterable[Figure]]]  # its name and its work


class Missing(Exception):
    """Packages that are not installed, so that something is left out."""


class Wrong(Exception):
    """Something was measured and is not as it must be."""


def need(*modules: str) -> None:
    """Raises Missing, with the names of all that cannot be imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Missing(", ".join(missing))


def gpu_megabytes() -> float | None:
    """Most memory that this process has held on the GPU; None without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda.max_memory_allocated() / 1e6


# --- tests ----------------------------------------------------------------------------------------


class Counts:
    """A plugin of pytest: how each test ended."""

    def __init__(self) -> None:
        self.ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if (
            report.when == "call" or report.outcome != "passed"
        ):  # setting up only where it ends there
            self.ended[report.outcome].append(report.nodeid)


def tests(settings: Settings) -> Iterator[Step]:
    """The files that hold a test marked `gpu`, whole: the others in them use a GPU where there is one."""
    need("pytest", "triton", "transformers", "h5py", "zarr", "polars", "jsonschema")
    import pytest

    files = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu" in path.read_text(encoding="utf-8")
    ]

    def run(file: str) -> Iterator[Figure]:
        counts = Counts()
        code = pytest.main(["-p", "no:cacheprovider", *settings.sizes.tests, file], [counts])
        for outcome, names in counts.ended.items():
            yield Figure(f"{file}: {outcome}", len(names), "tests")
        if code:
            names = ", ".join(counts.ended["failed"]) or "pytest could not run them"
            raise Wrong(f"{names} (exit status {int(code)})")

    for file in files:
        yield file, partial(run, file)


# --- the engine -----------------------------------------------------------------------------------


def _said(shape: tuple[int, ...]) -> str:
    return "width {}, {} features, k {}, batch {}".format(*shape)


def kernels(settings: Settings) -> Iterator[Step]:
    """Every sum over entries, and the fitting step, by Triton and by plain torch."""
    need("triton")
    import kernel_speed
    import torch

    place = torch.device(settings.device)
    how = "" if settings.device == "cuda" else " (Triton's interpreter)"

    def run(
        measure: Callable, name: str, shape: tuple[int, ...], *packages: str
    ) -> Iterator[Figure]:
        need(*packages)
        measured = measure(name, shape, place, settings.sizes.repeats)
        what = f"{name}; {_said(shape)}{how}"
        yield Figure(f"{what}: largest difference", measured["difference"], "of the largest number")
        yield Figure(f"{what}: kernel", 1e3 * measured["kernel"], "ms")
        yield Figure(
            f"{what}: plain torch over kernel", measured["plain"] / measured["kernel"], "x"
        )
        if not measured["difference"] <= kernel_speed.TOLERANCE:
            raise Wrong(f"kernels and plain torch differ by {measured['difference']:.1e}")

    for shape in settings.sizes.kernel_shapes:
        for name in kernel_speed.FUNCTIONS:
            yield name, partial(run, kernel_speed.compare, name, shape)
        for name in kernel_speed.STEPS:
            yield (
                name,
                partial(
                    run, kernel_speed.compare_steps, name, shape, "polars", "jsonschema", "yaml"
                ),
            )


def _fit_turns(
    shape: tuple[int, ...], names: list[str], turns: int, device: str
) -> tuple[list[dict], float | None]:
    """What fit_speed measures of a shape, and the most memory on the GPU."""
    import fit_speed
    import torch

    place = (device, torch.get_num_threads())
    return fit_speed.measure_alone(shape, turns, names, place), gpu_megabytes()


def fit_speed(settings: Settings) -> Iterator[Step]:
    """Rows a second of fitting beside the encoder product: ours first, then what may be slow to start."""
    need("polars", "jsonschema", "yaml")
    from fit_speed import CONTENDERS

    def run(shape: tuple[int, ...], names: list[str]) -> Iterator[Figure]:
        # In a process of its own: one of the peers breaks what is compiled after it.
        names = ["encoder product", *names]
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            turns = settings.sizes.turns
            rows, megabytes = alone.submit(
                _fit_turns, shape, names, turns, settings.device
            ).result()
        for row in rows:
            what = f"{row['name']}; {_said(shape)}"
            yield Figure(what, row["rows_per_second"], "rows/s")
            yield Figure(f"{what}: step over encoder product", row["of_product"], "x")
        for name in names:
            if name not in {row["name"] for row in rows}:
                yield Figure(f"{name}; {_said(shape)}", None, "left out (its log says why)")
        if megabytes is not None:
            yield Figure("most memory on the GPU, all of these together", megabytes, "MB")

    ours = [name for name in CONTENDERS if name.startswith("moediff")]
    others = [name for name in CONTENDERS if name not in (*ours, "encoder product")]
    for group, names in (("moediff", ours), ("others", others)):
        for shape in settings.sizes.fit_shapes:
            yield f"{group}; {_said(shape)}", partial(run, shape, names)


# --- language models ------------------------------------------------------------------------------


def caching(settings: Settings) -> Iterator[Step]:
    """Caching against the bare pass, with weights as we train them and as a bfloat16 checkpoint has them."""
    need("transformers", "h5py", "zarr", "polars")
    import cache_speed
    import torch

    sizes = settings.sizes
    of = cache_speed.Sizes(sizes.vocabulary, sizes.length, sizes.batch, sizes.tokens)

    def run(name: str, dtype: torch.dtype) -> Iterator[Figure]:
        shape, place = sizes.models[name], torch.device(settings.device)
        points = [f"resid_post.{shape['layers'] // 2}"]
        measured = cache_speed.measure(shape, points, of, sizes.turns, place, dtype)
        what = f"{name}, {str(dtype).removeprefix('torch.')}"
        yield Figure(f"{what}: caching", measured["tokens_a_second"], "tokens/s")
        yield Figure(f"{what}: bare pass", measured["bare_tokens_a_second"], "tokens/s")
        yield Figure(f"{what}: caching over bare pass", measured["ratio"], "x")

    for name in sizes.models:
        for dtype in (torch.bfloat16, torch.float32):
            yield f"{name}, {dtype}", partial(run, name, dtype)


def training(settings: Settings) -> Iterator[Step]:
    """A training step under bfloat16 autocast against a bare loop."""
    need("transformers", "h5py", "zarr", "polars")
    import torch
    import train_speed

    sizes = settings.sizes
    of = train_speed.Sizes(sizes.vocabulary, sizes.length, sizes.batch)

    def run(name: str) -> Iterator[Figure]:
        shape, place = sizes.models[name], torch.device(settings.device)
        measured = train_speed.measure(shape, of, sizes.turns, sizes.turns, place, "bfloat16")
        yield Figure(f"{name}: training", measured["tokens_a_second"], "tokens/s")
        yield Figure(f"{name}: training over bare loop", measured["ratio"], "x")

    for name in sizes.models:
        yield name, partial(run, name)


# --- a study --------------------------------------------------------------------------------------


def _start_study(device: str) -> tuple[Path, subprocess.Popen]:
    """A tiny study under way on a device, and its folder."""
    import yaml

    import workflow

    folder = workflow.prepare(Path(mkdtemp()))
    config = workflow.TINY | {
        "device": device,
        "corpus": workflow.TINY["corpus"] | {"shard_tokens": 16_000},
        "training": {"peak_lr": 3.0e-3, "evaluations": 2},
        "comparisons": {"moe-dense": {"each": ["moe", "dense"]}},
    }  # as few jobs as show every stage
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    cores = str(min(8, os.cpu_count() or 1))
    command = [
        sys.executable, "-m", "snakemake", "results/fve.json", "-s", str(ROOT / "Snakefile"),
        "-d", str(folder), "--configfile", str(folder / "config.yaml"), "--cores", cores,
        "--workflow-profile", str(ROOT / "profiles/gpu"), "--resources", "gpu=4",  # so small are they
    ]  # fmt: skip
    with (folder / "output").open("w") as output:
        return folder, subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def study(settings: Settings) -> Iterator[Step]:
    """A tiny study from text to fve.json; on a GPU and at the same time on the CPU, to be compared."""
    need("snakemake", "transformers", "tokenizers", "h5py", "zarr", "polars", "jsonschema")
    devices = list(dict.fromkeys([settings.device, "cpu"]))
    under_way = {device: _start_study(device) for device in devices}

    def finish(device: str) -> Iterator[Figure]:
        folder, process = under_way[device]
        if process.wait():
            said = (folder / "output").read_text(encoding="utf-8", errors="replace")
            print(said)
            errors = [
                line for line in said.splitlines() if "error in " in line
            ]  # as job.py logs them
            raise Wrong([*errors, f"snakemake ended with exit status {process.returncode}"][0])
        rows = json.loads((folder / "results/fve.json").read_text(encoding="utf-8"))["rows"]
        for row in rows:
            if row["mode"] == "threshold":
                yield Figure(
                    f"on {device}: FVE of the crosscoder, {row['source']}", row["fve"], "share"
                )

    for device in devices:
        yield f"on {device}", partial(finish, device)


# Name -> its function and the seconds that it may take when all may take eight minutes.
PARTS: dict[str, tuple[Callable[[Settings], Iterator[Step]], int]] = {
    "tests": (tests, 70),
    "kernels": (kernels, 50),
    "fit_speed": (fit_speed, 110),
    "caching": (caching, 60),
    "training": (training, 60),
    "study": (study, 130),
}
