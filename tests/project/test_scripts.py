"""Every script is run by a test: on a finished study, job by job, or where ELSEWHERE says.

Here each runs in this process on the files of a real run, and must write them again byte for byte.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from moediff.core import artifact
from moediff.synthetic import grid
from snake import SCRIPTS, Job, Study, made_files, run_script, script_name
from workflow import DICTIONARY, ROOT, TINY, prepare

# Scripts that the tiny study cannot run, or not in a moment: the test that runs each, through Snakemake or
# on made files.
END_TO_END = "end_to_end/test_first_run.py"
ELSEWHERE = {
    "activations/external_measure": (END_TO_END, "test_external_rows_alone_give_the_same_numbers"),
    "activations/external_store": (END_TO_END, "test_external_rows_alone_give_the_same_numbers"),
    "analysis/detectable": (END_TO_END, "test_a_panel_is_judged_by_every_other_labelling"),
    "analysis/gather_kinds": (
        "analysis/test_kinds.py", "test_the_jobs_grade_each_panel_and_gather_them",
    ),
    "analysis/kinds": (
        "analysis/test_kinds.py", "test_the_jobs_grade_each_panel_and_gather_them",
    ),
    "analysis/panel": (END_TO_END, "test_a_panel_is_judged_by_every_other_labelling"),
    "analysis/panel_loss": ("analysis/test_panel_loss.py", "test_the_job"),
    "analysis/plant": (END_TO_END, "test_a_panel_is_judged_by_every_other_labelling"),
    "analysis/trend": (END_TO_END, "test_a_panel_is_judged_by_every_other_labelling"),
    "corpus/retokenise": ("corpus/test_retokenise.py", "test_the_job_writes_a_shard_that_aligns"),
    "experts/attribution": (END_TO_END, "test_models_are_run_again_with_parts_replaced_or_masked"),
    **dict.fromkeys(
        (
            "claims/judge_experts",
            *(f"experts/{name}" for name in (
                "concentration", "experts_by_class", "fewer_experts", "gather_fewer_experts",
                "gather_lens", "gather_prune", "gather_routing", "lens", "prune", "pruned_features",
                "pruned_model", "usage",
            )),
            "report/text_page",
        ),
        ("end_to_end/test_moe_lens.py", "test_the_jobs_of_moe_lens_follow_each_other"),
    ),
    "report/events": ("report/test_event_files.py", "test_a_job_writes_the_event_file_of_every_history"),
    "report/stages": ("report/test_stage_hours.py", "test_the_report_points_to_that_page"),
    "models/load": (END_TO_END, "test_models_of_two_tokenizers_meet_where_their_tokens_end"),
    "report/budget": (END_TO_END, "test_external_rows_alone_give_the_same_numbers"),
    "synthetic/planted": ("synthetic/test_grid.py", "test_the_job_takes_up_worlds_that_are_done"),
}  # fmt: skip
EVERY = sorted(
    script_name(path) for path in SCRIPTS.glob("*/*.py") if path.parent.name != "moediff"
)
FIT = DICTIONARY.removeprefix("dictionaries/")
# Files beyond what the whole study makes, of the scripts that it leaves out.
ASKED_FOR = [
    "results/baselines/moe-dense/moe.0_dense.0/anchor.parquet",
    "results/baselines/moe-dense/moe.0_dense.0/divergence.parquet",
    "results/baselines/moe-dense/moe.0_dense.0/moved.parquet",
    "results/baselines/moe-dense/moe.0_dense.0/similarity.parquet",
    f"results/{DICTIONARY}/experts/moe.0/masked.parquet",
    f"results/exports/hub/{FIT}/README.md",
]


def test_each_script_run_elsewhere_exists_and_so_does_its_test() -> None:
    assert set(ELSEWHERE) <= set(EVERY)
    for path, name in ELSEWHERE.values():
        tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_script_is_that_of_a_rule(tmp_path: Path) -> None:
    study = Study(prepare(tmp_path))
    assert {script_name(study.script(rule)) for rule in study.rules()} == set(EVERY)


@pytest.fixture(scope="module")
def again(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The finished study in another folder, without the checkpoints from which a job would be taken up."""
    folder = tmp_path_factory.mktemp("again") / "study"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("state", ".snakemake"))
    return Study(folder)


