"""The object that Snakemake gives a rule's script, made from the Snakefile: a script runs without a workflow.

    study = Study(folder, config)                      # what `snakemake -d folder --configfile` would parse
    study.job("results/fve.json").run()                # the script that makes this file, in this process

Every part of the object is what the workflow's own functions say, so that a test needs to know no
parameter, and a rule that forgets one fails here.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml
from snakemake.api import SnakemakeApi
from snakemake.io import IOCache
from snakemake.iocontainers import Snakemake
from snakemake.jobs import Job as SnakemakeJob
from snakemake.rules import Rule
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

from workflow import ROOT

SCRIPTS = ROOT / "scripts"
PARTS = ("input", "output", "params", "wildcards", "threads", "resources", "log", "config", "rule")


@dataclass(frozen=True)
class Job:
    """One job of a study: a rule, its script, and what the script sees as `snakemake`."""

    folder: Path  # in which paths are
    script: Path
    snakemake: Snakemake

    @property
    def name(self) -> str:
        """The script as `package/name`."""
        return script_name(self.script)

    def run(self) -> None:
        """Run the script in this process; as `run_script`."""
        parts = {name: getattr(self.snakemake, name) for name in PARTS}
        run_script(self.name, self.folder, **parts)


def script_name(path: Path) -> str:
    return path.relative_to(SCRIPTS).with_suffix("").as_posix()


def run_script(name: str, folder: Path, **parts: Any) -> None:
    """Run scripts/{name}.py in `folder`, with `parts` of its `snakemake`: one thread and no log if not said.

    A mapping as input, output, params or wildcards is what the script reads by name. Raises SystemExit where
    the script ends with an error, as its process would end. Environment and log are left as they were.
    """
    parts = {"threads": 1, "log": [], "resources": {}, "rule": Path(name).name} | parts
    made = parts["output"].values() if isinstance(parts["output"], Mapping) else parts["output"]
    for part in ("input", "output", "params", "wildcards"):
        if isinstance(parts.get(part), Mapping):
            parts[part] = SimpleNamespace(**parts[part])
    log = logging.getLogger("moediff")
    before = list(log.handlers)
    with contextlib.chdir(folder), mock.patch.dict(os.environ):
        for path in [*made, *parts["log"]]:
            Path(path).parent.mkdir(parents=True, exist_ok=True)  # as Snakemake does
        try:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), {"snakemake": SimpleNamespace(**parts)})
        finally:
            for handler in set(log.handlers) - set(before):
                log.removeHandler(handler)
                handler.close()


class Study:
    """The workflow of a folder, parsed once with a config; changes are merged into it as by --configfile."""

    def __init__(self, folder: Path, *configs: Mapping[str, Any] | Path, cores: int = 2) -> None:
        self.folder = folder
        files = []
        for number, config in enumerate(configs or (folder / "config.yaml",)):
            if isinstance(config, Mapping):
                path = folder / f"mock-{number}.yaml"
                path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
                config = path
            files.append(config)
        output = OutputSettings(quiet="all", enable_file_logging=False, dryrun=True)
        with contextlib.chdir(Path.cwd()), SnakemakeApi(output) as api:  # which leaves the folder
            parsed = api.workflow(
                resource_settings=ResourceSettings(cores=cores),
                config_settings=ConfigSettings(configfiles=files),
                snakefile=ROOT / "Snakefile",
                workdir=folder,
            )
            self.workflow = parsed._workflow
            self.workflow.iocache = IOCache(max_wait_time=1)  # which sizes of inputs are asked of

    @property
    def config(self) -> dict[str, Any]:
        """The config as scripts see it, every default filled in."""
        return self.workflow.globals["config"]

    def rules(self) -> list[Rule]:
        """Rules that have a script."""
        return [rule for rule in self.workflow.rules if rule.script]

    def script(self, rule: Rule) -> Path:
        """The script of a rule, whose path is relative to the rule's file."""
        return (ROOT / "rules" / rule.script).resolve()

    def job(self, target: str) -> Job:
        """The job that makes a file."""
        (rule,) = self._makers(target)
        return self._job(rule, rule.get_wildcards(target))

    def jobs(self, files: Sequence[str]) -> Iterator[Job]:
        """The jobs that make these files, each once."""
        seen = set()
        for path in files:
            for rule in self._makers(path):
                wildcards = rule.get_wildcards(path)
                key = rule.name, *sorted(wildcards.items())
                if key not in seen:
                    seen.add(key)
                    yield self._job(rule, wildcards)

    def _makers(self, target: str) -> list[Rule]:
        with contextlib.chdir(self.folder):
            return [rule for rule in self.rules() if rule.is_producer(target)]

    def _job(self, rule: Rule, wildcards: Mapping[str, str]) -> Job:
        # A job asks the graph of all jobs for nothing but the workflow.
        with contextlib.chdir(self.folder):
            job = SnakemakeJob(rule, SimpleNamespace(workflow=self.workflow), dict(wildcards))
            made = Snakemake(
                job.input, job.output, job.params, job.wildcards, job.threads, job.resources,
                job.log, self.config, rule.name, None,
            )  # fmt: skip
        return Job(self.folder, self.script(rule), made)


def made_files(folder: Path) -> list[str]:
    """The results in a folder, as rules name them."""
    hidden = re.compile(r"/(logs|benchmarks|state)/|/\.")
    paths = (path.relative_to(folder).as_posix() for path in (folder / "results").rglob("*"))
    return sorted(path for path in paths if (folder / path).is_file() and not hidden.search(path))


def incomplete(folder: Path) -> set[str]:
    """Outputs of jobs that Snakemake began and has not seen end; long names are cut into folders."""
    marks = folder / ".snakemake/incomplete"
    found = set()
    for path in marks.rglob("*"):
        if path.is_file() and path.name != "migration_underway":
            parts = path.relative_to(marks).parts
            found.add(base64.urlsafe_b64decode("".join(p.lstrip("@") for p in parts)).decode())
    return found
