"""What a job waits for before it begins: each script imports what it needs, and no more.

Seconds of every job are imports. A script that gathers JSON needs no library at all; transformers is for
those that run a language model.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable

import pytest

from workflow import ROOT

SCRIPTS = ROOT / "scripts"
# Libraries that take time to import; what they bring along (sympy, pandas and the like) is not counted.
HEAVY = {
    "altair", "datasets", "h5py", "jinja2", "numpy", "polars", "scipy", "tokenizers", "torch",
    "transformers", "vl_convert", "zarr",
}  # fmt: skip
ROWS = "numpy polars torch"
MODEL = "h5py jinja2 numpy polars scipy tokenizers torch transformers"  # scipy and Jinja2: transformers'
NEEDS = {
    "analysis/gather_fve": "",
    "analysis/gather_kinds": "",
    "analysis/gather_panels": "",
    "training/sweep_best": "",
    "analysis/gather_classes": "numpy",
    "activations/manifest": "numpy",
    "analysis/detectable": "numpy polars",
    "analysis/kinds": "numpy polars",
    "claims/judge": "numpy polars",
    "claims/judge_experts": MODEL,
    "corpus/documents": "polars",
    "corpus/tokenizer": "polars tokenizers",
    "corpus/token_shards": "h5py numpy polars tokenizers",
    "corpus/ngrams": "h5py numpy polars tokenizers",
    "corpus/retokenise": "h5py numpy polars tokenizers",
    "report/events": "",
    "report/stages": "jinja2 numpy polars",
    "report/report": "jinja2 numpy polars",
    "report/charts": "altair jinja2 numpy polars",
    "report/figures": "altair jinja2 numpy polars",
    "dictionaries/principal_components": "numpy torch",
    "exchange/export": "numpy torch",
    "activations/external_measure": "numpy torch zarr",
    "activations/external_store": "numpy torch zarr",
    "analysis/deletion": ROWS,
    "analysis/linear_map": ROWS,
    "analysis/matching": ROWS,
    "analysis/moved": ROWS,
    "analysis/similarity": ROWS,
    "analysis/metrics": ROWS,
    "analysis/panel": ROWS,
    "analysis/trend": ROWS,
    "dictionaries/fit": ROWS,
    "experts/affinity": ROWS,
    "experts/experts_by_class": "numpy polars",
    "experts/gather_routing": "",
    "experts/gather_fewer_experts": "",
    "experts/gather_lens": "",
    "experts/gather_prune": "",
    "analysis/plant": ROWS + " h5py tokenizers",
    "analysis/examples": ROWS + " tokenizers",
    "synthetic/planted": ROWS + " zarr",
    "analysis/divergence": MODEL,
    "analysis/panel_loss": MODEL,
    "analysis/splice": MODEL,
    "experts/attribution": MODEL,
    "experts/concentration": MODEL + " zarr",
    "experts/fewer_experts": MODEL,
    "experts/lens": MODEL,
    "experts/masking": MODEL,
    "experts/prune": MODEL,
    "experts/pruned_features": MODEL,
    "experts/pruned_model": MODEL,
    "report/text_page": MODEL,
    "experts/usage": MODEL,
    "models/load": MODEL,
    "training/sweep_trial": MODEL,
    "training/train": MODEL,
    "activations/cache": MODEL + " zarr",
    "activations/calibrate": MODEL + " zarr",
    "report/budget": MODEL + " altair zarr",
}
# What functions import beside the script that calls them.
LATER = dict.fromkeys(("report/charts", "report/figures"), "import moediff.report.charts.classes")


def imports_in(part: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a part of a file, wherever they stand in it."""
    return [node for node in ast.walk(part) if isinstance(node, ast.Import | ast.ImportFrom)]


# What scripts open by a function of moediff.job; `job` itself imports torch only where it is asked to.
OPENERS = {
    node.name: imports_in(node)
    for node in ast.parse((SCRIPTS / "moediff/job.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name != "job"
}


def imports_of(script: str) -> str:
    """What a script imports, and what the openers that it calls do."""
    own = imports_in(ast.parse((SCRIPTS / f"{script}.py").read_text(encoding="utf-8")))
    called = [alias.name for node in own for alias in node.names]
    opened = [node for name in called for node in OPENERS.get(name, [])]
    return "\n".join([*map(ast.unparse, [*own, *opened]), LATER.get(script, "")])


def loaded(code: str) -> set[str]:
    """Heavy libraries that a new interpreter has after some imports."""
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
    )  # fmt: skip
    return HEAVY.intersection(found.stdout.split())


def together(needs: str) -> Iterable[str]:
    return (script for script, wanted in NEEDS.items() if wanted == needs)


def test_each_script_is_listed() -> None:
    scripts = {
        path.relative_to(SCRIPTS).with_suffix("").as_posix()
        for path in SCRIPTS.glob("*/*.py")
        if path.parent.name != "moediff"
    }
    assert set(NEEDS) == scripts


@pytest.mark.parametrize("needs", dict.fromkeys(NEEDS.values()))
def test_a_script_imports_what_it_needs_and_no_more(needs: str) -> None:
    """Scripts of equal needs in one interpreter: what one imports, all may."""
    found = loaded("\n".join(map(imports_of, together(needs))))
    assert found == set(needs.split()), list(together(needs))


def test_the_snakefile_s_parse_imports_none_of_them() -> None:
    """Every job of a cluster run parses it again."""
    code = (ROOT / "rules/common.smk").read_text(encoding="utf-8")
    imports, _, _ = code.partition("\nSCHEMA")
    assert "from moediff.config.complete import" in imports
    assert loaded(imports) == set()
