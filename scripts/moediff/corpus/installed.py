"""Text that every installation has: source files, docstrings, prose that comes with packages."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from moediff.core.errors import UserError
from moediff.corpus.document import Document, has_half_characters

SHORTEST = 200  # characters; a shorter docstring is a signature or a title, not text
_LICENCE = "licence/"
_IS_LICENCE = re.compile(r"(LICEN[CS]E|COPYING)[^.]*(\.(txt|md|rst))?", re.IGNORECASE)
_NOT_LIBRARY = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idle_test"}


def stdlib() -> Iterator[Document]:
    """Source files of the running Python's standard library, its tests left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for name, text in _python_files({"": root}):
        yield Document(text, name, name)


def docstrings(packages: list[str]) -> Iterator[Document]:
    """Docstrings of installed packages, read from their source files, which are never imported."""
    roots = {f"{package}/": _package_folder(package) for package in packages}
    for module, text in _python_files(roots):
        for name, docstring in _docstrings_of(text):
            yield Document(docstring, f"{module}#{name}", module)


def _package_folder(package: str) -> Path:
    # A dotted name would make Python import its parent, and nothing is imported here.
    found = None if "." in package else importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"docstrings: no package (a folder of modules) '{package}' is installed here; "
            "install it or take it off the list"
        )
    return Path(found.submodule_search_locations[0])


def _python_files(roots: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Name and text of every source file, tests left out, in an order that mixes the folders.

    Reading may stop early; the order by hash makes what was read a fair sample.
    """
    names = {
        prefix + path.relative_to(root).as_posix(): path
        for prefix, root in roots.items()
        for path in _modules(root)
    }
    for name in _mixed(names):
        try:
            yield name, names[name].read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:  # a few old modules are written in another encoding
            continue


def _modules(root: Path) -> Iterator[Path]:
    """Every `.py` file under a folder, in no order; what is no library is not even looked into."""
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in _NOT_LIBRARY]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _docstrings_of(code: str) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return
    inside: list[ast.AST] = [tree]
    while inside:  # only into bodies of classes and functions: a tenth of all nodes
        node = inside.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside.extend(reversed(node.body))
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST and not has_half_characters(text):
                yield getattr(node, "name", "module"), text


def _mixed(names: Iterable[str]) -> list[str]:
    """Names in an order of their own: what is read first is a fair sample."""
    # Another hash than that of the split, or what is read first would all be in one split.
    return sorted(names, key=lambda name: hashlib.sha256(f"order {name}".encode()).digest())


def prose() -> Iterator[Document]:
    """What people wrote for people: topics of Python's help, what packages say of themselves, licences.

    Each is a group of its own. Of licences that differ by names alone the first is taken.
    """
    found = dict(_topics()) | dict(_of_packages())
    licences: set[str] = set()
    for name in _mixed(found):
        text = found[name]
        if len(text) < SHORTEST or has_half_characters(text):
            continue
        if name.startswith(_LICENCE):
            wording = _wording(text)
            if wording in licences:
                continue
            licences.add(wording)
        yield Document(text, name, name)


def _topics() -> Iterator[tuple[str, str]]:
    """What `help("TOPIC")` says."""
    from pydoc_data.topics import topics

    for name, text in topics.items():
        yield f"help/{name}", text


def _of_packages() -> Iterator[tuple[str, str]]:
    """The description of each installed package, and the licences that lie beside it."""
    for package in metadata.distributions():
        name = package.metadata["Name"]
        # Nothing is named by what is left of a package that was half removed; ours is no text of others.
        if not name or name == "moediff":
            continue
        told: Any = package.metadata  # a message, whose body is the description
        description = told.get_payload() or told["Description"]
        if isinstance(description, str):
            yield f"about/{name}", description
        for file in package.files or ():
            if _IS_LICENCE.fullmatch(file.name):
                try:
                    yield (
                        f"{_LICENCE}{name}/{file.name}",
                        Path(str(file.locate())).read_text("utf-8-sig"),
                    )
                except (OSError, UnicodeDecodeError):
                    continue


def _wording(licence: str) -> str:
    """A licence's words, who holds it left out."""
    lines = [line for line in licence.splitlines() if "copyright" not in line.lower()]
    return " ".join(re.findall(r"[a-z]+", " ".join(lines).lower()))
