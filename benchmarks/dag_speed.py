"""What `snakemake -n` takes: this workflow against two-rule workflows of as many shard jobs.

Turn by turn: `bare` (a shard's rule has five inputs, an output and a shell command), `same` (it has what the
rule `cache` has beside them: script, params, resources, log, benchmark, conda) and `moediff`
(`results/fve.json` of two models and three dictionaries, nothing of which is made, so that every job is
planned). CPU seconds count: other work on the machine stretches the wall's.

    python benchmarks/dag_speed.py --shards 1000 10000 --turns 3
    python benchmarks/dag_speed.py --shards 100000 --turns 1 --per-job 100     # batches of shards in a job
    python benchmarks/dag_speed.py --records 10000     # .snakemake as files against its database
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
TOKENS = 4096  # of a shard
BARE = """
rule gather:
    input: [f"shards/{{n:05d}}.bin" for n in range({shards})],
    output: "all.json",
    shell: "touch {{output}}"

rule model:
    output: "model/{{part}}",
    shell: "touch {{output}}"

rule shard:
    input: "model/a", "model/b", "model/c", "model/points", "model/tokens",
    output: "shards/{{n}}.bin",
"""
SHELL = '    shell: "touch {output}"\n'
SAME = """
    log: "logs/{n}.log",
    benchmark: "benchmarks/{n}.tsv"
    conda: "env.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        model="moe", seed=0, parts=lambda wildcards: [f"fit {wildcards.n}"], reading={"dtype": "float16"},
        batch=8, chunk_rows=1024, across=True, version=1,
    script: "shard.py"
"""


def study(folder: Path, shards: int, per_job: int = 1) -> list[str]:
    """Write the config of two models with so many shards of activations together; arguments that plan it."""
    config = yaml.safe_load((ROOT / "tests/pair.yaml").read_text(encoding="utf-8"))
    validation = max(1, shards // 40)
    fit = shards // 2 - validation
    config["corpus"]["shard_tokens"] = TOKENS
    config["corpus"]["tokens"] |= {"fit": fit * TOKENS, "validation": validation * TOKENS}
    config["shards_per_job"] = per_job
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return [
        "-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles/default"),
        "--configfile", str(path), "--", "results/fve.json",
    ]  # fmt: skip


def two_rules(folder: Path, shards: int, same: bool) -> list[str]:
    """Write a workflow of two rules, and one for what a shard reads; arguments that plan it."""
    text = BARE.format(shards=shards) + (SAME if same else SHELL)
    (folder / "Snakefile").write_text(text, encoding="utf-8")
    (folder / "env.yaml").write_text("dependencies: [python]\n", encoding="utf-8")
    (folder / "shard.py").write_text("", encoding="utf-8")
    return ["--cores", "1"]


def planned(folder: Path, arguments: list[str]) -> tuple[float, float, float, int]:
    """CPU seconds, wall seconds, peak MB and number of jobs of a dry-run."""
    read, write = os.pipe()
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "-q",
        "rules",
        "-d",
        str(folder),
        *arguments,
    ]
    child = os.fork()
    if not child:  # so that the peak is this command's alone
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(ROOT / "scripts")
        os.execv(command[0], command)
    os.close(write)
    with os.fdopen(read, errors="replace") as told:
        text = told.read()
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    total = re.findall(r"^total +(\d+)$", text, re.M)
    if status or not total:
        raise SystemExit(f"the plan failed:\n{text[-2000:]}")
    return used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024, int(total[-1])


def compare(shards: int, turns: int, per_job: int) -> None:
    """Print every plan of every turn, and ratios of the medians of CPU seconds."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("bare", "same", "moediff"):
            (Path(place) / name).mkdir()
        for _ in range(turns):
            for name in ("bare", "same", "moediff"):
                folder = Path(place) / name
                if name == "moediff":
                    arguments = study(folder, shards, per_job)
                else:
                    arguments = two_rules(folder, -(-shards // per_job), name == "same")
                cpu, wall, peak, jobs = planned(folder, arguments)
                found.setdefault(name, []).append(cpu)
                print(
                    f"{shards} shards, {name}: {jobs} jobs, {cpu:.1f} s of CPU, {wall:.1f} s, {peak:.0f} MB",
                    flush=True,
                )
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(
        f"{shards} shards: moediff over bare {middle['moediff'] / middle['bare']:.2f}, "
        f"over same {middle['moediff'] / middle['same']:.2f}",
        flush=True,
    )


def records(count: int) -> None:
    """Print what .snakemake as files and as a database takes to note so many outputs, and to read them."""
    from snakemake import api  # noqa: F401  before its parts, which alone cannot be imported
    from snakemake.persistence import MetadataRecord
    from snakemake.persistence.db import DbPersistence
    from snakemake.persistence.file import FilePersistence

    names = [f"results/activations/moe/seed-0/fit/{n:05d}.zarr.zip" for n in range(count)]
    about = MetadataRecord(
        rule="cache", input=[f"results/models/moe/seed-0/{n}" for n in range(5)], log=[names[0]],
        params=["'moe'", "0", "['fit 00000']", "{'dtype': 'float16'}", "8", "1024", "True", "1"],
        record_format_version=6, job_hash=1, starttime=1.0, endtime=2.0,
    )  # fmt: skip
    for backend in (FilePersistence, DbPersistence):
        with tempfile.TemporaryDirectory(dir=".") as place:
            start = time.perf_counter()
            kept = backend(path=Path(place).resolve())
            for name in names:
                kept._mark_incomplete(name, None)
                kept._write_record(name, about)
                kept._unmark_incomplete(name)
            written = time.perf_counter()
            kept = backend(path=Path(place).resolve())
            kept._filter_incomplete_keys(names)
            if any(kept._read_record(name) is None for name in names):
                raise SystemExit(f"{backend.__name__}: a record is lost")
            read = time.perf_counter()
            paths = [path for path in Path(place).rglob("*") if path.is_file()]
            size = sum(path.stat().st_blocks * 512 for path in paths)
        print(
            f"{count} outputs, {backend.__name__}: {1000 * (written - start) / count:.2f} ms to note one, "
            f"{1000 * (read - written) / count:.2f} ms to read one, {len(paths)} files, "
            f"{size / 1e6:.1f} MB on disk",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--per-job", type=int, default=1, help="shards that one job makes")
    parser.add_argument(
        "--records", type=int, help="outputs that .snakemake notes, instead of plans"
    )
    arguments = parser.parse_args()
    if arguments.records:
        records(arguments.records)
        return
    for shards in arguments.shards:
        compare(shards, arguments.turns, arguments.per_job)


if __name__ == "__main__":
    main()
