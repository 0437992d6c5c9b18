"""How near k the thresholded L0 comes on validation rows, after runs of several lengths.

    python benchmarks/fit_threshold.py results/local-text/activations/moe/seed-0 [--steps 50 500 5000]

Several folders give a dictionary over several sources. The threshold is that of the default recipe: an
exact order statistic on fit rows kept out of the gradient. L0 is counted in batches of several sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import yaml

from moediff.activations.rows import AlignedRows
from moediff.config.schema import defaults
from moediff.dictionaries.fitting import fit

BATCHES = {1: 2_000, 64: 100_000, 8192: 10**9}  # rows of a batch -> rows counted at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="activations: fit/ and validation/")
    parser.add_argument("--steps", type=int, nargs="*", default=[50, 500, 5000])
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--data-seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    data, validation = (
        AlignedRows([sorted((folder / split).glob("*.zarr.zip")) for folder in arguments.folders])
        for split in ("fit", "validation")
    )
    schema = Path(__file__).parent.parent / "config" / "schema.yaml"
    recipe = defaults(yaml.safe_load(schema.read_text(encoding="utf-8")), "recipe")
    recipe |= {"k": arguments.k, "features": arguments.features, "data_seed": arguments.data_seed}
    every = validation.every()
    for steps in arguments.steps:
        with tempfile.TemporaryDirectory() as state:
            dictionary, _ = fit(
                data,
                recipe | {"rows": steps * recipe["batch"]},
                0,
                Path(state),
                torch.device("cpu"),
            )
        found = []
        for batch, most in BATCHES.items():
            rows, fired = 0, 0
            # Mixed by document, so that a part of the split stands for the whole.
            for sources in validation.shuffled(every, batch, 64, 0):
                (entries, _), count = (
                    dictionary.encode(dictionary.standardise(sources)),
                    len(sources[0]),
                )
                rows, fired = rows + count, fired + len(entries[0])
                if rows + batch > min(most, validation.count):
                    break
            found.append(f"{fired / rows:.3f} in batches of {batch}")
        print(f"{steps} steps, k {arguments.k}: L0 " + ", ".join(found), flush=True)


if __name__ == "__main__":
    main()
