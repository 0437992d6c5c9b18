"""What `corpus_memory` measures: every stage by the files of a corpus, most of them by their own script.

Training and fitting are told to end after some steps, and rows (a quarter and a tenth as many as train
tokens, of width 8) are made, since a model would take days.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SCRIPTS = Path(__file__).parent.parent / "scripts"
SEED, LENGTH, SHARD, VOCABULARY = 0, 256, 131_072, 4096
SPLITS = {"fit": 0.25, "validation": 0.1}
SHARES = {"train": 1.0, "fit": 0.25, "validation": 0.1}  # of the tokens asked for
WORDS, WORDS_OF_A_TEXT, BYTES_OF_A_TOKEN = 5000, 350, 4.6
WIDTH, FEATURES = 8, 256
STEPS = 40  # of training and of fitting, until they are told to end


class Named(list):
    """Values by number and name, as a script is given them."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__([*values, *(v for some in named.values() for v in _flat(some))])
        self.__dict__.update(named)

    def get(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class Place:
    """The files of a corpus of so many tokens."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self.folder, self.tokens = folder / f"{tokens}", tokens
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str) -> Path:
        return self.folder / name

    def sequences(self, split: str) -> int:
        return int(self.tokens * SHARES[split]) // LENGTH

    def shards(self, split: str) -> list[str]:
        count = -(-self.sequences(split) // (SHARD // LENGTH))
        return [str(self(f"corpus/{split}/{number:05d}.h5")) for number in range(count)]

    def rows(self, split: str) -> list[str]:
        return [str(path) for path in sorted(self(f"rows/{split}").glob("*.zarr.zip"))]

    def script(self, name: str, threads: int = 1, **parts: Any) -> None:
        """Run a script in this process, as a job does."""
        job = SimpleNamespace(
            rule=name, log=Named(), threads=threads, wildcards=SimpleNamespace(), resources=Named(),
            config={"device": "cpu", "results": str(self.folder), "models": {"tiny": {}}},
        )  # fmt: skip
        job.__dict__.update(parts)
        runpy.run_path(str(SCRIPTS / name), init_globals={"snakemake": job})


# --- text ---------------------------------------------------------------------------------------------


def make_text(place: Place) -> None:
    """Texts of words by Zipf's law, a few hundred each, for every split a tenth more than it needs."""
    random = np.random.default_rng(SEED)
    letters = np.array(list("etaoinshrdlcumwfgypbvkjxqz"))
    words = np.array(
        ["".join(letters[random.integers(0, 20, size)]) for size in random.integers(2, 10, WORDS)],
        object,
    )
    chances = 1 / np.arange(10, WORDS + 10)
    edges = np.cumsum(chances / chances.sum())
    left = int(1.1 * place.tokens / (1 - sum(SPLITS.values())) * BYTES_OF_A_TOKEN)
    with open(place("text.jsonl"), "w", encoding="utf-8") as file:
        while left > 0:
            drawn = words[np.searchsorted(edges, random.random((64, WORDS_OF_A_TEXT)))]
            for row in drawn:
                line = json.dumps({"text": " ".join(row)}) + "\n"
                file.write(line)
                left -= len(line)


def documents(place: Place) -> None:
    settings = {
        "source": "files",
        "column": "text",
        "group": None,
        "group_pattern": None,
        "paths": [],
    }
    place.script(
        "corpus/documents.py", input=Named(str(place("text.jsonl"))),
        output=Named(str(place("corpus/made.parquet"))),
        params=Named(settings=settings, splits=SPLITS, most_bytes=None),
        wildcards=SimpleNamespace(domain="made"),
    )  # fmt: skip


def _tokenizer(place: Place) -> dict[str, str]:
    return {
        "tokenizer": str(place("corpus/tokenizer.json")),
        "vocabulary": str(place("corpus/vocabulary.json")),
    }


def tokenizer(place: Place) -> None:
    place.script(
        "corpus/tokenizer.py", 2, input=Named(str(place("corpus/made.parquet"))),
        output=Named(**_tokenizer(place)), params=Named(settings={"train": VOCABULARY}),
    )  # fmt: skip


def token_shards(split: str) -> Callable[[Place], None]:
    def stage(place: Place) -> None:
        params = Named(
            split=split, domains=["made"], weights=[1.0], sequences=place.sequences(split),
            length=LENGTH, shard_tokens=SHARD, seed=SEED,
        )  # fmt: skip
        corpus = Named(corpus=[str(place("corpus/made.parquet"))], **_tokenizer(place))
        output = Named(*place.shards(split))
        place.script("corpus/token_shards.py", 2, input=corpus, output=output, params=params)

    return stage


def ngrams(place: Place) -> None:
    tokens = {split: place.shards(split) for split in ("train", "validation")}
    found = Named(**tokens, vocabulary=_tokenizer(place)["vocabulary"])
    output = Named(str(place("models/ngrams.json")))
    place.script("corpus/ngrams.py", input=found, output=output, params=Named(across=False))


def retokenise(place: Place) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from moediff.core import artifact

    whole = Tokenizer.from_file(_tokenizer(place)["tokenizer"])
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=whole, eos_token=end).save_pretrained(place("other"))
    artifact.write_json(place("other/model.json"), artifact.made_by("models") | {"folder": "."})
    place.script(
        "corpus/retokenise.py", params=Named(), output=Named(str(place("retokenised/00000.h5"))),
        input=Named(tokens=place.shards("fit")[0], corpus=[str(place("corpus/made.parquet"))],
                    model=str(place("other/model.json"))),
    )  # fmt: skip


