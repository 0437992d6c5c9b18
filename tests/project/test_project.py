"""The project's own files agree with each other: versions, packages and their order, rules and scripts."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from workflow import ROOT

LIBRARY = ROOT / "scripts/moediff"
# Packages on the same line do not know each other; each may import from those on lines before it.
FLOORS = (
    ("core",),
    ("config",),
    ("corpus",),
    ("models",),
    ("training", "hooks"),
    ("activations",),
    ("dictionaries",),
    ("exchange", "analysis"),
    ("experts", "synthetic"),
    ("claims",),
    ("report",),
)
FLOOR = {package: number for number, floor in enumerate(FLOORS) for package in floor}
DOORS = ("study", "hub", "job", "watch")  # beside the packages: what nothing in a package imports
LONGEST = 400  # lines of a module
STOCKS = {"corpus/tale_words.py"}  # words, no logic
# What a test of a lower package may ask all the same: worlds of known truth, and two places where a
# stage is judged by what a later one makes of it.
JUDGES = {
    "": {"moediff.synthetic.planted"},
    "test_retokenise.py": {"moediff.models.families", "moediff.models.inputs"},
    "test_external_config.py": {"moediff.report.budget.table"},
}


def module_name(path: Path) -> str:
    """`moediff.a.b` of a file of the library."""
    parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def imported(path: Path, own: str = "") -> Iterator[str]:
    """Modules of the library that a file imports, wherever in it and in whatever form."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = own.split(".")[: -node.level] if own else []
                base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        else:
            continue
        for name in map(str, names):
            parts = name.split(".")
            while parts and ".".join(parts) not in MODULES:
                parts.pop()
            if parts:
                yield ".".join(parts)


def package_of(module: str) -> str | None:
    """The package of a module; None for the doors and the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else None


def upward(path: Path, package: str, own: str = "") -> list[str]:
    """What a file of a package imports that its floor may not."""
    found = []
    for other in imported(path, own):
        name = package_of(other)
        if name is None:
            found += [other] if other.split(".")[1:2] and other.split(".")[1] in DOORS else []
        elif name != package and FLOOR[name] >= FLOOR[package]:
            found.append(other)
    return found


def test_environment_and_package_pin_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "envs/moediff.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == project["dependencies"]
    assert f"python {project['requires-python']}" in environment["dependencies"]


def test_the_packages_are_those_of_the_floors() -> None:
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()} == set(
        FLOOR
    )
    assert {path.stem for path in LIBRARY.glob("*.py")} == {"__init__", *DOORS}


@pytest.mark.parametrize("package", FLOOR)
def test_no_package_imports_upward(package: str) -> None:
    for module, path in MODULES.items():
        if package_of(module) == package:
            assert not upward(path, package, module), module


@pytest.mark.parametrize("folder", ["scripts", "tests"])
@pytest.mark.parametrize("package", FLOOR)
def test_scripts_and_tests_of_a_package_need_none_above_it(folder: str, package: str) -> None:
    for path in sorted((ROOT / folder / package).glob("*.py")):
        judges = JUDGES[""] | JUDGES.get(path.name, set()) if folder == "tests" else {"moediff.job"}
        found = set(upward(path, package)) - judges
        assert not found, path


def test_no_file_imports_in_a_circle() -> None:
    graph = {name: set(imported(path, name)) - {name, "moediff"} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_import_of_a_benchmark_exists() -> None:
    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moediff."):
                assert node.module in MODULES, f"{path.name}: {node.module}"


def test_no_module_is_long() -> None:
    lengths = {
        path.relative_to(LIBRARY).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in MODULES.values()
    }
    assert {name for name, lines in lengths.items() if lines > LONGEST} <= STOCKS


def test_every_import_form_is_seen(tmp_path: Path) -> None:
    forms = {
        "from moediff.core.errors import UserError": "moediff.core.errors",
        "from moediff.core import errors": "moediff.core.errors",
        "import moediff.core.errors as e": "moediff.core.errors",
        "def f():\n    from moediff.core import errors": "moediff.core.errors",
        "import importlib\nimportlib.import_module('moediff.core.errors')": "moediff.core.errors",
        "from ..core import errors": "moediff.core.errors",
        "from moediff import study": "moediff.study",
    }
    for number, (text, module) in enumerate(forms.items()):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        assert module in imported(path, "moediff.models.build"), text


def test_what_needs_no_language_model_does_not_wait_for_its_import() -> None:
    light = ["dictionaries.fitting", "analysis.evaluation", "analysis.deletion", "analysis.examples",
             "analysis.matching", "claims.findings", "report.page"]  # fmt: skip
    imports = "; ".join(f"import moediff.{name}" for name in light)  # transformers: seconds
    code = f"import sys; {imports}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_rule_has_a_script_a_log_and_a_benchmark() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        scripts = text.count("    script:")
        assert text.count("    benchmark:") == scripts
        assert text.count("    log:") == scripts + text.count("    shell:")


def test_rules_scripts_and_packages_bear_one_name() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        if path.stem != "common":
            assert path.stem in FLOOR
            for line in path.read_text(encoding="utf-8").splitlines():
                if "../scripts/" in line:
                    assert f"../scripts/{path.stem}/" in line, line
    for path in (ROOT / "rules/inputs").glob("*.smk"):
        assert path.stem in FLOOR
