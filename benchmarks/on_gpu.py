"""All that wants a GPU, part by part, in under eight minutes: what on_gpu.sh runs (benchmarks/README.md).

    benchmarks/on_gpu.sh [--out FOLDER] [--only PART ...] [--again PART ...] [--wheels FOLDER]
    benchmarks/on_gpu.sh --device cpu --small     # tries every part on a CPU

Each part runs in a process of its own with a limit of time, and leaves FOLDER/part-NAME.json; after
each, FOLDER/on_gpu.json and on_gpu.md hold all there is. A second call runs only what is not done.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from on_gpu_parts import PARTS, ROOT, Missing, Settings, Step, gpu_megabytes

MINUTES = 8  # that all parts may take, as their own limits are given
LOG_CHARACTERS = 20_000  # of a part's output that are kept, the last
NOTE_CHARACTERS = 200  # of an error that stand in the table, the first
COMMIT = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")
Parts = Mapping[str, tuple[Callable[[Settings], Iterator[Step]], int]]


# --- one part, in its own process -----------------------------------------------------------------


def measure(steps: Callable[[Settings], Iterator[Step]], settings: Settings, lines: Path) -> None:
    """Run a part's steps; each adds one line of JSON to `lines`, whatever becomes of it or the next."""
    made = steps(settings)
    while True:
        start, figures, name, outcome = time.perf_counter(), [], "", {}
        try:
            name, work = next(made, ("", None))
            if work is None:
                return
            for figure in work():
                figures.append(asdict(figure))
        except Exception as error:
            outcome = problem(error)
        line = outcome | {
            "step": name, "figures": figures, "gpu_megabytes": gpu_megabytes(),
            "seconds": time.perf_counter() - start,
        }  # fmt: skip
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not name:  # the part itself ended so, and has no next step
            return


def problem(error: Exception) -> dict[str, str]:
    """What a step's record says of its error; what is not installed is no failure."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package != "moediff":
        return {"skipped": f"needs {package}"}
    if isinstance(error, Missing):
        return {"skipped": f"needs {error}"}
    traceback.print_exception(error)
    return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:NOTE_CHARACTERS]}


# --- all parts ------------------------------------------------------------------------------------


def run_part(
    name: str, parts: Parts, settings: Settings, limit: float, packages: str | None
) -> dict[str, Any]:
    """The record of one part: how it ended, its steps with their figures, the end of its output."""
    steps, _ = parts[name]
    with tempfile.TemporaryDirectory() as scratch:
        lines, log = Path(scratch) / "lines", Path(scratch) / "log"
        lines.touch()
        command = [sys.executable, __file__, "--one", f"{steps.__module__}:{steps.__name__}",
                   str(lines), "--device", settings.device, *["--small"] * settings.small]  # fmt: skip
        start = time.perf_counter()
        with log.open("w") as file:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env=environment(settings, scratch, packages),
            )  # fmt: skip
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:  # an interrupt of ours ends it too, and whatever it has started
                end(child)
        whole_lines = lines.read_text(encoding="utf-8").rpartition("\n")[0]
        done = [json.loads(line) for line in whole_lines.splitlines()]
        said = log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]
    status, note = ending(done, code, limit)
    megabytes = [step["gpu_megabytes"] for step in done if step["gpu_megabytes"] is not None]
    return {
        "part": name, "status": status, "note": note, "seconds": time.perf_counter() - start,
        **asdict(settings), "gpu_megabytes": max(megabytes, default=None), "steps": done, "log": said,
    }  # fmt: skip


def environment(settings: Settings, scratch: str, packages: str | None) -> dict[str, str]:
    """Of a part: it can import the library, the tests and the carried packages, and sees no GPU on CPU."""
    paths = [ROOT / "scripts", ROOT / "tests", packages, os.environ.get("PYTHONPATH")]
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": scratch,  # goes even if the part is killed
    }
    if settings.device == "cpu":
        variables |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    if settings.small:  # threads would cost more than they give
        variables["OMP_NUM_THREADS"] = "1"
    return variables


def end(child: subprocess.Popen) -> None:
    """Kill a part and all that it has started, if anything of them is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def ending(done: list[dict[str, Any]], code: int | None, limit: float) -> tuple[str, str]:
    """A part's status (done, failed, timeout, skipped) and why it is not done."""
    if code is None:
        return "timeout", f"cut after {limit:.0f} s"
    for status in ("failed", "skipped"):
        notes = list(dict.fromkeys(step[status] for step in done if status in step))
        if notes:
            return status, "; ".join(notes)
    return ("failed", f"ended with exit status {code}") if code else ("done", "")


def run(
    parts: Parts, settings: Settings, out: Path, about: Mapping[str, Any], *,
    only: Collection[str] = (), again: Collection[str] = (), minutes: float = MINUTES,
    packages: str | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run what is not done yet, write each part's file and both summaries; the records of all parts."""
    deadline = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, seconds) in parts.items():
        before = known(out, name, settings)
        if only and name not in only:
            continue
        if before and before["status"] == "done" and name not in again:
            print(f"{name}: done before", flush=True)
            continue
        limit = min(seconds * minutes / MINUTES, deadline - time.monotonic())
        if limit < 1:
            print(f"{name}: no time is left; call again", flush=True)
            continue
        print(f"{name}: at most {limit:.0f} s", flush=True)
        record = run_part(name, parts, settings, limit, packages) | {"machine": about}
        write(out / f"part-{name}.json", json.dumps(record, indent=1))
        said = ": ".join(filter(None, [record["status"], record["note"]]))
        print(f"{name}: {said} ({record['seconds']:.1f} s)", flush=True)
        summarise(parts, settings, out)
    return summarise(parts, settings, out)


