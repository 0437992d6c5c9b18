"""The page of one text: what it is given is what a reader sees, by real clicks in Chromium."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from browsed import HOSTILE
from families import tiny
from moediff.analysis.reruns import Pass, Text
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.experts.text_reading import read_text
from moediff.hooks.slots import slots
from moediff.report.text_page import text_page
from windows import chromium

__all__ = ["chromium"]


def made() -> dict:
    """Four tokens, two layers of four experts; hostile texts."""
    texts = {str(n): text for n, text in enumerate(["once", " upon", *HOSTILE[:13]])}
    said = [[2, 0.5], [0, 0.25]]
    return {
        "experts": 4,
        "tokens": [
            {"id": n, "domain": "tales", "first": n in (0, 14), "next": said} for n in (0, 1, 2, 14)
        ],
        "layers": [
            {
                "layer": layer,
                "experts": [[3, 1], [1, 2], [0, 3], [2, 0]],
                "gates": [[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0]],
                "alone": [[[[0, 0.9]], [[1, 0.8]]]] * 4,
                "beside": [[[[1, 0.7]], [[0, 0.6]]]] * 4,
                "says": [said] * 4,
            }
            for layer in (1, 5)
        ],
        "texts": texts,
    }


@pytest.mark.slow
def test_clicks_keys_and_search(chromium, tmp_path: Path) -> None:
    path = tmp_path / "text.html"
    path.write_text(text_page("moe.0 <b>", made()), encoding="utf-8")
    chromium.get(path.as_uri())
    all_ = lambda selector: chromium.find_elements("css selector", selector)  # noqa: E731
    assert all_("body[data-ready]")
    assert all_("h1")[0].text == "Experts of moe.0 <b>, token by token"
    assert [word.get_property("textContent") for word in all_(".word")] == [
        "once", " upon", HOSTILE[0], HOSTILE[12],
    ]  # fmt: skip
    assert chromium.title == "Experts of moe.0 <b>, token by token"  # no text became markup
    rows = lambda: [[c.text for c in r.find_elements("css selector", "td")] for r in all_("tr")][1:]  # noqa: E731
    assert rows()[0][:4] == ["1", "3", "0.750", "once 90 %"]
    assert rows()[1][:4] == ["", "1", "0.250", " upon 80 %"]
    assert rows()[2][0] == "5"
    all_(".word")[1].click()
    assert all_("#token h2")[0].text == "token 1:  upon"
    assert rows()[0][1] == "1"
    assert "then came" in all_("#token p")[0].text
    all_("#beside")[0].click()
    assert rows()[0][3] == " upon 70 %"
    all_("#text")[0].send_keys("\ue014")  # arrow right
    assert all_("#token h2")[0].text.startswith("token 2:")
    assert "then came" not in all_("#token p")[0].text  # another document begins there
    search = all_("#search")[0]
    for asked, found in (
        ("UPON", [1]),
        ("expert 3", [0, 2]),
        ("expert 2 layer 5", [1, 3]),
        ("expert 2 layer 4", []),
    ):
        search.clear()
        search.send_keys(asked)
        marked = [
            n for n, word in enumerate(all_(".word")) if "found" in word.get_attribute("class")
        ]
        assert marked == found, asked
        assert all_("#status")[0].text == f"{len(found)} of 4 tokens"
    sent = [entry["message"] for entry in chromium.get_log("performance")]
    assert not [
        line
        for line in sent
        if "Network.requestWillBeSent" in line and "file://" not in line and "data:" not in line
    ]


def test_a_text_is_read_as_its_slots_say(token_shard) -> None:
    shard = read_token_shard(token_shard(sequences=2, length=12))
    shard = TokenShard(**{**vars(shard), "tokens": shard.tokens % 60})
    model = tiny("qwen2-moe")
    run = Pass(model, Text(shard), slice(0, 2), False)
    read = read_text(run, [f"t{n}" for n in range(64)])
    assert len(read["tokens"]) == 24
    assert read["experts"] == 8
    assert [layer["layer"] for layer in read["layers"]] == [0, 1, 2]
    with slots(model, [1]) as found, torch.no_grad():
        logits = model(**run.inputs).logits.flatten(0, 1)
    assert read["layers"][1]["experts"] == found[1].experts.tolist()
    assert np.allclose(read["layers"][1]["gates"], found[1].gates, atol=1e-4)
    assert [token["next"][0][0] for token in read["tokens"]] == logits.argmax(-1).tolist()
    assert [said[0][0] for said in read["layers"][2]["says"]] == logits.argmax(-1).tolist()
    assert read["texts"][str(read["tokens"][0]["id"])] == f"t{read['tokens'][0]['id']}"
    assert sum(token["first"] for token in read["tokens"]) == run.starts.sum()