# --- a model ------------------------------------------------------------------------------------------

ARCHITECTURE = {
    "d_model": 32,
    "layers": 2,
    "heads": 2,
    "ffn": 64,
    "experts": 4,
    "top_k": 2,
    "renormalise": False,
}

PLAN = {
    "peak_lr": 1e-3, "batch": 4, "micro_batch": None, "epochs": 1, "warmup": 0.05, "final_lr": 0.1,
    "betas": [0.9, 0.99], "weight_decay": 0.01, "clip": 1.0, "balance": 0.01, "precision": "float32",
    "evaluations": 1, "seeds": [0], "data_seed": None, "domains": [],
}  # fmt: skip


def _ending(module: Any, name: str) -> None:
    """Send this process SIGTERM after STEPS calls of a method."""
    plain, calls = getattr(module, name), 0

    def counted(*arguments: Any, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **keys)

    setattr(module, name, counted)


def _train(place: Place, share: float) -> None:
    whole = PLAN | {"share": share}
    folder = place("models/tiny/seed-0")
    files = {"weights": "model.safetensors", "history": "history.parquet", "manifest": "model.json"}
    output = {name: str(folder / file) for name, file in files.items()}
    tokens = {split: place.shards(split) for split in ("train", "validation")}
    place.script(
        "training/train.py", input=Named(**tokens, vocabulary=_tokenizer(place)["vocabulary"]),
        output=Named(**output), wildcards=SimpleNamespace(model="tiny", seed="0"),
        params=Named(training=whole, architecture=ARCHITECTURE, across=False, version=1),
    )  # fmt: skip


def untrained(place: Place) -> None:
    """A model as it begins, measured on the validation split once."""
    _train(place, 0.0)


def training(place: Place) -> None:
    from moediff.training.step import Step

    _ending(Step, "take")
    _train(place, 1.0)


def _reading() -> dict[str, Any]:
    drop = {"sequence_start": True, "special_tokens": True, "massive_norm": None}
    return {
        "points": {"p": ("resid_post", 0.5)},
        "routing": "used",
        "dtype": "float16",
        "drop": drop,
    }


def caching(place: Place) -> None:
    """Hook points measured, then the first shard stored: the same work of any corpus."""
    whole = {
        "model": [str(place("models/tiny/seed-0/model.json"))],
        "tokens": place.shards("fit")[:1],
    }
    points = str(place("activations/points.json"))
    params = Named(
        model="tiny", seed=0, parts=["fit 00000"], reading=_reading(), batch=16, chunk_rows=1024,
        across=False, version=1,
    )  # fmt: skip
    place.script("activations/calibrate.py", input=Named(**whole), output=Named(points), params=params,
                 wildcards=SimpleNamespace(model="tiny", seed="0"))  # fmt: skip
    place.script(
        "activations/cache.py", input=Named(**whole, points=points), params=params,
        output=Named(str(place("activations/00000.zarr.zip"))),
    )  # fmt: skip


# --- rows ---------------------------------------------------------------------------------------------


