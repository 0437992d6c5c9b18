"""Sources of text that are no files of the user: source code, docstrings, tales, the Hub."""

import itertools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from documented import ROWS, SPLITS, refused
from moediff.corpus import sources
from moediff.corpus.sources import assign_split

LONG = " ".join(["It explains at length what the thing is good for."] * 5)
MODULE = f'''"""Module. {LONG}"""

raise RuntimeError("imported")


class Shelf:
    """Class. {LONG}"""

    def put(self):
        """Method. {LONG}

            Indented.
        """

        def inner():
            """Inner. {LONG}"""

    async def wait(self):
        """Too short."""


def bare():
    text = """Not a docstring. {LONG}"""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an installed package that cannot be imported."""
    root = tmp_path / "unimportable_shelf"
    for name in ("core.py", "tests/test_core.py", "sub/old.py", "sub/broken.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(MODULE.replace("Module.", f"{name}."), encoding="utf-8")
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    (root / "sub/old.py").write_bytes(f'# caf\xe9\n"""{LONG}"""'.encode("latin-1"))
    (root / "sub/broken.py").write_text(f'"""{LONG}"""\nprint "two"\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return root.name


def test_docstrings_are_read_from_a_package_that_is_never_imported(package: str) -> None:
    keys = {"source": "docstrings", "packages": [package]}
    frame = pl.concat(sources.documents("science", keys, SPLITS, None))
    module = f"{package}/core.py"
    assert frame["source"].to_list() == [
        f"{module}#module", f"{module}#Shelf", f"{module}#put", f"{module}#inner",
    ]  # fmt: skip
    assert frame["group"].to_list() == [module] * 4
    assert frame["text"].to_list() == [
        f"core.py. {LONG}",
        f"Class. {LONG}",
        f"Method. {LONG}\n\nIndented.",
        f"Inner. {LONG}",
    ]
    assert package not in sys.modules


def test_marks_and_half_characters_of_source_files(package: str, tmp_path: Path) -> None:
    root = tmp_path / package
    (root / "marked.py").write_bytes(b"\xef\xbb\xbf" + f'"""Marked. {LONG}"""\n'.encode())
    half = '"""Half \\ud800. ' + LONG + '"""\n'
    (root / "half.py").write_text(half, encoding="utf-8")
    texts = {document.source: document.text for document in sources.docstrings([package])}
    assert texts[f"{package}/marked.py#module"] == f"Marked. {LONG}"
    assert f"{package}/half.py#module" not in texts


def test_docstrings_of_a_package_that_is_there() -> None:
    found = {document.source: document.text for document in sources.docstrings(["json"])}
    assert found["json/__init__.py#module"].startswith("JSON (JavaScript Object Notation)")
    assert found["json/decoder.py#JSONDecoder"].startswith("Simple JSON <")
    assert min(map(len, found.values())) >= 200


def test_docstrings_of_a_package_that_is_not_there() -> None:
    message = refused(lambda: list(sources.docstrings(["json", "no_such_package"])))
    assert "no package (a folder of modules) 'no_such_package'" in message


def test_stdlib_is_source_files_without_tests_or_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    kept = {"abc.py", "json/tool.py", "testing.py"}
    for name in [*kept, "test/abc.py", "json/tests/a.py", "site-packages/numpy/a.py", "a.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"raise RuntimeError  # {name}\n", encoding="utf-8")
    (tmp_path / "old.py").write_bytes(b"# \xe9")
    keys = {"source": "stdlib"}
    frame = pl.concat(sources.documents("code", keys, SPLITS, None))
    assert set(frame["source"]) == kept
    assert frame["group"].to_list() == frame["source"].to_list()
    assert all(f"# {row['source']}\n" in row["text"] for row in frame.iter_rows(named=True))
    assert [document.source for document in sources.stdlib()] == frame["source"].to_list()


def test_the_order_of_reading_is_not_that_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    for number in range(400):
        (tmp_path / f"m{number}.py").write_text(f"x = {number:05}\n", encoding="utf-8")
    first = [assign_split(d.group, **SPLITS) for d in itertools.islice(sources.stdlib(), 200)]
    assert first.count("train") / 200 == pytest.approx(0.65, abs=0.12)
    assert first.count("validation") / 200 == pytest.approx(0.1, abs=0.08)


def test_tales_are_the_same_for_one_seed_and_endless() -> None:
    keys = {"source": "tales"}
    first, again, other = (
        pl.concat(sources.documents("stories", keys | {"seed": seed}, SPLITS, 50_000))
        for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert set(first["document"]).isdisjoint(other["document"])
    assert 50_000 <= sum(len(text.encode()) for text in first["text"]) < 60_000


def test_docstrings_of_a_module_of_a_package_that_is_not_there() -> None:
    assert "no_such.part" in refused(lambda: list(sources.docstrings(["no_such.part"])))


# --- the Hub ---------------------------------------------------------------------------------

HUB = {
    "source": "hub", "id": "some/data", "revision": "abc123", "config": None, "files": None,
    "split": "train", "column": "text", "group": None, "group_pattern": None,
}  # fmt: skip


def offer(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable) -> None:
    """Stand in for the library `datasets`, which takes seconds to import."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_the_hub_is_streamed_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **keys: Any) -> list[dict]:
        asked.append((args, keys))
        return ROWS

    offer(monkeypatch, load_dataset)
    keys = HUB | {"config": "en", "group": "source", "group_pattern": "^([^#]*)"}
    frame = pl.concat(sources.documents("web", keys, SPLITS, None))
    assert frame["text"].to_list() == [row["text"] for row in ROWS]
    assert frame["group"].to_list() == ["a.txt", "a.txt", "b.txt"]
    stream = {"split": "train", "revision": "abc123", "data_files": None, "streaming": True}
    assert asked == [(("some/data", "en"), stream)]


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **keys: Any) -> None:
        raise ConnectionError("no route to host\nsecond line")

    offer(monkeypatch, load_dataset)
    message = refused(lambda: list(sources.documents("web", HUB, SPLITS, None)))
    assert "'some/data' at abc123 cannot be read (ConnectionError: no route to host)" in message


def test_a_hub_that_breaks_off_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*args: Any, **keys: Any) -> Iterator[dict]:
        yield ROWS[0]
        raise OSError

    offer(monkeypatch, stream)
    message = refused(lambda: list(sources.documents("web", HUB, SPLITS, None)))
    assert "'some/data'" in message
    assert "OSError" in message


def test_a_hub_data_set_without_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, lambda *args, **keys: ROWS)
    message = refused(
        lambda: list(sources.documents("web", HUB | {"column": "story"}, SPLITS, None))
    )
    assert message == "some/data#0: no text under 'story'; keys: text, source, page"
