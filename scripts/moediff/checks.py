"""Checks that a schema cannot make: each names the key, what is wrong and what would be right."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moediff.config import (
    AT,
    ROW_SPLITS,
    Config,
    Member,
    active_block_parameters,
    count_of,
    layer_count,
    matching_files,
    members,
    model_shards,
    model_width,
    points,
    resolve_layer,
    row_files,
    row_paths,
    row_patterns,
    seeds,
)
from moediff.errors import ConfigError
from moediff.schema import fill


def complete(
    config: Mapping[str, Any], schema: Mapping[str, Any], presets: Mapping[str, Config]
) -> Config:
    """The config with presets and every default filled in, checked. Raises ConfigError with one line."""
    whole = fill(config, schema, presets)
    _check(whole)
    return whole


def _check(config: Config) -> None:
    low, high = config["features"]["bounds"]
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"features.bounds: [{low}, {high}] must rise from 0 to 1")
    if "corpus" in config:
        _check_corpus(config["corpus"])
    elif not all("rows" in model for model in config["models"].values()):
        raise ConfigError("config: the key 'corpus' is missing")
    for name, model in config["models"].items():
        _check_model(name, model, config)
    _check_hook(config)
    for name, recipe in config["recipes"].items():
        _check_recipe(name, recipe, config)
    for name in config["comparisons"]:
        _check_comparison(name, config)
    seeds_of = config["planted"]["seeds"]
    for seed in seeds_of["choose"]:
        if seed in seeds_of["score"]:
            raise ConfigError(f"planted.seeds: seed {seed} is both to choose and to score on")


def _check_corpus(corpus: Config) -> None:
    if corpus["splits"]["fit"] + corpus["splits"]["validation"] >= 1:
        raise ConfigError("corpus.splits: fit and validation leave nothing for train")
    length = corpus["sequence"]["length"]
    for split, tokens in corpus["tokens"].items():
        if tokens < length:
            raise ConfigError(
                f"corpus.tokens.{split}: {tokens} is less than one sequence of {length} tokens"
            )
    if corpus["shard_tokens"] < length:
        raise ConfigError(
            f"corpus.shard_tokens: {corpus['shard_tokens']} is less than one sequence of {length}"
        )
    for name, domain in corpus["domains"].items():
        pattern = domain.get("group_pattern")
        if pattern is not None:
            if domain["group"] is None:
                raise ConfigError(f"corpus.domains.{name}.group_pattern: needs a group column")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"corpus.domains.{name}.group_pattern: '{pattern}' is not a regular "
                    f"expression ({error})"
                ) from error
        if domain["source"] == "files":
            for pattern in domain["paths"]:
                if not matching_files(pattern):
                    raise ConfigError(
                        f"corpus.domains.{name}.paths: no file matches '{pattern}' "
                        f"(from {Path.cwd().name}/)"
                    )


def _check_model(name: str, model: Config, config: Config) -> None:
    if "rows" in model:
        _check_rows(name, config)
        return
    if "load" in model:
        if model["tokenizer"] == "corpus" and "load" not in config["corpus"]["tokenizer"]:
            raise ConfigError(
                f"models.{name}.load: a checkpoint needs its own tokenizer; set corpus.tokenizer to "
                f"{{load: {model['load']}}}, or models.{name}.tokenizer to own"
            )
        return
    train = model["train"]
    if train["d_model"] % train["heads"] or (train["d_model"] // train["heads"]) % 2:
        raise ConfigError(
            f"models.{name}.train: d_model {train['d_model']} does not split into "
            f"{train['heads']} heads of even width"
        )
    if train["top_k"] > train["experts"]:
        raise ConfigError(
            f"models.{name}.train: top_k {train['top_k']} is more than experts {train['experts']}"
        )
    _check_sees(f"models.{name}.sees.domains", model["sees"]["domains"], config["corpus"])
    twin = model["match"].get("active")
    if twin is None:
        return
    if "train" not in config["models"].get(twin, {}):
        raise ConfigError(f"models.{name}.match.active: '{twin}' is not a model trained here")
    own, other = (active_block_parameters(config["models"][key]["train"]) for key in (name, twin))
    if abs(own / other - 1) > 0.01:
        raise ConfigError(
            f"models.{name}: {own} active block parameters, '{twin}' has {other}; "
            "more than 1 % apart (change ffn, top_k or layers)"
        )


def _check_sees(where: str, seen: list[str] | None, corpus: Config) -> None:
    """That a model's domains are there, and that what it does not learn from cannot reach the rest."""
    for domain in seen or []:
        if domain not in corpus["domains"]:
            raise ConfigError(
                f"{where}: unknown domain '{domain}'; domains: {', '.join(corpus['domains'])}"
            )
    if seen and corpus["sequence"]["attend_across_documents"]:
        raise ConfigError(
            f"{where}: with attend_across_documents it would still read the other domains before "
            "its own; set corpus.sequence.attend_across_documents to false"
        )


