"""The project's own files agree with each other."""

import ast
import subprocess
import sys
import tomllib

import yaml

from workflow import ROOT

# Floors: a module imports only from modules before it.
FLOORS = [
    "errors", "statistics", "artifact", "checkpoint", "progress", "ahead", "config", "schema", "claims",
    "checks", "tale_words", "tales", "sources", "tokens", "alignment", "ngrams", "devices", "models",
    "histories", "training", "families", "hooks", "proofs", "moments", "shards", "views", "store",
    "foreign", "capture", "plain", "kernels", "sparse", "selection", "objectives", "dictionary",
    "portable", "saelens", "crosscoders", "hub", "fitter", "fitting", "evaluation", "replacing",
    "splicing", "affinity", "experts", "examples", "deletion", "scaling", "recurrence", "anchor",
    "features", "controls", "panel", "panel_loss", "findings", "study", "planted", "methods", "budget",
    "drawing", "feature_plots", "plots", "browser", "page",
]  # fmt: skip


def test_environment_and_package_pin_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "envs/moediff.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == project["dependencies"]
    assert f"python {project['requires-python']}" in environment["dependencies"]


def test_no_module_imports_upward() -> None:
    modules = {path.stem: path for path in (ROOT / "scripts/moediff").glob("*.py")}
    modules.pop("__init__")
    assert set(modules) == set(FLOORS)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moediff"):
                parts = node.module.split(".")
                used = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                for other in used:
                    if other in FLOORS:
                        assert FLOORS.index(other) < FLOORS.index(name), f"{name} imports {other}"


def test_what_needs_no_language_model_does_not_wait_for_its_import() -> None:
    light = "fitting, evaluation, deletion, examples, recurrence, findings, page"  # transformers: seconds
    code = f"import sys; from moediff import {light}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_rule_has_a_script_a_log_and_a_benchmark() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        scripts = text.count("    script:")
        assert text.count("    benchmark:") == scripts
        assert text.count("    log:") == scripts + text.count("    shell:")
