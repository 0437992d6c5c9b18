"""Configs changed at random places: each change knows whether its config must be refused or accepted.

500 of them go through the door that the Snakefile uses; some also through a dry-run of Snakemake.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from configured import FOLDER, PAIR, SHIPPED
from conftest import PRESETS, SCHEMA
from moediff.config import comparisons, complete, layout, roles
from moediff.config.names import RESERVED
from moediff.core.errors import ConfigError
from workflow import TINY, prepare, snakemake

COUNT = 500
STUDY = yaml.safe_load((FOLDER / "study.yaml").read_text(encoding="utf-8"))
PRIMARY = yaml.safe_load((FOLDER / "claims.yaml").read_text(encoding="utf-8"))["primary"]
BASES = {"default": SHIPPED["config"], "pair": PAIR, "study": STUDY, "tiny": TINY}
FREE = {("corpus", "domains"), ("models",), ("recipes",), ("comparisons",)}  # names are the user's
Change = Callable[[random.Random, dict], None]


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Where the values of a config stand, lists as one value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def mappings(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict):
        yield path
        for key, part in value.items():
            yield from mappings(part, (*path, key))


def at(config: dict, path: tuple) -> Any:
    for key in path:
        config = config[key]
    return config


def put(config: dict, path: tuple, value: Any) -> None:
    at(config, path[:-1])[path[-1]] = value


def numbers(config: dict) -> list[tuple]:
    """Places of whole numbers; a share may be one as well, which `tied` and `layer` are."""
    return [
        path
        for path, value in leaves(config)
        if type(value) is int and path[-1] not in ("tied", "share", "exclusive", "layer")
    ]


def texts(config: dict) -> list[tuple]:
    return [path for path, value in leaves(config) if isinstance(value, str)]


# --- what must be refused ------------------------------------------------------------------------


def unknown_key(rng: random.Random, config: dict) -> None:
    place = rng.choice([path for path in mappings(config) if path not in FREE])
    at(config, place)[rng.choice(["colour", "Layers", "seed_", "ünder", ""])] = rng.choice(
        [1, None]
    )


def required_key_gone(rng: random.Random, config: dict) -> None:
    places = [("models",), ("comparisons",), ("corpus",), ("corpus", "tokens")]
    places += [("corpus", "tokens", split) for split in ("train", "fit", "validation")]
    places += [("corpus", "domains", name, "source") for name in config["corpus"]["domains"]]
    places += [("models", "dense", "train", key) for key in ("d_model", "layers", "heads", "ffn")]
    place = rng.choice(places)
    del at(config, place[:-1])[place[-1]]


def number_of_another_type(rng: random.Random, config: dict) -> None:
    value = rng.choice(["many", "5e-4", "1", [], [1], {}, {"a": 1}, True, None, 0.37])
    put(config, rng.choice(numbers(config)), copy.deepcopy(value))


def number_no_machine_takes(rng: random.Random, config: dict) -> None:
    values = [-1, -(10**9), 10**15, 10**18, 2**64, 10**100, 1e30, math.nan, math.inf, -math.inf]
    put(config, rng.choice(numbers(config)), rng.choice(values))


def text_of_another_type(rng: random.Random, config: dict) -> None:
    place = rng.choice(texts(config))
    nullable = place[-1] in ("group", "group_pattern", "preset")
    nothing = 7 if nullable else None
    value = rng.choice([True, False, nothing, 7, 1.5, {}, [[]], "a\0b", "\ud800"])
    put(config, place, copy.deepcopy(value))


def name_that_is_none(rng: random.Random, config: dict) -> None:
    section = rng.choice(sorted(FREE))
    bad = ["a.b", "", " ", "-x", "_x", "a b", "a/b", "..", "é", "a\n", "\u202e", "{x}", "*", "x" * 300,
           "abc" * 20, False, None, 1.5, True, "a\0"]  # fmt: skip
    named = at(config, section)
    named[rng.choice(bad)] = copy.deepcopy(rng.choice(list(named.values())))


def name_that_is_taken(rng: random.Random, config: dict) -> None:
    section, kind = rng.choice([(("corpus", "domains"), "domain"), (("models",), "model")])
    named = at(config, section)
    word = rng.choice([*RESERVED[kind], *(["of_dense"] if kind == "model" else [])])
    named[word] = copy.deepcopy(next(iter(named.values())))


def mapping_of_another_type(rng: random.Random, config: dict) -> None:
    place = rng.choice([path for path in mappings(config) if path])
    put(config, place, rng.choice(["12", [], True, None, math.inf, 3, [{}]]))


def reference_to_nothing(rng: random.Random, config: dict) -> None:
    first = next(iter(config["comparisons"].values()))
    side = "each" if "each" in first else "all"
    rng.choice(
        [
            lambda: first.update({side: [rng.choice(["big", "", "moe.0", "moe@nowhere.1", False])]}),
            lambda: first.update(recipes=[rng.choice(["none", "", "Default", None])]),
            lambda: first.update(seeds=[rng.choice([99, -1, "0", 0.5])]),
            lambda: config["models"]["moe"].update(like=rng.choice(["moe", "", "MoE", False, ["dense"]])),
            lambda: config["models"]["moe"].update(match={"active": rng.choice(["", "x", 1])}),
            lambda: config["models"]["moe"].update(sees={"domains": [rng.choice(["x", False])]}),
            lambda: config["models"]["moe"].update(init={"checkpoint": rng.choice(["moe", "x", None])}),
        ]
    )()  # fmt: skip


def place_for_no_results(rng: random.Random, config: dict) -> None:
    config["results"] = rng.choice(
        ["", " ", ".", "./", "..", "/", "../..", "out{1}", "{seed}", "a*", "a?", "o[1]", "a\nb", "a\x1b[31m",
         "out ", "-x", "~nobody_here/x", "own/../.", "file.txt", "file.txt/out", "\u2028"]
    )  # fmt: skip


def text_from_nowhere(rng: random.Random, config: dict) -> None:
    name = rng.choice(list(config["corpus"]["domains"]))
    paths = rng.choice(
        [["no/*.txt"], [], "own/*.txt", ["own/*.txt", "no.txt"], ["own"], ["~nobody_here/a"]]
    )
    config["corpus"]["domains"][name] = {"source": "files", "paths": paths}  # fmt: skip


def checkpoint_from_nowhere(rng: random.Random, config: dict) -> None:
    place = rng.choice(
        ["/no/such/folder", "a/b/c", "no folder", "{x}", "", "damaged", "~nobody_here/x"]
    )
    config["models"]["loaded"] = {"load": place, "tokenizer": "own"}


def a_panel_of_too_many(rng: random.Random, config: dict) -> None:
    a_large_panel(rng, config)
    config["training"]["seeds"] = list(range(rng.choice([11, 20, 40, 1000])))
    config["models"]["moe"].pop("seeds", None)


def choices_without_end(rng: random.Random, config: dict) -> None:
    config["training"] = config.get("training", {}) | {"seeds": list(range(rng.choice([40, 400])))}
    config["comparisons"]["wide"] = {"each": ["moe", "dense"] * rng.choice([4, 9])}


def aliases_without_end(rng: random.Random, config: dict) -> None:
    value: Any = ["x"] * 9
    for _ in range(rng.choice([8, 20])):
        value = [value] * 9
    if rng.random() < 0.5:
        value.append(value)  # it holds itself
    config[rng.choice(["models", "comparisons", "results", "recipes"])] = value


def too_deep(rng: random.Random, config: dict) -> None:
    value: Any = 1
    for _ in range(rng.choice([60, 900, 5000])):
        value = [value]
    put(config, rng.choice(numbers(config)), value)


REFUSED: list[Change] = [
    unknown_key, required_key_gone, number_of_another_type, number_no_machine_takes, text_of_another_type,
    name_that_is_none, name_that_is_taken, mapping_of_another_type, reference_to_nothing,
    place_for_no_results, text_from_nowhere, checkpoint_from_nowhere, choices_without_end,
    a_panel_of_too_many, aliases_without_end, too_deep,
]  # fmt: skip

# --- what must be accepted -----------------------------------------------------------------------


def as_it_is(rng: random.Random, config: dict) -> None:
    pass


def keys_in_another_order(rng: random.Random, config: dict) -> None:
    for place in mappings(copy.deepcopy(config)):
        mapping = at(config, place)
        items = list(mapping.items())
        rng.shuffle(items)
        mapping.clear()
        mapping.update(items)


def whole_numbers_with_a_point(rng: random.Random, config: dict) -> None:
    for place in numbers(config):
        if rng.random() < 0.5 and not isinstance(at(config, place[:-1]), list):
            put(config, place, float(at(config, place)))


def another_seed(rng: random.Random, config: dict) -> None:
    seed = rng.choice([0, 1, 2**31, 2**32 - 1])
    config["corpus"]["seed"] = seed
    config["training"] = config.get("training", {}) | {"data_seed": seed}
    for recipe in config["recipes"].values():
        recipe["seeds"] = [seed]


def another_good_name(rng: random.Random, config: dict) -> None:
    section = rng.choice(sorted(FREE))
    good = ["no", "null", "2024", "0", "All", "pooled", "fit", "seed-0", "a_b-c", "x" * 19, "Ab" * 9,
            "experts", "best", "tokenizer", "ngrams", "trigrams", "mean", "dead", 7]  # fmt: skip
    named = at(config, section)
    named[rng.choice(good)] = copy.deepcopy(rng.choice([
        value for value in named.values() if not ("seeds" in value and section == ("comparisons",))
    ]))  # fmt: skip


def the_longest_name(rng: random.Random, config: dict) -> None:
    name = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789_-", k=199))
    named = at(config, rng.choice([("corpus", "domains"), ("recipes",), ("comparisons",)]))
    named["n" + name] = copy.deepcopy(next(iter(named.values())))


def another_place_for_results(rng: random.Random, config: dict) -> None:
    config["results"] = rng.choice(
        ["out", "./out", "out/", "a/../out", "~/out", "../beside", "résultats", "my results (v1) 'q'", "own2",
         "a.b", "results//study", "/tmp/x/y"]
    )  # fmt: skip


def a_large_panel(rng: random.Random, config: dict) -> None:
    seeds = list(range(rng.choice([8, 10])))
    config["training"] = config.get("training", {}) | {"seeds": seeds}
    config["comparisons"] = {"panel": {"all": ["moe", "dense"]}, "moe": {"each": ["moe"]}}
    for recipe in config["recipes"].values():
        recipe["exclusive"] = 0  # which takes as many features for each source


def many_models_in_one_dictionary(rng: random.Random, config: dict) -> None:
    a_large_panel(rng, config)
    config["training"]["seeds"] = list(range(rng.choice([20, 40, 300])))
    config["comparisons"] = {"of-one": {"all": ["moe"]}}


def another_harmless_number(rng: random.Random, config: dict) -> None:
    place, values = rng.choice(
        [(("plots", "width"), [100, 1000]), (("reruns", "sequences"), [1, 10**6]),
         (("training", "epochs"), [1, 50]), (("training", "evaluations"), [1, 100]),
         (("activations", "batch"), [1, 512]), (("features", "dead_below"), [1, 10**6]),
         (("dictionaries_per_job",), [1, 7, 1000]), (("features", "user_floor"), [1, 1e-9, 0.5])]
    )  # fmt: skip
    for depth in range(1, len(place)):
        at(config, place[: depth - 1]).setdefault(place[depth - 1], {})
    put(config, place, rng.choice(values))


ACCEPTED: list[Change] = [
    as_it_is, keys_in_another_order, whole_numbers_with_a_point, another_seed, another_good_name,
    the_longest_name, another_place_for_results, a_large_panel, many_models_in_one_dictionary,
    another_harmless_number,
]  # fmt: skip


def mutated(number: int) -> tuple[str, dict, bool]:
    """Config `number`: what was done to it, and whether it is to be accepted."""
    rng = random.Random(number)
    base = rng.choice(list(BASES))
    config = copy.deepcopy(BASES[base])
    good = number % 3 == 0
    change = rng.choice(ACCEPTED if good else REFUSED)
    change(rng, config)
    return f"{number}: {base}, {change.__name__}", config, good


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the text that the base configs name, a file, and a damaged checkpoint."""
    for name in ("own/a.txt", "text/code.parquet", "text/science.parquet", "text/stories.parquet",
                 "file.txt", "damaged/config.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"num_hidden_layers": "12"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def through_the_door(config: Mapping[str, Any]) -> list[str]:
    """What the Snakefile's parse asks of a config; every path of a dictionary that it would plan."""
    whole = complete.complete(config, SCHEMA, PRESETS)
    fits = comparisons.fits(whole)
    comparisons.shared_fits(whole)
    pair = roles.drawn_pair(fits, PRIMARY)
    roles.primary_panels(whole, fits, PRIMARY), roles.known_panels(whole, fits, PRIMARY)
    roles.primary_analysis(whole, PRIMARY), roles.routed_sources(whole, pair)
    roles.shown(fits, pair)
    paths = [
        f"{whole['results']}/{fit.path('.dictionary.safetensors.4194304.partial')}" for fit in fits
    ]
    for fit in fits:
        assert layout.Member.parse(fit.member.comparison, fit.member.name) == fit.member
        paths.append(fit.path(".affinity.parquet.4194304.partial", fit.member.sources[-1].name))
    paths += [
        layout.path("documents", domain=f".{domain}") + ".4194304.partial"
        for domain in whole["corpus"]["domains"]
    ]
    return paths


@pytest.mark.parametrize("start", range(0, COUNT, 100))
def test_mutated_configs_are_refused_in_one_line_or_accepted_as_they_must_be(
    here: Path, start: int
) -> None:
    wrong = []
    for number in range(start, start + 100):
        what, config, good = mutated(number)
        try:
            paths = through_the_door(config)
        except ConfigError as error:
            if good or "\n" in str(error) or len(str(error)) > 1100:
                wrong.append(f"{what}: {error}")
            continue
        if not good:
            wrong.append(f"{what}: accepted")
        longest = max(len(part.encode()) for path in paths for part in path.split("/"))
        assert longest <= 255, what
    assert not wrong, "\n".join(wrong)


def test_every_change_is_tried_on_every_base() -> None:
    seen = {mutated(number)[0].split(": ")[1] for number in range(COUNT)}
    wanted = {f"{base}, {change.__name__}" for base, change in itertools.product(BASES, REFUSED)}
    assert wanted <= seen


# Lists too deep end in Snakemake's own reading of a file, before any code of ours.
PLANNED = [number for number in range(1, COUNT, 19) if "too_deep" not in mutated(number)[0]][:21]


@pytest.mark.slow
@pytest.mark.parametrize("number", PLANNED)
def test_snakemake_refuses_and_plans_the_same(tmp_path: Path, number: int) -> None:
    folder = prepare(tmp_path / "study")
    for name in ("code", "science", "stories"):
        (folder / f"text/{name}.parquet").parent.mkdir(exist_ok=True)
        (folder / f"text/{name}.parquet").touch()
    (folder / "file.txt").touch()
    (folder / "damaged").mkdir()
    (folder / "damaged/config.json").write_text('{"num_hidden_layers": "12"}')
    what, config, good = mutated(number)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = snakemake(folder, "-n", "--configfile", str(folder / "config.yaml"))
    lines = [line for line in found.stderr.splitlines() if line.startswith("config error: ")]
    assert (found.returncode == 0) == good, f"{what}: {found.stderr}"
    assert len(lines) == (not good), f"{what}: {found.stderr}"
    assert "Traceback" not in found.stderr, what