def _check_rows(name: str, config: Config) -> None:
    """That the files of `rows` are there, of a kind that is read, and none of them twice."""
    seen: set[str] = set()
    for split in ROW_SPLITS:
        where = f"models.{name}.rows.{split}"
        for pattern in row_patterns(config["models"][name]["rows"], split):
            if not glob.glob(pattern, recursive=True):
                raise ConfigError(f"{where}: no file matches '{pattern}' (from {Path.cwd().name}/)")
        for path in row_paths(config, name, split):
            if not _is_rows(path):
                raise ConfigError(
                    f"{where}: '{path}' is neither a .safetensors file nor a folder of .npy files"
                )
            if path in seen:
                raise ConfigError(f"{where}: '{path}' is named twice; a row counts once")
            seen.add(path)


def _is_rows(path: str) -> bool:
    if Path(path).is_dir():
        return bool(row_files(path))
    return Path(path).is_file() and path.endswith(".safetensors")


def _check_hook(config: Config) -> None:
    for name in config["models"]:
        layers = layer_count(config, name)
        if layers is not None:
            for _, layer in points(config).values():
                resolve_layer(layer, layers, name)


def _check_recipe(name: str, recipe: Config, config: Config) -> None:
    where = f"recipes.{name}"
    if recipe["k"] > recipe["features"]:
        raise ConfigError(f"{where}.k: {recipe['k']} is more than features {recipe['features']}")
    if recipe["warmup"] + recipe["decay"] > 1:
        raise ConfigError(f"{where}: warmup and decay together are more than the whole run")
    _check_selection(where, recipe)
    _check_prefixes(where, recipe)
    if count_of(recipe["tied"], recipe["features"]) > recipe["features"]:
        raise ConfigError(
            f"{where}.tied: {recipe['tied']} is more than features {recipe['features']}"
        )
    if "corpus" not in config:
        return
    fit_tokens = config["corpus"]["tokens"]["fit"]
    if (recipe["threshold_rows"] or 0) * 2 > fit_tokens:
        raise ConfigError(
            f"{where}.threshold_rows: {recipe['threshold_rows']} is more than half of "
            f"corpus.tokens.fit ({fit_tokens})"
        )


def _check_selection(where: str, recipe: Config) -> None:
    """Keys that a selection rule needs, or that mean nothing to it."""
    select, penalties = recipe["select"], recipe["penalties"]
    if "l0" in penalties and select != "jumprelu":
        raise ConfigError(
            f"{where}.penalties.l0: nothing learns from it with select: {select}; it moves the "
            "thresholds of jumprelu"
        )
    if select in ("batchtopk", "topk"):
        if (
            recipe["k_start"] is not None
            and not recipe["k"] <= recipe["k_start"] <= recipe["features"]
        ):
            raise ConfigError(
                f"{where}.k_start: {recipe['k_start']} must lie between k ({recipe['k']}) and "
                f"features ({recipe['features']})"
            )
        return
    if not penalties:
        raise ConfigError(
            f"{where}.penalties: select: {select} keeps no number of features, so without a "
            "penalty nothing makes it sparse"
        )
    if recipe["k_start"] is not None:
        raise ConfigError(f"{where}.k_start: select: {select} keeps no number of features")
    if recipe["screen"] is True:
        raise ConfigError(
            f"{where}.screen: select: {select} lets too many scores pass for a screen to pay; "
            "leave it at auto"
        )