@pytest.fixture(scope="module")
def jobs(again: Study) -> dict[str, Job]:
    """The first job of each script among those that make the study's files."""
    found: dict[str, Job] = {}
    for job in again.jobs([*made_files(again.folder), *ASKED_FOR]):
        found.setdefault(job.name, job)
    return found


@pytest.fixture
def without_outputs(jobs: dict[str, Job], finished: Path, request) -> Iterator[Job]:
    """A job whose outputs are gone, and put back afterwards as the workflow left them."""
    assert request.param in jobs, (
        "no job of the tiny study; run it elsewhere and say in ELSEWHERE where"
    )
    job = jobs[request.param]
    for path in job.snakemake.output:
        (job.folder / path).unlink(missing_ok=True)
    yield job
    for path in job.snakemake.output:
        if (finished / path).exists():
            shutil.copyfile(finished / path, job.folder / path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "without_outputs", [name for name in EVERY if name not in ELSEWHERE], indirect=True
)
def test_a_script_writes_again_what_the_workflow_wrote(
    without_outputs: Job, finished: Path
) -> None:
    job = without_outputs
    job.run()
    for path in job.snakemake.output:
        written = (job.folder / path).read_bytes()
        if (finished / path).exists():
            assert written == (finished / path).read_bytes(), path
        else:
            assert written
            assert path.rpartition("/")[0] in {asked.rpartition("/")[0] for asked in ASKED_FOR}


def test_planted_worlds_are_drawn(tmp_path: Path) -> None:
    job = Study(prepare(tmp_path)).job("results/plots/planted.svg")
    rates = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "false_share": 0.1}
    about = {
        "factor": "scale",
        "level": "1",
        "base": True,
        "part": "score",
        "seed": 1,
        "in_use": True,
    }
    rows = [about | rates | {"method": name, "threshold": 0.3} | dict.fromkeys(grid.COUNTS, 4)
            for name in ("one-way", "another")]  # fmt: skip
    artifact.write_parquet(
        tmp_path / job.snakemake.input[0], grid.table(rows), artifact.made_by("planted")
    )
    job.run()
    (svg,) = (path for path in job.snakemake.output if path.endswith(".svg"))
    assert "Of planted unique features" in (tmp_path / svg).read_text(encoding="utf-8")
    assert all((tmp_path / path).stat().st_size for path in job.snakemake.output)


# --- the mock ---


def test_a_job_is_what_the_rules_functions_say(tmp_path: Path) -> None:
    study = Study(prepare(tmp_path))
    job = study.job("results/models/moe/seed-0/model.json")
    assert job.name == "training/train"
    seen = job.snakemake
    assert (seen.rule, seen.threads, dict(seen.wildcards)) == (
        "train", 1, {"model": "moe", "seed": "0"}
    )  # fmt: skip
    assert seen.input.train == [f"results/corpus/train/{n:05d}.h5" for n in range(2)]
    assert seen.input.rate == ["results/models/moe/sweep/best.json"]
    assert seen.output.weights == "results/models/moe/seed-0/model.safetensors"
    assert seen.params.architecture["experts"] == 4
    assert seen.config["corpus"]["seed"] == 0  # a default
    assert seen.log == ["results/logs/train/moe-0.log"]


def test_a_job_runs_its_script_where_its_files_are(tmp_path: Path) -> None:
    study = Study(prepare(tmp_path))
    target = "results/corpus/own.parquet"
    (job,) = study.jobs([target, target])
    here = Path.cwd()
    job.run()
    assert (tmp_path / target).exists()
    assert "domain own: 150 documents" in (tmp_path / job.snakemake.log[0]).read_text()
    assert Path.cwd() == here


