"""benchmarks/on_gpu.py: parts that fail, hang or lack a package, and one real part, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import torch

from workflow import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPT = BENCHMARKS / "on_gpu.sh"
# Parts made for these tests, in a module of their own: each runs in a process that imports it.
MADE = """
import subprocess, time
from on_gpu_parts import Figure, need

def good(settings):
    yield "first", lambda: [Figure("answer", 42.0, "x")]

def broken(settings):
    yield "wrong", lambda: [Figure("never", 1 / 0, "x")]
    yield "right", lambda: [Figure("after the error", 7.0, "x")]

def hanging(settings):
    yield "quick", lambda: [Figure("before the limit", subprocess.Popen(["sleep", "600"]).pid, "x")]
    yield "slow", lambda: time.sleep(600)

def lacking(settings):
    need("json", "no_such_package", "nor_this")
    yield "never", lambda: []

def carried(settings):
    need("carried_module")
    yield "imported", lambda: [Figure("answer", __import__("carried_module").answer, "x")]

def dying(settings):
    import os
    yield "dies", lambda: os._exit(9)
"""


@pytest.fixture
def modules(monkeypatch, tmp_path: Path) -> Iterator[tuple]:
    """The programs on_gpu and the made parts, as modules; forgotten afterwards."""
    (tmp_path / "made_parts.py").write_text(MADE)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(BENCHMARKS)]))
    names = ("on_gpu", "on_gpu_parts", "made_parts")
    yield tuple(importlib.import_module(name) for name in names)
    for name in names:
        sys.modules.pop(name, None)


def test_a_part_that_fails_hangs_or_lacks_something_leaves_the_others(
    modules, tmp_path: Path, capsys
) -> None:
    on_gpu, parts, made = modules
    table = {
        "lacking": (made.lacking, 60), "broken": (made.broken, 60), "dying": (made.dying, 60),
        "hanging": (made.hanging, 4), "good": (made.good, 60),
    }  # fmt: skip
    out, settings = tmp_path / "out", parts.Settings("cpu", True)
    records = on_gpu.run(table, settings, out, {"torch": "2"})
    by_name = {record["part"]: (record["status"], record["note"]) for record in records}
    assert by_name == {
        "lacking": ("skipped", "needs no_such_package, nor_this"),
        "broken": ("failed", "ZeroDivisionError: division by zero"),
        "dying": ("failed", "ended with exit status 9"),
        "hanging": ("timeout", "cut after 4 s"),
        "good": ("done", ""),
    }
    lines = (out / "on_gpu.md").read_text().splitlines()
    for row in (
        "| good | answer | 42 | x |",
        "| broken | after the error | 7 | x |",  # the step after the one that failed
        "| hanging | before the limit |",  # what was measured before the cut
        "| **lacking** | skipped: needs no_such_package, nor_this |  |  |",
        "| torch | 2 |",
    ):
        assert sum(line.startswith(row) for line in lines) == 1, row
    assert json.loads((out / "on_gpu.json").read_text())["parts"] == records
    assert {path.name for path in out.iterdir()} == {
        "on_gpu.json", "on_gpu.md", *(f"part-{name}.json" for name in table)
    }  # fmt: skip

    (hanging,) = (record for record in records if record["part"] == "hanging")
    started = hanging["steps"][0]["figures"][0]["figure"]  # by the part that was cut: ended with it
    assert not psutil.pid_exists(started) or psutil.Process(started).status() == "zombie"

    # A second call runs again what was not done, and nothing else; other settings are other results.
    capsys.readouterr()
    fixed = table | {"broken": (made.good, 60)}
    on_gpu.run(fixed, settings, out, {}, only=["good", "broken"])
    said = capsys.readouterr().out
    assert "good: done before" in said
    assert "broken: done (" in said
    on_gpu.run(fixed, settings, out, {}, only=["good"], again=["good"])
    assert "good: done (" in capsys.readouterr().out
    assert on_gpu.known(out, "good", settings)
    assert on_gpu.known(out, "good", parts.Settings("cuda", True)) is None


def test_carried_wheels_are_for_the_parts_alone(modules, tmp_path: Path, capsys) -> None:
    on_gpu, parts, made = modules
    about = "carried-1.dist-info"
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels/carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_module.py", "answer = 42")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    on_gpu.install(str(tmp_path / "wheels"), str(tmp_path / "site"))
    table, settings = {"carried": (made.carried, 60)}, parts.Settings("cpu", True)
    for packages, status in ((None, "skipped"), (str(tmp_path / "site"), "done")):
        (record,) = on_gpu.run(table, settings, tmp_path / "out", {}, packages=packages)
        assert record["status"] == status
    on_gpu.install(str(tmp_path / "nothing"), str(tmp_path / "site"))
    assert "nothing: no wheels" in capsys.readouterr().out
    assert importlib.util.find_spec("carried_module") is None


def test_a_kernel_that_differs_from_plain_torch_fails_its_step(modules, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton has no wheel here")
    import kernel_speed

    one, other = torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.5])
    assert kernel_speed.difference(one, other) == pytest.approx(0.2)  # 0.5 of 2.5
    assert kernel_speed.difference((one, one), (one, one.clone())) == 0
    assert kernel_speed.difference((one, one), (one, other)) == 1
    _, parts, _ = modules
    for difference, fails in ((2e-5, True), (float("nan"), True), (0.0, False)):
        measured = {"difference": difference, "kernel": 0.001, "plain": 0.002}
        monkeypatch.setattr(kernel_speed, "compare", lambda *_, found=measured: found)
        _, work = next(parts.kernels(parts.Settings("cpu", True)))
        figures = work()
        assert [next(figures).unit for _ in range(3)] == ["of the largest number", "ms", "x"]
        with pytest.raises(parts.Wrong, match="differ") if fails else nullcontext():
            assert next(figures, None) is None


def test_all_limits_together_are_what_all_parts_may_take(modules) -> None:
    on_gpu, parts, _ = modules
    assert sum(seconds for _, seconds in parts.PARTS.values()) <= 60 * on_gpu.MINUTES


def test_without_cuda_nothing_starts(modules, tmp_path: Path, monkeypatch) -> None:
    on_gpu, *_ = modules
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu --small"):
        on_gpu.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_real_part_is_measured_once(modules, tmp_path: Path, capsys) -> None:
    on_gpu, *_ = modules
    given = ["--device", "cpu", "--small", "--only", "training", "--out", str(tmp_path)]
    found = subprocess.run(
        ["bash", SCRIPT, *given], env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    (record,) = json.loads((tmp_path / "on_gpu.json").read_text())["parts"]
    figures = [figure for step in record["steps"] for figure in step["figures"]]
    assert [figure["unit"] for figure in figures] == ["tokens/s", "x"] * 2
    assert all(figure["figure"] > 0 for figure in figures)
    assert "training over bare loop" in (tmp_path / "on_gpu.md").read_text()
    assert on_gpu.main(given) == 0
    assert "training: done before" in capsys.readouterr().out
    assert json.loads((tmp_path / "part-training.json").read_text()) == record
