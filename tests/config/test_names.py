"""Names that a user chooses: those that are taken, those too long, and what YAML does not read as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from configured import FOLDER, completed
from moediff.config import config_files, names
from moediff.config.layout import LONGEST_MEMBER, Member, Source
from moediff.core.errors import ConfigError

# --- words of ours -------------------------------------------------------------------------------


@pytest.mark.parametrize("word", names.RESERVED["domain"])
def test_a_domain_is_not_called_as_what_stands_beside_domains(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"^corpus\.domains: the name '{word}' is taken by"):
        completed({"corpus": {"domains": {word: {"source": "tales"}}}})


@pytest.mark.parametrize("word", names.RESERVED["model"])
def test_a_model_is_not_called_as_what_stands_beside_models(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"^models: the name '{word}' is taken by"):
        completed({"models": {word: {"like": "dense"}}})


def test_a_model_is_not_called_as_a_count_of_what_recurs() -> None:
    with pytest.raises(ConfigError, match="of_, as 'of_moe', is taken"):
        completed({"models": {"of_moe": {"like": "moe"}}})


@pytest.mark.parametrize(
    ("domains", "fits"),
    [(None, True), (["all"], True), (["code", "tales"], True), (["all", "code"], False),
     (["unknown"], False), (["model", "a"], False)],
)  # fmt: skip
def test_external_rows_of_one_domain_may_call_it_all(
    tmp_path: Path, domains: list[str] | None, fits: bool
) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "b.safetensors").touch()
    rows = {"fit": f"{tmp_path}/a.safetensors", "validation": f"{tmp_path}/b.safetensors"}
    change = {"models": {"theirs": {"rows": rows | {"domains": domains}}}}
    if fits:
        assert completed(change)["models"]["theirs"]["rows"]["domains"] == domains
    else:
        with pytest.raises(
            ConfigError, match=r"models\.theirs\.rows\.domains: the name '.*' is taken"
        ):
            completed(change)


# --- length --------------------------------------------------------------------------------------

SECTIONS = {
    "corpus.domains": lambda name: {"corpus": {"domains": {name: {"source": "tales"}}}},
    "models": lambda name: {"models": {name: {"like": "dense"}}},
    "recipes": lambda name: {"recipes": {name: {}}},
    "comparisons": lambda name: {"comparisons": {name: {"each": ["moe"]}}},
}
VARIED = "".join(f"{number:02d}" for number in range(150))  # no piece of it follows itself for long


@pytest.mark.parametrize("section", SECTIONS)
def test_a_name_that_no_file_could_bear_is_refused(section: str) -> None:
    assert completed(SECTIONS[section](VARIED[:200]))
    with pytest.raises(ConfigError, match=rf"^{section}: the name .* has 201 bytes"):
        completed(SECTIONS[section](VARIED[:201]))


@pytest.mark.parametrize("section", SECTIONS)
def test_names_that_differ_in_case_alone_are_refused(section: str) -> None:
    one, other = (SECTIONS[section](name) for name in ("twice", "TWICE"))
    (key,) = one
    merged = {key: one[key] | other[key]}
    if key == "corpus":
        merged = {key: {"domains": one[key]["domains"] | other[key]["domains"]}}
    with pytest.raises(ConfigError, match=rf"^{section}: 'twice' and 'TWICE' differ in case alone"):
        completed(merged)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_name_that_snakemake_takes_for_a_recursion_is_refused(section: str) -> None:
    from snakemake.io import PeriodicityDetector

    for name, planned in (("x" * 19, True), ("x" * 20, False), ("b" + "ab" * 20, False)):
        assert (PeriodicityDetector().is_periodic(name) is None) == planned
        if planned:
            assert completed(SECTIONS[section](name))
        else:
            with pytest.raises(ConfigError, match=rf"^{section}: .* twenty times over"):
                completed(SECTIONS[section](name))


def panel(seeds: list[int], *models: str) -> Member:
    return Member("panel", tuple(Source(model, seed) for model in models for seed in seeds))


@pytest.mark.parametrize(
    ("seeds", "name"),
    [
        (range(2), "moe.0_moe.1_dense.0_dense.1"),
        (range(15), "_".join(f"{m}.{seed}" for m in ("moe", "dense") for seed in range(15))),  # 229
        (range(20), "moe.0-19_dense.0-19"),
        ([*range(20), 30, 40, 41], "moe.0-19+30+40-41_dense.0-19+30+40-41"),
    ],
)
def test_a_long_panel_is_called_by_runs_of_seeds(seeds: list[int], name: str) -> None:
    member = panel(list(seeds), "moe", "dense")
    assert member.name == name
    assert len(name) <= LONGEST_MEMBER
    assert Member.parse("panel", name) == member


def test_a_long_name_says_points_views_and_order_too() -> None:
    sources = [Source("a-0_x", seed, "resid_post.0.5", "rotated") for seed in (3, 4, 9, 8, 7)]
    sources += [Source("a-0_x", seed, "mlp_out.1e-05") for seed in (9, 10)]
    member = Member("m", tuple(sources * 3))
    first = "a-0_x.3-4+9+8+7.rotated@resid_post.0.5_a-0_x.9-10@mlp_out.1e-05"
    assert member.name == "_".join([first] * 3)
    assert Member.parse("m", member.name) == member


def test_sixty_models_share_a_dictionary_and_models_of_long_names_are_refused() -> None:
    change = {"training": {"seeds": list(range(20))}, "models": {"flat": {"like": "dense"}}}
    change["comparisons!"] = {"every": {"all": ["moe", "dense", "flat"]}}
    assert completed(change)
    long = {f"{n}{VARIED[:70]}": {"like": "dense"} for n in "abcd"}
    with pytest.raises(ConfigError, match=r"^comparisons\.panel: .* 295 characters, .* shorten"):
        completed({"models": long, "comparisons!": {"panel": {"all": list(long)}}})


# --- what YAML reads -----------------------------------------------------------------------------


def refused(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config_files.check_files([path])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("word", "read"),
    [("no", "true or false"), ("off", "true or false"), ("Yes", "true or false"), ("on", "true or false"),
     ("null", "nothing"), ("~", "nothing"), ("1.5", "a number"), (".inf", "a number"), ("0x10", "a number"),
     ("1_000", "a number"), ("010", "a number"), ("2020-01-01", "a date")],
)  # fmt: skip
@pytest.mark.parametrize("quoted", [False, True])
def test_a_name_that_yaml_does_not_read_as_text_is_refused(
    tmp_path: Path, word: str, read: str, quoted: bool
) -> None:
    text = "corpus:\n  domains:\n    made: {source: tales}\n    {}: {source: tales}\n"
    if quoted:
        path = tmp_path / "config.yaml"
        path.write_text(text.replace("{}", f'"{word}"', 1))
        config_files.check_files([path])
    else:
        said = refused(tmp_path, text.replace("{}", word, 1))
        assert f"config.yaml:4: the name {word} is to YAML" in said
        assert read in said


@pytest.mark.parametrize(
    ("text", "line", "first"),
    [
        ("models: {}\ncorpus: {}\nmodels: {}\n", 3, 1),
        ("corpus:\n  domains:\n    made: {source: tales}\n    made: {source: tales}\n", 4, 3),
        ("a: [{b: 1, c: {d: 1,\n  d: 2}}]\n", 2, 1),
        ("a: {2024: 1, '2024': 2}\n", 1, 1),
        ('{"a": 1,\n\t"b": 2,\n\t"a": 3}', 3, 1),
    ],
)
def test_a_name_that_stands_twice_is_refused_with_its_lines(
    tmp_path: Path, text: str, line: int, first: int
) -> None:
    said = refused(tmp_path, text)
    assert f"config.yaml:{line}: " in said
    assert f"stands twice, here and in line {first}" in said


@pytest.mark.parametrize(
    ("word", "read"),
    [("010000", "4096"), ("4:26:40", "16000"), ("0x10", "16"), ("0b11", "3"), ("1:30.5", "90.5")],
)
def test_a_number_that_is_not_written_in_tens_is_refused(
    tmp_path: Path, word: str, read: str
) -> None:
    said = refused(tmp_path, f"corpus:\n  tokens: [1, {word}]\n")
    assert f"config.yaml:2: {word} is to YAML the number {read};" in said


def test_numbers_in_tens_and_words_in_quotes_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: [0, -1, +2, 450_000, 0.5, 1.0e-3, .5, '010', -0.0, 12:ab]\n")
    config_files.check_files([path])


def test_what_is_merged_may_be_given_again_and_aliases_are_read_once(tmp_path: Path) -> None:
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    path = tmp_path / "config.yaml"
    path.write_text(f"a0: &a0 {{x: 1}}\nb: {{<<: *a0, x: 2}}\nc: &c [*c]\n2024: 1\n{bomb}")
    config_files.check_files([path])


@pytest.mark.parametrize("text", ["a: [\n", "a:\n\tb: 1\n", "? {a: 1}\n: 2\n", "a: b: c\n"])
def test_what_is_no_config_is_one_line(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text).split(": ")[0].split(":")[0].endswith("config.yaml")


def test_lists_too_deep_are_one_line(tmp_path: Path) -> None:
    assert "config.yaml" in refused(tmp_path, "a: " + "[" * 3000 + "]" * 3000)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_pass_the_strict_reading(path: Path) -> None:
    if path.stem != "claims":  # whose rows have a key `null`
        config_files.check_files([path])


@pytest.mark.parametrize("key", [False, True, None, 1.5, "a\0", "\ud800"])
def test_a_key_that_is_no_text_is_refused_wherever_it_comes_from(key: object) -> None:
    with pytest.raises(ConfigError, match=r"^corpus\.domains"):
        completed({"corpus": {"domains!": {key: {"source": "tales"}}}})


def test_a_date_and_a_switch_are_no_names_as_values_either() -> None:
    for word, said in (
        ("2020-01-01", "a date"),
        ("no", "no (off, false)"),
        ("12", "12 is no text"),
    ):
        with pytest.raises(ConfigError) as caught:
            completed({"comparisons": {"pair": {"each": [yaml.safe_load(word)]}}})
        assert "comparisons.pair.each.0" in str(caught.value)
        assert said in str(caught.value)
        assert "quotes" in str(caught.value)


@pytest.mark.parametrize("train", ["12", [], True, None, float("inf"), 3, [{"ffn": 2}]])
@pytest.mark.parametrize(
    "beside", [{}, {"like": "dense"}, {"like": "dense", "match": {"active": "dense"}}]
)
def test_train_that_is_no_mapping_is_refused(train: object, beside: dict) -> None:
    with pytest.raises(ConfigError, match=r"^models\.twin\.train: .* must be a mapping"):
        completed({"models": {"twin": {"train": train, **beside}}})


def test_a_number_that_came_by_the_command_line_is_told_so() -> None:
    given = json.loads('{"training": {"seeds": ["1"]}}')  # --config 'training={"seeds": [1]}'
    with pytest.raises(ConfigError, match=r"^training\.seeds\.0: '1' is text, .* after --config"):
        completed(given)
    with pytest.raises(
        ConfigError, match=r"^training\.peak_lr: '5e-4' is text to YAML.* write 5\.0e-4"
    ):
        completed("training: {peak_lr: 5e-4}")