def _check_prefixes(where: str, recipe: Config) -> None:
    features = recipe["features"]
    counts = [count_of(part, features) for part in recipe["prefixes"]]
    if (
        counts[0] < 1
        or counts[-1] != features
        or any(a >= b for a, b in itertools.pairwise(counts))
    ):
        raise ConfigError(
            f"{where}.prefixes: {counts} must rise and end with all {features} features (1.0)"
        )
    if len(counts) > 1 and recipe["exclusive"]:
        raise ConfigError(
            f"{where}.prefixes: exclusive features come last in every order, so prefixes cannot "
            "rank them; leave out one of the two"
        )


def _check_comparison(name: str, config: Config) -> None:
    where = f"comparisons.{name}"
    comparison = config["comparisons"][name]
    for side in comparison.get("each") or comparison["all"]:
        model, _, point = side.partition(AT)
        if model not in config["models"]:
            raise ConfigError(
                f"{where}: unknown model '{model}'; models: {', '.join(config['models'])}"
            )
        if point and point not in points(config):
            raise ConfigError(
                f"{where}: unknown hook point '{point}'; points: {', '.join(points(config))}"
            )
    for recipe in comparison["recipes"]:
        if recipe not in config["recipes"]:
            raise ConfigError(
                f"{where}.recipes: unknown recipe '{recipe}'; recipes: {', '.join(config['recipes'])}"
            )
    for seed in comparison["seeds"] or []:
        for side in comparison.get("each") or comparison["all"]:
            known = seeds(config, side.partition(AT)[0])
            if seed not in known:
                raise ConfigError(
                    f"{where}.seeds: {seed} is no seed of '{side}', which has "
                    f"{', '.join(map(str, known))}"
                )
    found = members(config, name)
    if not found:
        raise ConfigError(
            f"{where}: the same model twice needs as many seeds, or a source would stand twice "
            "in one dictionary (training.seeds)"
        )
    for member in found:
        if len(set(member.sources)) < len(member.sources):
            raise ConfigError(f"{where}: one source stands twice in {member.name}")
        # Of more sources some would be in step with each other, and no rate of exclusive features known.
        if comparison["control"] and len(member.sources) != 2:
            raise ConfigError(
                f"{where}.control: permuted rows go with one other model's, a rotated copy with its own "
                f"model's; {member.name} has {len(member.sources)} sources"
            )
    _check_shards(where, found[0], config)
    for recipe in comparison["recipes"]:
        _check_blocks(where, recipe, config["recipes"][recipe], found[0], config)


def _check_shards(where: str, member: Member, config: Config) -> None:
    """A file of `rows` holds the rows of one shard of every other source."""
    for split in ROW_SPLITS:
        counts = {s.model: model_shards(config, s.model, split) for s in member.sources}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{model} {count}" for model, count in counts.items())
            raise ConfigError(
                f"{where}: its sources have different numbers of {split} shards ({listed}); "
                "write one file of rows for each shard of the other source"
            )


def _check_blocks(where: str, name: str, recipe: Config, member: Member, config: Config) -> None:
    sources = len(member.sources)
    features = recipe["features"]
    tied = count_of(recipe["tied"], features) if sources > 1 else 0
    exclusive = count_of(recipe["exclusive"], features) * sources if sources > 1 else 0
    if tied + exclusive > features:
        raise ConfigError(
            f"{where} with recipe '{name}': {tied} tied and {exclusive} exclusive features "
            f"are more than {features}"
        )
    if recipe["tie"] == "direction" and tied:
        widths = {source.model: model_width(config, source.model) for source in member.sources}
        known = {model: width for model, width in widths.items() if width is not None}
        if len(set(known.values())) > 1:
            listed = ", ".join(f"{model} {width}" for model, width in known.items())
            raise ConfigError(
                f"{where} with recipe '{name}': a tie by direction needs equal widths, not "
                f"{listed}; use tie: norm"
            )