def _routed(row: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens by Zipf's law, and two of 8 experts in a layer, of rows [row]."""
    random = np.random.default_rng(int(row[0]))
    chances = np.cumsum(1 / np.arange(10, VOCABULARY + 10))
    tokens = np.searchsorted(chances / chances[-1], random.random(len(row)))
    first = random.integers(0, 8, len(row))
    experts = np.stack([first, (first + random.integers(1, 8, len(row))) % 8], axis=1)
    return {"token": tokens.astype(np.int32), "experts.0": experts.astype(np.int16)}


def make_rows(place: Place) -> None:
    from read_speed import write_store

    for split in ("fit", "validation"):
        folder = place(f"rows/{split}")
        folder.mkdir(parents=True, exist_ok=True)
        count = place.sequences(split) * LENGTH
        write_store(folder, count, -(-count // SHARD), WIDTH, _routed)


def manifest(place: Place) -> None:
    place.script(
        "activations/manifest.py", input=Named(*place.rows("fit")), params=Named(),
        output=Named(str(place("activations/fit.json"))),
        wildcards=SimpleNamespace(model="tiny", seed="0", split="fit"),
    )  # fmt: skip


def components(place: Place) -> None:
    place.script(
        "dictionaries/principal_components.py", input=Named(*place.rows("fit")),
        params=Named(sources=["tiny.0"], points=[None], views=[None]),
        output=Named(str(place("components.safetensors"))),
        wildcards=SimpleNamespace(normalised=""),
    )  # fmt: skip


def _recipe(rows: int) -> dict[str, Any]:
    import yaml

    from moediff.config import schema

    whole = yaml.safe_load((SCRIPTS.parent / "config/schema.yaml").read_text(encoding="utf-8"))
    return schema.defaults(whole, "recipe") | {"features": FEATURES, "k": 4, "rows": rows}


def fitting(place: Place) -> None:
    """Steps that a run is told to end after; then a short run that ends, for its thresholds."""
    from moediff.dictionaries.trainer import Fitter

    def fit(name: str, rows: int) -> None:
        output = [
            str(place(f"{name}-{part}")) for part in ("whole.st", "early.st", "history.parquet")
        ]
        one = {"name": name, "seed": 0, "recipe": _recipe(rows)}
        place.script(
            "dictionaries/fit.py", input=Named(*place.rows("fit")), output=Named(*output),
            params=Named(points=[None], views=[None], sources=["tiny.0"], fits=[one], version=1),
        )  # fmt: skip

    fit("short", 200_000)
    _ending(Fitter, "update")
    fit("long", place.sequences("fit") * LENGTH)


def _open_fit(place: Place, files: dict[str, Any], name: str, params: dict[str, Any]) -> None:
    found = {"validation": place.rows("validation"), "dictionary": str(place("short-whole.st"))}
    output = files.pop("output")
    place.script(
        f"analysis/{name}.py", input=Named(**found, **files), output=output,
        params=Named(points=[None], sources=["tiny.0"], **params),
        wildcards=SimpleNamespace(comparison="tiny", member="tiny.0", recipe="default", seed="0"),
    )  # fmt: skip


def metrics(place: Place) -> None:
    output = Named(features=str(place("features.parquet")), metrics=str(place("metrics.json")))
    files = {"components": str(place("components.safetensors")), "early": str(place("short-early.st")),
             "rows": [], "output": output}  # fmt: skip
    _open_fit(place, files, "metrics", {"features": {"dead_below": 1, "bounds": [0.3, 0.7]}})


def _dictionary(place: Place) -> tuple[Any, Any, Any]:
    import torch

    from moediff.activations.rows import AlignedRows
    from moediff.dictionaries.dictionary import Dictionary

    dictionary, _ = Dictionary.load(place("short-whole.st"))
    return dictionary, AlignedRows([place.rows("validation")]), torch.device("cpu")


def examples(place: Place) -> None:
    from moediff.analysis.examples import feature_examples
    from moediff.report.budget import made

    dictionary, rows, device = _dictionary(place)
    feature_examples(dictionary, rows, made.tokenizer(1 << 16), 2048, device)


def deletion(place: Place) -> None:
    from moediff.analysis.deletion import deleted_alone

    dictionary, rows, device = _dictionary(place)
    deleted_alone(dictionary, rows, 2048, device)


def moved(place: Place) -> None:
    output = Named(str(place("moved.parquet")))
    place.script(
        "analysis/moved.py", input=Named(validation=2 * place.rows("validation")), output=output,
        params=Named(points=[None, None], views=[None, None]),
    )  # fmt: skip


def similarity(place: Place) -> None:
    output = Named(str(place("similarity.parquet")))
    place.script(
        "analysis/similarity.py", input=Named(validation=2 * place.rows("validation")), output=output,
        params=Named(points=[None, None], views=[None, None], sources=["a.0", "b.0"]),
    )  # fmt: skip


def affinity(place: Place) -> None:
    from moediff.experts.affinity import feature_affinity

    dictionary, rows, device = _dictionary(place)
    feature_affinity(dictionary, rows, 0, [0], 2048, device, place.folder)


STAGES: dict[str, Callable[[Place], None]] = {
    "(made text)": make_text,
    "documents": documents,
    "tokenizer": tokenizer,
    "token shards, train": token_shards("train"),
    "token shards, fit": token_shards("fit"),
    "token shards, validation": token_shards("validation"),
    "n-grams": ngrams,
    "retokenise, a shard": retokenise,
    "a model untrained": untrained,
    "training": training,
    "caching, a shard": caching,
    "(made rows)": make_rows,
    "manifest": manifest,
    "principal components": components,
    "fitting": fitting,
    "metrics": metrics,
    "examples": examples,
    "deletion": deletion,
    "similarity": similarity,
    "moved": moved,
    "affinity": affinity,
}
