"""What a whole, checked config asks for: models, members of comparisons, dictionaries, files.

Imports nothing heavy: every job of a cluster run parses the Snakefile again.
"""

from __future__ import annotations

import glob
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moediff.errors import ConfigError

SPLITS = ("train", "fit", "validation")
ROW_SPLITS = SPLITS[1:]  # those of which activations are kept

# Raised by hand when the code of a stage changes what it writes: the only way in which code
# (and never a docstring) makes Snakemake run a stage again. tests/test_versions.py guards it.
STAGE_VERSIONS = {
    "documents": 2,
    "tokenizer": 2,
    "token_shards": 3,
    "ngrams": 2,
    "models": 2,
    "activations": 4,
    "baselines": 4,
    "dictionaries": 8,
    "metrics": 7,
    "anchor": 1,
    "deletion": 1,
    "recurrence": 1,
    "panel": 3,
    "panel_loss": 3,
    "claims": 3,
    "splicing": 2,
    "experts": 1,
    "examples": 1,
    "exports": 1,
    "planted": 1,
    "plots": 3,
    "budget": 1,
}

# Keys of a recipe that decide the order of rows and which are held out: fits that agree in them can
# share one stream of rows.
STREAM = ("data_seed", "pool_chunks", "threshold_rows")

AT = "@"  # between a model and a hook point, in a comparison and in the name of a source