def known(out: Path, name: str, settings: Settings) -> dict[str, Any] | None:
    """What an earlier call with these settings left of a part."""
    path = out / f"part-{name}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if all(record[key] == value for key, value in asdict(settings).items()) else None


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


# --- what it comes to -----------------------------------------------------------------------------


def summarise(parts: Parts, settings: Settings, out: Path) -> list[dict[str, Any]]:
    """Write on_gpu.json and on_gpu.md of all parts that there are; their records."""
    records = [record for name in parts if (record := known(out, name, settings))]
    write(out / "on_gpu.json", json.dumps({**asdict(settings), "parts": records}, indent=1))
    write(out / "on_gpu.md", table(records))
    return records


def table(records: list[dict[str, Any]]) -> str:
    """A row for each figure; seconds stand at the first of a step, and at the row of its part."""
    lines = ["| part | what | figure | unit | seconds |", "|---|---|---|---|---|"]

    def add(*cells: object) -> None:
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")

    for record in records:
        name, status = record["part"], record["status"]
        add(f"**{name}**", ": ".join(filter(None, [status, record["note"]])), "", "",
            f"{record['seconds']:.1f}")  # fmt: skip
        for step in record["steps"]:
            took = f"{step['seconds']:.1f}"
            for figure in step["figures"]:
                number = figure["figure"]
                shown = "" if number is None else f"{number:,.4g}"
                add(name, figure["what"], shown, figure["unit"], took)
                took = ""
            for ending in ("failed", "skipped"):
                if ending in step and step["step"]:
                    add(name, step["step"], "", f"{ending}: {step[ending]}", took)
        if record["gpu_megabytes"] is not None:
            add(name, "most memory on the GPU", f"{record['gpu_megabytes']:,.0f}", "MB", "")
    machines = [machine for record in records if (machine := record["machine"])]
    keys = list(dict.fromkeys(key for machine in machines for key in machine))
    lines += ["", "| machine | |", "|---|---|"]
    for key in keys:  # several, where a later call was made elsewhere or at another commit
        add(key, ", ".join(dict.fromkeys(str(machine[key]) for machine in machines)))
    return "\n".join(lines) + "\n"


def answer(*command: str) -> str | None:
    """The first line that a program prints; None where it is missing or fails."""
    if not shutil.which(command[0]):
        return None
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip().partition("\n")[0] if ended.returncode == 0 else None


def machine(device: str) -> dict[str, Any]:
    """What everything ran on. Refuses a machine without CUDA when CUDA is wanted."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is found; to try everything on a CPU: --device cpu --small")
    gpu = "none used"
    if device == "cuda":
        query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
        gpu = answer("nvidia-smi", *query) or torch.cuda.get_device_name()
    facts = {
        "GPU, memory, driver": gpu,
        "CUDA": torch.version.cuda,
        "CPU cores": os.cpu_count(),
        "Python": platform.python_version(),
    }
    for package in ("torch", "triton", "transformers"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "none"
    facts["commit"] = os.environ.get("COMMIT") or answer(*COMMIT) or "unknown"
    return facts | {"date": datetime.now(UTC).date().isoformat()}


def install(wheels: str, folder: str) -> None:
    """Unpack the wheels of a folder into another, as they are; the machine's environment stays as it is."""
    files = sorted(map(str, Path(wheels).glob("*.whl")))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
               "--find-links", wheels, "--target", folder, *files]  # fmt: skip
    if not files or subprocess.run(command, check=False).returncode:
        print(f"{wheels}: no wheels, or pip cannot install them; going on without", flush=True)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("OUT") or str(ROOT / "results/on_gpu")
    parser.add_argument(
        "--out", default=default, help="folder of the figures; $OUT, else results/on_gpu"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a trial on a CPU")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[], help="these parts")
    parser.add_argument("--again", nargs="*", choices=PARTS, default=[], help="these even if done")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="of all; limits of parts follow"
    )
    parser.add_argument(
        "--wheels", default=os.environ.get("WHEELS"), help="folder of packages; $WHEELS"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # module:function, file of lines
    options = parser.parse_args(given)
    settings = Settings(options.device, options.small)
    if options.one:
        module, function = options.one[0].split(":")
        measure(getattr(importlib.import_module(module), function), settings, Path(options.one[1]))
        return 0
    with tempfile.TemporaryDirectory() as packages:
        if options.wheels:
            install(options.wheels, packages)
        records = run(
            PARTS, settings, Path(options.out), machine(options.device), only=options.only,
            again=options.again, minutes=options.minutes,
            packages=packages if options.wheels else None,
        )  # fmt: skip
    print(f"{options.out}/on_gpu.md")
    status = {record["part"]: record["status"] for record in records}
    wanted = options.only or PARTS
    return int(any(status.get(name) not in ("done", "skipped") for name in wanted))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part under way ends with us
    sys.exit(main())
