"""Prose of what is installed: topics, descriptions, licences once each."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import polars as pl
import pytest

from moediff.corpus import installed
from moediff.corpus.sources import TEXT_SOURCES, documents

MIT = "Permission is hereby granted, free of charge, to any person. " * 10
LONG = "A package that says of itself what it does. " * 10


def package(folder: Path, name: str, files: dict[str, str], description: str = LONG) -> None:
    """An installed package without code."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{description}", encoding="utf-8"
    )
    for file, text in files.items():
        (place / file).write_text(text, encoding="utf-8")
    listed = "".join(f"{place.name}/{file},,\n" for file in ["METADATA", *files])
    (place / "RECORD").write_text(listed, encoding="utf-8")


@pytest.fixture
def found(tmp_path: Path, monkeypatch) -> dict[str, str]:
    package(tmp_path, "one", {"LICENSE": f"Copyright (c) A. Person\n{MIT}", "license.py": LONG * 2})
    package(tmp_path, "two", {"COPYING.txt": f"Copyright B. Person, 2020\n{MIT}", "notes": LONG})
    package(tmp_path, "three", {"LICENCE.md": MIT.replace("free", "at a price")}, "short")
    package(tmp_path, "moediff", {}, "What we say of ourselves. " * 20)
    here = list(metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(installed.metadata, "distributions", lambda: here)
    return {document.source: document.text for document in installed.prose()}


def test_a_package_gives_its_description_and_its_licence(found) -> None:
    assert found["about/one"].strip() == LONG.strip()
    assert "about/three" not in found  # too short
    assert "licence/three/LICENCE.md" in found
    assert not [name for name in found if "notes" in name or "license.py" in name]


def test_a_licence_is_taken_once_whoever_holds_it(found) -> None:
    same = [name for name in found if name in ("licence/one/LICENSE", "licence/two/COPYING.txt")]
    assert len(same) == 1
    assert len([name for name in found if name.startswith("licence/")]) == 2


def test_our_own_description_is_no_text(found) -> None:
    assert "about/moediff" not in found


def test_help_has_topics_and_each_document_is_its_own_group() -> None:
    every = list(installed.prose())
    assert any(document.source == "help/for" and "iter" in document.text for document in every)
    assert all(document.group == document.source for document in every)
    assert len({document.source for document in every}) == len(every)
    again = [document.source for document in TEXT_SOURCES["prose"]()]
    assert [document.source for document in every] == again


def test_there_is_text_enough_for_a_domain_of_the_default() -> None:
    tables = documents("prose", {"source": "prose"}, {"fit": 0.25, "validation": 0.1}, None)
    table = pl.concat(tables)
    assert set(table["split"]) == {"train", "fit", "validation"}
    assert table["text"].str.len_chars().sum() > 1_000_000