Config = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One side of a dictionary: a model of one seed at a hook point (None: the only one), and how a
    control shows its rows (None: as they are)."""

    model: str
    seed: int
    point: str | None = None
    view: str | None = None

    @property
    def name(self) -> str:
        seen = f"{self.model}.{self.seed}" + (f".{self.view}" if self.view else "")
        return seen + (f"{AT}{self.point}" if self.point else "")


@dataclass(frozen=True)
class Member:
    """The sources of one dictionary of a comparison, in order: the first is A, the second B."""

    comparison: str
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "_".join(source.name for source in self.sources)


@dataclass(frozen=True)
class Fit:
    """One dictionary: a member of a comparison, a recipe and a seed."""

    member: Member
    recipe: str
    seed: int


def count_of(amount: float, whole: int) -> int:
    """A count from a count (a whole number) or a share (a number with a point)."""
    return amount if isinstance(amount, int) else round(amount * whole)


def active_block_parameters(train: Mapping[str, int]) -> int:
    """Weights of attention and SwiGLU that one token uses, over all layers; router and norms apart."""
    attention = 4 * train["d_model"] ** 2
    return train["layers"] * (attention + 3 * train["d_model"] * train["ffn"] * train["top_k"])


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def points(config: Config) -> dict[str, tuple[str, float]]:
    """Hook points that are read of every model: name -> hook and layer as the config gives them."""
    activations = config["activations"]
    return {
        f"{hook}.{layer}": (hook, layer)
        for layer in _as_list(activations["layer"])
        for hook in _as_list(activations["hook"])
    }


def resolve_layer(layer: float, layers: int, model: str) -> int:
    """Index of a block from an index (a whole number) or a share of depth; 1.0 is the last block."""
    index = layer if isinstance(layer, int) else min(int(layer * layers + 1e-9), layers - 1)
    if index >= layers or (isinstance(layer, float) and layer > 1):
        raise ConfigError(
            f"activations.layer: {layer} does not exist in model '{model}', which has {layers} "
            f"layers (0 to {layers - 1}, or a share of depth from 0.0 to 1.0)"
        )
    return index


def layer_count(config: Config, model: str) -> int | None:
    """Layers of a model as far as they are known before a job runs (a Hub id is not)."""
    return _known(config, model, "layers", "num_hidden_layers", "n_layer")


def model_width(config: Config, model: str) -> int | None:
    """d_model of a model as far as it is known before a job runs (a Hub id is not)."""
    return _known(config, model, "d_model", "hidden_size", "n_embd")


def _known(config: Config, model: str, key: str, *names: str) -> int | None:
    settings = config["models"][model]
    if "train" in settings:
        return settings["train"][key]
    if "rows" in settings:
        return None
    checkpoint = Path(settings["load"]) / "config.json"
    if not checkpoint.is_file():
        return None
    try:
        found = json.loads(checkpoint.read_text(encoding="utf-8"))
        found = found.get("text_config", found)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"models.{model}.load: {checkpoint} is not a config ({error})") from error
    return next((found[name] for name in names if name in found), None)


def seeds(config: Config, model: str) -> list[int]:
    """Seeds of a model: those of training, or one for what was not trained here."""
    settings = config["models"][model]
    return (settings["seeds"] or config["training"]["seeds"]) if "train" in settings else [0]


def peak_rates(config: Config, model: str) -> list[float]:
    """Peak learning rates to try; more than one asks for a sweep. An untrained model tries none."""
    rates = _as_list(config["training"]["peak_lr"])
    return rates if config["models"][model]["sees"]["share"] else rates[:1]


def members(config: Config, comparison: str) -> list[Member]:
    """The dictionaries of a comparison, as lists of sources.

    `each` gives one for every choice of one seed a model (the same model twice: two seeds,
    in one order only; the same model at two points: one seed); `all` gives one over every seed of
    every model. Where several points are read, a model named without one stands for each in turn.
    `seeds` leaves out all others. A control is `_controlled`.
    """
    settings = config["comparisons"][comparison]
    wanted = settings["seeds"]
    named = [name.partition(AT)[::2] for name in settings.get("each") or settings["all"]]
    found: dict[frozenset[Source], Member] = {}
    for point in points(config):
        sides = [
            [
                Source(model, seed, _point(config, model, own or point))
                for seed in seeds(config, model)
                if wanted is None or seed in wanted
            ]
            for model, own in named
        ]
        if "all" in settings:
            choices = [tuple(itertools.chain(*sides))]
        else:
            choices = filter(_is_choice, itertools.product(*sides))
        for sources in choices:
            shown = _controlled(sources, settings["control"])
            found.setdefault(frozenset(shown), Member(comparison, shown))
    return list(found.values())


def _controlled(sources: tuple[Source, ...], control: str | None) -> tuple[Source, ...]:
    """`permuted` pairs every source after the first with the wrong text; `rotated` puts beside the
    sources a copy of the last one in another basis."""
    if control == "permuted":
        return sources[:1] + tuple(replace(source, view=control) for source in sources[1:])
    if control == "rotated":
        return (*sources, replace(sources[-1], view=control))
    return sources


def _point(config: Config, model: str, point: str) -> str | None:
    """The hook point of a source; None where there is only one."""
    several = len(points(config)) > 1 and "rows" not in config["models"][model]
    return point if several else None


def _is_choice(sources: tuple[Source, ...]) -> bool:
    """Whether no source stands twice, and one model at two points is of one seed."""
    return len(set(sources)) == len(sources) and not any(
        a.model == b.model and a.point != b.point and a.seed != b.seed
        for a, b in itertools.combinations(sources, 2)
    )


def fits(config: Config) -> list[Fit]:
    """Every dictionary that the config asks for."""
    return [
        Fit(member, recipe, seed)
        for comparison, settings in config["comparisons"].items()
        for member in members(config, comparison)
        for recipe in settings["recipes"]
        for seed in config["recipes"][recipe]["seeds"]
    ]


def kinds(member: Member) -> dict[str, list[str]]:
    """Names of a member's sources by model, in order."""
    found: dict[str, list[str]] = {}
    for source in member.sources:
        found.setdefault(source.model, []).append(source.name)
    return found


def is_panel(config: Config, member: Member) -> bool:
    """Whether a member holds several models of each of two kinds, whose labels can be exchanged.

    Each model stands once: a control's view of it, or another of its hook points, is no other model.
    """
    sizes = [len(names) for names in kinds(member).values()]
    together = "all" in config["comparisons"][member.comparison]
    models = {(source.model, source.seed) for source in member.sources if not source.view}
    once = len(models) == len(member.sources)
    return together and once and len(sizes) == 2 and min(sizes) > 1


