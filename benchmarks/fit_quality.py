"""Does speed cost quality: one SAE fitted by moediff, by its dense form and by peers, on the same rows.

    python benchmarks/fit_quality.py results/local-text/activations/moe/seed-0 [--features 4096]

Every contender sees the same batches in the same order, standardised alike, with equal features, k and
steps, Adam at the same rate with the same warm-up and decay, and is measured on the validation split
in batches with its training selection. The dense form is moediff's loss by plain autograd: a sort of
all scores, a matrix of codes, dense products. Peers as in fit_speed.py, each with its own loss.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import VarianceExplained
from moediff.config.schema import defaults
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.trainer import MISSED_FIRINGS, Fitter, default_rate

Update = Callable[[Tensor], object]
Reconstruct = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # rows -> reconstruction, features that fired


class DenseDictionary(Dictionary):
    """The same dictionary with every product dense and every gradient by autograd (one block)."""

    def values(self, known: Tensor, rows: Tensor, entries: Entries) -> Tensor:
        (block,) = self.blocks.values()
        return (rows @ block.encoder.T + block.encoder_bias)[entries]

    def decode(self, values: Tensor, entries: Entries, size: int) -> Tensor:
        (block,) = self.blocks.values()
        codes = torch.zeros(size, self.shape.features, dtype=values.dtype)
        return codes.index_put(entries, values) @ block.decoder() + self.decoder_bias


class DenseFitter(Fitter):
    def _select(self, rows: Tensor) -> tuple[Entries, Tensor, Tensor]:
        (block,) = self.dictionary.blocks.values()
        with torch.no_grad():
            weight = self.dictionary.norms().sum(1)
            before = rows @ block.encoder.T + block.encoder_bias
            scores = before.relu() * weight
            edge = scores.flatten().topk(self.recipe["k"] * len(rows)).values[-1]
            entries = ((scores >= edge) & (scores > 0)).nonzero(as_tuple=True)
            return entries, scores[entries], weight


def ours(
    kind: type[Fitter], model: type[Dictionary], screen: bool, recipe: dict, width: int, seed: int
) -> tuple[Update, Reconstruct]:
    dictionary = model(Shape.of(recipe, [width]), seed, recipe["start"])
    fitter = kind(dictionary, recipe | {"screen": screen})

    def reconstruct(rows: Tensor) -> tuple[Tensor, Tensor]:
        entries, values = dictionary.encode(rows, (recipe["select"], recipe["k"]))
        return dictionary.decode(values, entries, len(rows)), entries[1]

    def update(rows: Tensor) -> None:
        fitter.update(rows)
        if fitter.violations:
            raise AssertionError(f"screening missed its bound at step {fitter.step}")

    return update, reconstruct


def dictionary_learning(
    recipe: dict, width: int, steps: int, seed: int
) -> tuple[Update, Reconstruct]:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=steps, activation_dim=width, dict_size=recipe["features"], k=recipe["k"], layer=0,
        lm_name="none", lr=recipe["lr"], warmup_steps=round(recipe["warmup"] * steps),
        decay_start=round((1 - recipe["decay"]) * steps), device="cpu", seed=seed,
    )  # fmt: skip
    number = iter(range(steps + 1))

    def reconstruct(rows: Tensor) -> tuple[Tensor, Tensor]:
        codes = trainer.ae.encode(rows, use_threshold=False)
        return trainer.ae.decode(codes), codes.nonzero()[:, 1]

    return lambda rows: trainer.update(next(number), rows), reconstruct


def saelens(recipe: dict, width: int, steps: int, seed: int) -> tuple[Update, Reconstruct]:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    torch.manual_seed(seed)
    config = BatchTopKTrainingSAEConfig(d_in=width, d_sae=recipe["features"], k=recipe["k"])
    model = BatchTopKTrainingSAE(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe["lr"])
    silent, done = torch.zeros(recipe["features"]), 0
    window = max(1, round(MISSED_FIRINGS * recipe["features"] / recipe["k"] / recipe["batch"]))

    def update(rows: Tensor) -> None:
        nonlocal done
        given = TrainStepInput(
            sae_in=rows, coefficients={}, dead_neuron_mask=silent > window, n_training_steps=done,
            is_logging_step=False,
        )  # fmt: skip
        found = model.training_forward_pass(given)
        with torch.no_grad():
            silent.add_(1)
            silent[found.feature_acts.sum(-2) > 0] = 0
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rising = (done + 1) / max(1, round(recipe["warmup"] * steps))
        falling = (steps - done) / max(1, round(recipe["decay"] * steps))
        optimizer.param_groups[0]["lr"] = recipe["lr"] * min(1.0, rising, falling)
        optimizer.step()
        optimizer.zero_grad()
        done += 1

    def reconstruct(rows: Tensor) -> tuple[Tensor, Tensor]:
        codes = model.encode(rows)
        return model.decode(codes), codes.nonzero()[:, 1]

    return update, reconstruct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="activations of one model: fit/ and validation/")
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--lr", type=float, help="peak rate of all; moediff's default if left out")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    fit, validation = (
        AlignedRows([sorted((arguments.folder / split).glob("*.zarr.zip"))])
        for split in ("fit", "validation")
    )
    steps, (width,) = arguments.rows // arguments.batch, fit.widths
    schema = Path(__file__).parent.parent / "config" / "schema.yaml"
    recipe = defaults(yaml.safe_load(schema.read_text(encoding="utf-8")), "recipe") | {
        "k": arguments.k, "features": arguments.features, "rows": arguments.rows,
        "batch": arguments.batch, "lr": arguments.lr or default_rate(width, steps),
    }  # fmt: skip
    seed = arguments.seed
    contenders = {
        "moediff": lambda: ours(Fitter, Dictionary, False, recipe, width, seed),
        "moediff, screened": lambda: ours(Fitter, Dictionary, True, recipe, width, seed),
        "dense float32 form": lambda: ours(
            DenseFitter, DenseDictionary, False, recipe, width, seed
        ),
        "dictionary_learning": lambda: dictionary_learning(recipe, width, steps, seed),
        "SAELens": lambda: saelens(recipe, width, steps, seed),
    }
    ((mean, variance),) = fit.moments()
    center = torch.from_numpy(mean).float()

    def standard(rows: Tensor) -> Tensor:
        return (rows - center) / variance**0.5

    for name in arguments.only or contenders:
        try:
            update, reconstruct = contenders[name]()
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        batches = fit.shuffled(fit.every(), arguments.batch, recipe["pool_chunks"], seed=0)
        start = time.perf_counter()
        for _ in range(steps):
            update(standard(next(batches)[0]))
        seconds = time.perf_counter() - start
        batches.close()
        ((middle, _),) = validation.moments()
        total = VarianceExplained(standard(torch.from_numpy(middle).float()))
        fired = torch.zeros(arguments.features, dtype=torch.bool)
        with torch.no_grad():
            for (rows,) in validation.in_order(arguments.batch):
                found, features = reconstruct(standard(rows))
                total.add(standard(rows), found)
                fired[features] = True
        print(f"{name:22s} FVE {total.value:.4f}, dead {1 - fired.double().mean():.4f}, "
              f"{steps * arguments.batch / seconds:,.0f} rows/s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
