"""Rows a second of fitting one dictionary: moediff beside its peers, step by step on the same rows.

    pip install -e . dictionary-learning sae-lens eai-sparsify     # in an environment of its own
    python benchmarks/fit_speed.py [--shapes 768,12288,32,2048 ...] [--pairs 5] [--json out.json]
    python benchmarks/fit_speed.py --device cuda --shapes 1536,24576,64,8192

Contenders take turns, one step each, so that a machine's moods hit all alike; medians are compared.
The floor is the encoder product alone, [batch, width] x [width, features], in float32 on CPU and in
bfloat16 on CUDA, where the compiled dense form runs under bfloat16 autocast. A peer that is not
installed is left out. Weights are float32. dictionary_learning's step is its trainer's; those of
SAELens and sparsify are written here after their trainers, all with Adam and clipping (sparsify's own
default is another optimiser). So few steps kill no feature: no one's auxiliary loss costs anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml
from clock import seconds as seconds_of
from torch import Tensor

from moediff.config.schema import defaults
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.trainer import Fitter

SCHEMA = Path(__file__).parent.parent / "config" / "schema.yaml"
RECIPE = defaults(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")), "recipe")
SHAPES = ("768,12288,32,2048", "1536,24576,64,2048", "256,4096,32,4096")
DEVICE = torch.device("cpu")  # set by --device
Step = Callable[[Tensor], object]


def made_rows(width: int, features: int, batch: int, seed: int) -> Tensor:
    """Sparse sums of unknown directions with noise, total variance near 1: [batch, width]."""
    random = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(features // 4, width, generator=random))
    random.manual_seed(seed)
    index = torch.randint(len(atoms), (batch, 24), generator=random)
    weights = torch.rand(batch, 24, generator=random)
    rows = torch.nn.functional.embedding_bag(index, atoms, mode="sum", per_sample_weights=weights)
    rows = rows + 0.02 * torch.randn(batch, width, generator=random)
    return rows / rows.square().sum(1).mean().sqrt()


def floor(width: int, features: int, k: int, batch: int) -> Step:
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    encoder = torch.randn(features, width).to(DEVICE, dtype)
    out = torch.empty(batch, features, dtype=dtype, device=DEVICE)
    return lambda rows: torch.mm(rows.to(dtype), encoder.T, out=out)


def moediff(select: str, screen: bool) -> Callable[..., Step]:
    def make(width: int, features: int, k: int, batch: int) -> Step:
        recipe = RECIPE | {
            "select": select, "k": k, "features": features, "tied": 0, "rows": 10**6 * batch,
            "batch": batch, "lr": 1e-4, "warmup": 0.0, "decay": 0.0, "dead_after": 0.9,
            "screen": screen,
        }  # fmt: skip
        return Fitter(Dictionary(Shape.of(recipe, [width])).to(DEVICE), recipe).update

    return make


def compiled_topk(width: int, features: int, k: int, batch: int) -> Step:
    """A dense TopK SAE under torch.compile, with fused Adam."""
    start = torch.nn.functional.normalize(torch.randn(features, width)).to(DEVICE)
    encoder, decoder = torch.nn.Parameter(start), torch.nn.Parameter(start.clone())
    bias = torch.nn.Parameter(torch.zeros(features, device=DEVICE))
    parameters = [encoder, decoder, bias]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    @torch.compile
    def loss(rows: Tensor) -> Tensor:
        values, index = (rows @ encoder.T + bias).relu().topk(k, dim=1)
        codes = values.new_zeros(len(rows), features).scatter(1, index, values)
        return (rows - codes @ decoder).square().sum(1).mean()

    def step(rows: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            found = loss(rows)
        found.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def dictionary_learning(width: int, features: int, k: int, batch: int) -> Step:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=10**6, activation_dim=width, dict_size=features, k=k, layer=0, lm_name="none",
        lr=1e-4, warmup_steps=1, device=str(DEVICE),
    )  # fmt: skip
    return lambda rows: trainer.update(1, rows)


def saelens(width: int, features: int, k: int, batch: int) -> Step:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    model = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=width, d_sae=features, k=k))
    model = model.to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    silent, fired = (torch.zeros(features, device=DEVICE) for _ in range(2))

    def step(rows: Tensor) -> None:
        given = TrainStepInput(
            sae_in=rows, coefficients={}, dead_neuron_mask=silent > 1000, n_training_steps=0,
            is_logging_step=False,
        )  # fmt: skip
        found = model.training_forward_pass(given)
        with torch.no_grad():  # the counters that its trainer keeps
            firing = found.feature_acts.bool().float()
            silent.add_(1)
            silent[firing.sum(-2).bool()] = 0
            fired.add_(firing.sum(0))
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def sparsify(width: int, features: int, k: int, batch: int) -> Step:
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(width, SparseCoderConfig(num_latents=features, k=k), device=DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(rows: Tensor) -> None:
        model.set_decoder_norm_to_unit_norm()
        model(rows).fvu.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        model.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


CONTENDERS: dict[str, Callable[..., Step]] = {
    "encoder product": floor,
    "moediff BatchTopK": moediff("batchtopk", screen=False),
    "moediff BatchTopK, screened": moediff("batchtopk", screen=True),
    "moediff TopK": moediff("topk", screen=False),
    "moediff TopK, screened": moediff("topk", screen=True),
    # Before the peers: nnsight, which one of them imports, breaks what is compiled after it.
    "dense TopK, torch.compile": compiled_topk,
    "dictionary_learning BatchTopK": dictionary_learning,
    "SAELens BatchTopK": saelens,
    "sparsify TopK": sparsify,
}


def measure(shape: tuple[int, ...], pairs: int, wanted: list[str]) -> list[dict]:
    """Median seconds of a step of each contender, steps alternating."""
    width, features, _, batch = shape
    data = [made_rows(width, features, batch, seed).to(DEVICE) for seed in range(1, 4)]
    steps: dict[str, Step] = {}
    for name in wanted:
        torch.manual_seed(0)
        try:
            steps[name] = CONTENDERS[name](*shape)
            steps[name](data[0])
        except Exception as error:
            print(f"{name}: left out ({type(error).__name__}: {error})"[:150])
            steps.pop(name, None)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(pairs + 1):
        for name, step in steps.items():
            took = seconds_of(partial(step, data[turn % len(data)]), DEVICE)
            if turn:  # the first is to warm up
                seconds[name].append(took)
    product = statistics.median(seconds["encoder product"])
    return [
        {
            "width": width, "features": features, "k": shape[2], "batch": batch, "name": name,
            "seconds": statistics.median(found), "rows_per_second": batch / statistics.median(found),
            "of_product": statistics.median(found) / product,
        }
        for name, found in seconds.items()
    ]  # fmt: skip


def measure_alone(shape: tuple[int, ...], pairs: int, wanted: list[str], place: tuple) -> list:
    """`measure` in a process of its own, on `place`: a device and a number of threads."""
    global DEVICE
    DEVICE = torch.device(place[0])
    torch.set_num_threads(place[1])
    return measure(shape, pairs, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="width,features,k,batch")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    wanted = list(dict.fromkeys(["encoder product", *arguments.only]))
    rows, place = [], (arguments.device, arguments.threads)
    for shape in arguments.shapes:
        sizes = tuple(map(int, shape.split(",")))
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows += alone.submit(measure_alone, sizes, arguments.pairs, wanted, place).result()
        print(f"\nwidth, features, k, batch: {shape}")
        for row in rows:
            if f"{row['width']},{row['features']},{row['k']},{row['batch']}" == shape:
                print(f"  {row['name']:32s} {row['rows_per_second']:9.0f} rows/s "
                      f"{row['of_product']:6.2f} x product")  # fmt: skip
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