def shared_fits(config: Config) -> list[list[Fit]]:
    """Dictionaries by job: at most `dictionaries_per_job` that agree in sources and stream of rows."""
    streams: dict[tuple, list[Fit]] = {}
    for fit in fits(config):
        recipe = config["recipes"][fit.recipe]
        streams.setdefault((fit.member, *(recipe[key] for key in STREAM)), []).append(fit)
    size = config["dictionaries_per_job"]
    return [
        together[start : start + size]
        for together in streams.values()
        for start in range(0, len(together), size)
    ]


def text_bytes(config: Config, domain: str) -> int | None:
    """Bytes of text to read of a domain: its `megabytes`, or enough for the token budget.

    Enough is 8 bytes a token (text runs at 3 to 5) of the split that needs most, with a quarter
    more for groups that fall unevenly, rounded up to a power of two: a budget that changes a
    little reads no text again. Files that a user names are read whole: None.
    """
    corpus = config["corpus"]
    settings = corpus["domains"][domain]
    if settings["source"] == "files":
        return None
    if settings["megabytes"] is not None:
        return int(settings["megabytes"] * 1e6)
    weight = settings["weight"] / sum(other["weight"] for other in corpus["domains"].values())
    shares = corpus["splits"] | {"train": 1 - sum(corpus["splits"].values())}
    need = max(corpus["tokens"][split] * weight / shares[split] for split in SPLITS)
    return 2 ** math.ceil(math.log2(10 * need))


def matching_files(pattern: str) -> list[str]:
    """Files that a glob matches, sorted."""
    return sorted(match for match in glob.glob(pattern, recursive=True) if Path(match).is_file())


def text_files(config: Config, domain: str) -> list[str]:
    """The user's files that a domain is read from; none for the other sources."""
    patterns = config["corpus"]["domains"][domain].get("paths", [])
    return [match for pattern in patterns for match in matching_files(pattern)]


def checkpoint_files(name: str) -> list[str]:
    """Config, weights and tokenizer of a checkpoint in a local folder; none for a Hub id."""
    return _files_of(
        name, ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json")
    )


def tokenizer_files(name: str) -> list[str]:
    """Files of a tokenizer in a local folder; none for a Hub id."""
    return _files_of(name, ("*token*.json", "vocab.*", "merges.txt", "*.model"))


def _files_of(folder: str, patterns: tuple[str, ...]) -> list[str]:
    found = {str(path) for pattern in patterns for path in Path(folder).glob(pattern)}
    return sorted(found) if Path(folder).is_dir() else []


def sequences(config: Config, split: str) -> int:
    """Packed sequences of a split: its token budget in whole sequences."""
    return config["corpus"]["tokens"][split] // config["corpus"]["sequence"]["length"]


def shard_count(config: Config, split: str) -> int:
    """Shards of a split, each of at most `shard_tokens` tokens."""
    per_shard = config["corpus"]["shard_tokens"] // config["corpus"]["sequence"]["length"]
    return -(-sequences(config, split) // per_shard)


# --- rows that other code wrote ---


def row_patterns(rows: Config, split: str) -> list[str]:
    """The globs of a split that a model's `rows` name."""
    return _as_list(rows[split])


def row_paths(config: Config, model: str, split: str) -> list[str]:
    """Files and folders of `rows`, one a shard: glob after glob, those of each sorted by name."""
    patterns = row_patterns(config["models"][model]["rows"], split)
    return [path for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True))]


def row_files(path: str) -> list[str]:
    """The files of one shard of `rows`: a safetensors file, or the .npy files of a folder."""
    return sorted(map(str, Path(path).glob("*.npy"))) if Path(path).is_dir() else [path]


def row_domains(config: Config, model: str) -> list[str]:
    """Names of the domains of `rows`: those given, else the corpus's, else one for all rows."""
    named = config["models"][model]["rows"]["domains"]
    return named or list(config.get("corpus", {}).get("domains", ["all"]))


def own_tokenizers(config: Config) -> list[str]:
    """Models that read the text by a tokenizer of their own."""
    return [name for name, model in config["models"].items() if model.get("tokenizer") == "own"]


def model_shards(config: Config, model: str, split: str) -> int:
    """Activation shards of a model: one for each of its `rows`, or for each token shard."""
    if "rows" in config["models"][model]:
        return len(row_paths(config, model, split))
    return shard_count(config, split)