def test_changes_are_merged_as_by_several_config_files(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    study = Study(folder, folder / "config.yaml", {"recipes": {"default": {"k": 5}}})
    job = study.job(f"results/{DICTIONARY}/dictionary.safetensors")
    ((fit),) = job.snakemake.params.fits
    assert (fit["recipe"]["k"], fit["recipe"]["features"]) == (5, 96)


def test_rows_are_shown_alike_to_a_dictionary_and_to_what_it_must_beat(tmp_path: Path) -> None:
    folder, dictionaries = prepare(tmp_path), f"results/{DICTIONARY}".removesuffix("seed-0")
    recipes = {"seen": TINY["recipes"]["default"] | {"normalise": "rms"}}
    comparisons = {"moe-dense": {"recipes": ["default", "seen"]}}
    study = Study(folder, folder / "config.yaml", {"recipes": recipes, "comparisons": comparisons})
    baseline = "results/baselines/moe-dense/moe.0_dense.0/components{}.safetensors"
    for recipe, end in (("default", ""), ("seen", "-rms")):
        place = dictionaries.replace("default", recipe) + "seed-0"
        job = study.job(f"{place}/metrics.json").snakemake
        assert job.input.components == baseline.format(end)
        ((fit),) = study.job(f"{place}/dictionary.safetensors").snakemake.params.fits
        assert fit["recipe"]["normalise"] == (end.removeprefix("-") or "none")
    made = study.job(baseline.format("-rms"))
    assert (made.name, made.snakemake.wildcards.normalised) == (
        "dictionaries/principal_components", "-rms"
    )  # fmt: skip
    refused = "results/exports/crosscoder/moe-dense/moe.0_dense.0/seen/seed-0/config.json"
    with pytest.raises(SystemExit, match="normalise: rms"):
        study.job(refused)


def test_a_run_declares_the_weights_that_it_keeps_and_others_are_made_as_before(
    tmp_path: Path,
) -> None:
    folder = prepare(tmp_path)
    change = {
        "models": {"moe": {"training": {"keep": {"steps": [5, 0.5]}}}},
        "comparisons": {"early": {"each": ["moe:step-5", "dense"]}},
    }
    before, study = Study(folder), Study(folder, folder / "config.yaml", change)
    kept = "results/models/moe-step-5/seed-0/{}"
    job = study.job(kept.format("model.safetensors"))
    again = study.job("results/models/moe/seed-0/model.json").snakemake
    assert (job.name, job.snakemake.wildcards.model, job.snakemake.params.keep[0]) == (
        "training/train", "moe", 5
    )  # fmt: skip
    assert list(job.snakemake.output) == list(again.output)
    assert kept.format("model.json") == again.output.kept[0]
    was = before.job("results/models/moe/seed-0/model.json").snakemake
    assert set(was.output) < set(again.output)
    assert repr(was.params.training) == repr(again.params.training)
    one, two = (s.job("results/models/dense/seed-0/model.json").snakemake for s in (before, study))
    assert (list(one.output), dict(one.params), one.rule) == (
        list(two.output), dict(two.params), "train"
    )  # fmt: skip
    assert "keep" not in dict(one.params)
    cache = study.job("results/activations/moe-step-5/seed-0/fit/00000.zarr.zip").snakemake
    names = ("model.json", "model.safetensors", "config.json")
    assert list(cache.input.model) == [kept.format(name) for name in names]
    fit = study.job(
        "results/dictionaries/early/moe-step-5.0_dense.0/default/seed-0/history.parquet"
    )
    assert any("moe-step-5/seed-0/fit" in path for path in fit.snakemake.input)


def test_a_script_that_ends_with_an_error_raises(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"cross_entropy": None}))
    with pytest.raises(SystemExit):
        run_script(
            "training/sweep_best", tmp_path,
            input=["a.json"], output=["best.json"], wildcards={"model": "moe"},
        )  # fmt: skip
