"""The page as a reader opens it: what stands first, what is folded, what can be chosen; and hostile names."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from moediff.claims import verdicts
from moediff.report import compared, notes, page, sections
from moediff.report.browser import Browsed, browser
from moediff.report.finding import Finding
from snake import Study
from workflow import TINY, prepare

HOSTILE = "</summary><script>alert(1)</script><img src=x onerror=alert(1)>&\"'"
PAIR = "dictionaries/c/moe.0_dense.0/r/seed-0/"
STUDY = {
    "models": {
        "moe": {"kind": "trained", "from": None, "seeds": 1, "tokenizer": "corpus"},
        "base": {"kind": "loaded", "from": "a/b", "seeds": 1, "tokenizer": "corpus"},
        "theirs": {"kind": "external activations", "from": None, "seeds": 1, "tokenizer": "corpus"},
        "spare": {"kind": "trained", "from": None, "seeds": 2, "tokenizer": "corpus"},
    },
    "points": ["resid_post.0.5"],
    "recipes": {"r": {"features": 2048, "k": 12, "normalise": "none"}},
    "comparisons": {
        "turned": {"sides": ["theirs"], "together": False, "control": "rotated", "recipes": ["r"]},
        "pair": {"sides": ["moe@resid_post.0.5", "base"], "together": False, "control": None,
                 "recipes": ["r"]},
    },
    "pair": PAIR.rstrip("/"),
    "left_out": [],
}  # fmt: skip


def first(**changes: object) -> page.First:
    parts: dict = {
        "title": "What moe and dense represent, compared",
        "facts": [("Models", ["moe: one", "dense: two"])],
        "finding": Finding("The sentence.", "Its error.", "fve"),
        "warnings": ["Barely trained.", "One row holds it all."],
        "figure": page.figure("<svg><title>the figure</title></svg>"),
        "can_say": ["This."],
        "cannot_say": ["That."],
    }
    return page.First(**(parts | changes))


def test_the_first_screen_is_in_order_and_limits_are_folded() -> None:
    html = page.page(first(), {"Rest": page.text("the rest")}, {"moediff": "0"})
    order = [
        "<h1>What moe and dense", "moe: one", "dense: two", "The sentence.", "Its error.",
        "Barely trained.", "One row holds", "the figure", "What this run can and cannot say", "This.",
        "That.", "<nav>", "the rest",
    ]  # fmt: skip
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    (limits,) = re.findall(r"<details([^>]*)>\s*<summary>What this run", html)
    assert "open" not in limits
    assert "<title>What moe and dense represent, compared" in html


def test_a_study_without_finding_warnings_or_figure_has_no_empty_boxes() -> None:
    html = page.page(first(finding=None, warnings=[], figure=None), {}, {"moediff": "0"})
    body = html.partition("</style>")[2]
    assert "finding" not in body
    assert "warnings" not in body
    assert "<figure" not in body


def test_every_name_and_text_is_escaped_and_nothing_is_fetched() -> None:
    opening = first(
        title=HOSTILE, facts=[(HOSTILE, [HOSTILE])], finding=Finding(HOSTILE, HOSTILE, "fve"),
        warnings=[HOSTILE], can_say=[HOSTILE], cannot_say=[HOSTILE],
    )  # fmt: skip
    table = page.table([{HOSTILE: HOSTILE, "y": 0.12345}])
    content = {
        HOSTILE: table,
        "b": page.folded(HOSTILE, page.text(HOSTILE)),
        "c": page.chooser({HOSTILE: page.figures({HOSTILE: "<svg/>"})}),
    }
    html = page.page(opening, content, {"a": HOSTILE})
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") >= 14
    assert "0.1235" in html or "0.1234" in html
    assert not re.search(r"<[^>]*\s(src|href)=.(?!#)", html)
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_one_dictionary_is_open_and_every_other_can_be_chosen_without_a_script() -> None:
    chosen = {f"dictionary {n}": page.figures({"Density": f"<svg>{n}</svg>"}) for n in range(3)}
    html = page.chooser(chosen)
    heads = re.findall(r"<details([^>]*)>\s*<summary>([^<]*)</summary>", html)
    assert [name for _, name in heads] == list(chosen)
    assert [" open" in kind for kind, _ in heads] == [True, False, False]
    assert all('name="dictionary"' in kind for kind, _ in heads)  # one at a time
    assert html.count("<svg>") == 3
    assert "<script" not in html


# --- sections -----------------------------------------------------------------------------------


def claim(verdict: str, **changes: object) -> dict:
    return {
        "statement": f"it is {verdict}", "verdict": verdict, "primary": False, "estimate": 0.1,
        "interval": None, "reference": 0.0, "minimum_effect": 0.1, "p_holm": None, "reason": "few tokens",
    } | changes  # fmt: skip


def test_claims_without_a_verdict_fold_into_one_line_that_says_why() -> None:
    rows = [claim(verdicts.SHOWN), claim(verdicts.NO_VERDICT), claim(verdicts.NO_VERDICT),
            claim(verdicts.NOT_MEASURED, reason="nothing measured x")]  # fmt: skip
    named = {"moe": "moe", "dense": "dense"}
    about = {"primary": named, "analysis": named, "exploratory": None}
    html = sections.claims(about | {"claims": rows, "withheld": ["few tokens", "no control"]})
    above, folded = html.split("<details", 1)
    assert "it is shown" in above
    assert "it is no verdict" not in above
    (line,) = re.findall(r"<summary>(.*?)</summary>", folded)
    assert line == (
        "No verdict on 2 claims: few tokens; no control; 1 claim not measured here: "
        "what each needs stands beside it."
    )
    assert folded.count("it is no verdict") == 2
    assert "it is not measured" in folded
    assert "<details" not in sections.claims(about | {"claims": rows[:1], "withheld": []})
    other = about | {"analysis": {"moe": "moe", "dense": None}, "claims": rows[1:], "withheld": []}
    none = sections.claims(other)
    assert none.startswith("<details")
    assert "No verdict on 2 claims: the reason stands beside each" in none
    assert "they are about a Mixture of Experts called moe and a dense model called dense" in none


def test_claims_that_are_exploratory_say_so_before_anything_else() -> None:
    named = {"moe": "moe", "dense": "dense"}
    about = {
        "primary": named,
        "analysis": named,
        "withheld": [],
        "claims": [claim(verdicts.SMALLER)],
    }
    html = sections.claims(about | {"exploratory": "the claims changed"})
    before, table = html.split("<table", 1)
    assert "Exploratory, not confirmatory: the claims changed." in before
    assert verdicts.SMALLER in table  # which is a verdict like others
    assert "Exploratory" not in sections.claims(about | {"exploratory": None})


def record(member: str = "moe.0_dense.0", comparison: str = "c") -> dict:
    row = {"source": "pooled", "mode": "threshold", "fve": 0.9, "l0": 12.0}
    return {"comparison": comparison, "member": member, "recipe": "r", "seed": 0, "fve": [row]}


def test_every_dictionary_has_its_figures_and_what_is_left_out_is_named() -> None:
    other = "dictionaries/s/moe.0/r/seed-0/"
    metrics = {PAIR: record(), other: record("moe.0", "s")}
    figures = {PAIR: {"relative-norm": "<svg>1</svg>", "domains": "<svg>2</svg>"},
               other: {"density": "<svg>3</svg>"}}  # fmt: skip
    html = sections.of_each(figures, metrics, ["dictionaries/t/x.0/r/seed-0"])
    names = re.findall(r"<summary>(.*?)</summary>", html)
    assert names == [
        "c: moe.0 + dense.0, r, seed 0: 90.0 % explained at L0 12.0",
        "s: moe.0, r, seed 0: 90.0 % explained at L0 12.0",
        "1 more dictionaries are not here; their features.parquet and metrics.json lie in these folders.",
    ]
    assert "<li>dictionaries/t/x.0/r/seed-0</li>" in html
    assert "not here" not in sections.of_each(figures, metrics, [])


def test_the_browser_shows_models_by_name_and_dictionaries_without_text() -> None:
    features = pl.DataFrame(
        {"feature": [0, 1], "class": ["A-only", "common"], "top_domain": ["a", None]}
    )
    whole = record() | {"sources": ["moe.0", "dense.0"]}
    found = sections.browsed("label", whole, features, None, [], [])
    assert found.features["class"].to_list() == ["only moe", "common"]
    assert found.note.startswith("Relative norm: 0 is only moe, 1 only dense. No text:")
    html = browser([found])
    assert "only moe" in html
    assert '"text":false' in html


def test_as_many_examples_are_on_the_page_as_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    features = pl.DataFrame({"feature": [0, 1], "class": ["live"] * 2, "top_domain": ["a"] * 2})
    examples = pl.DataFrame(
        {
            "feature": [0, 0, 0, 1], "rank": [0, 1, 2, 0], "domain": ["a"] * 4, "row": [1, 2, 3, 4],
            "activation": [3.0, 2.0, 1.0, 1.0], "tokens": [["w"], ["x"], ["y"], ["z"]],
            "activations": [[3.0], [2.0], [1.0], [1.0]], "peak": [0] * 4,
        }
    )  # fmt: skip
    one = Browsed("d", features, examples)

    def words() -> set[str]:
        (found,) = re.findall(r'data-part="vocabulary">(.*?)<', browser([one]))
        return set(re.findall(r"\w", found))

    assert words() == set("wxyz")
    monkeypatch.setattr("moediff.report.browser.EXAMPLES", 3)
    assert words() == set("wxz")
    monkeypatch.setattr("moediff.report.browser.EXAMPLES", 1)
    assert words() == set("wz")  # the strongest of each at least


def test_the_first_figure_is_that_of_the_sentence_or_what_there_is() -> None:
    svgs = {"panel": "<svg>p</svg>", "fve": "<svg>f</svg>"}
    assert "<svg>p" in sections.first_figure(svgs, Finding("", "", "panel"))
    assert "<svg>f" in sections.first_figure(svgs, Finding("", "", "classes"))
    assert sections.first_figure({}, None) is None


# --- what was compared --------------------------------------------------------------------------


def test_the_title_names_what_was_compared_and_no_control_or_spare_model_before_it() -> None:
    assert compared.models_of(STUDY) == ["moe", "base", "theirs"]
    assert compared.title(STUDY) == "What moe, base and theirs represent, compared"
    one = STUDY | {"comparisons": {"sae": STUDY["comparisons"]["pair"] | {"sides": ["base"]}}}
    assert compared.title(one) == "What base represents"


def test_facts_give_kind_size_place_rows_and_recipes() -> None:
    counts = {
        "moe": {"total": 5_300_000, "active": 2_400_000},
        "base": {"total": 10**6, "active": 10**6},
    }
    rows = [{"split": "fit", "rows": 200}, {"split": "validation", "rows": 50},
            {"split": "fit", "rows": 210}, {"split": "validation", "rows": 50}]  # fmt: skip
    found = dict(compared.facts(STUDY, counts, [{"rows": rows}]))
    assert found["Models"] == [
        "moe: Mixture of Experts, 5.3M parameters, 2.4M of them used by a token, trained here",
        "base: dense model, 1.0M parameters, loaded from a/b",
        "theirs: activations that other code wrote",
    ]
    assert found["Activations"] == ["resid_post.0.5 (hook point and layer)"]
    assert found["Rows"] == ["200 to 210 fit, 50 validation rows of each model"]
    assert found["Dictionaries"] == [
        "1: turned (theirs, control: rotated) and pair (moe@resid_post.0.5 + base); recipe r "
        "(2,048 features, k 12)"
    ]


def test_many_models_are_counted_and_named_in_a_line() -> None:
    models = {f"m{n}": STUDY["models"]["spare"] for n in range(9)}
    one = {"all": {"sides": list(models), "together": True, "control": None, "recipes": ["r"]}}
    found = dict(compared.facts(STUDY | {"models": models, "comparisons": one}, {}, []))
    assert found["Models"][-1] == "and 3 more: m6, m7, m8"
    assert found["Models"][0] == "m0: trained here with 2 seeds"
    some = {"m0": models["m0"] | {"domains": ["docs", "prose"]}}
    found = dict(compared.facts(STUDY | {"models": models | some, "comparisons": one}, {}, []))
    assert found["Models"][0] == "m0: trained here with 2 seeds on docs and prose alone"
    assert compared.title(STUDY | {"models": models, "comparisons": one}) == (
        "What m0, m1, m2 and 6 more represent, compared"
    )


def test_limits_name_controls_that_were_not_run_and_what_is_left_out() -> None:
    rates = {"error_rates": [{"control": "rotated", "exclusive": 0.0}]}
    study = STUDY | {"left_out": ["x"] * 7}
    found = notes.cannot_say(
        study, rates, [], {"moe": 3.0, "base": 3.1}, {"moe"}, ["theirs"], ["few"]
    )
    text = "\n".join(found)
    assert "No claim has a verdict: few." in text
    assert "not run: other seed, permuted." in text
    assert "moe models text better than base, by 0.100" in text
    assert "theirs were written by other code" in text
    assert "7 dictionaries are in the tables only" in text
    own = {"base": STUDY["models"]["base"] | {"tokenizer": "own"}}
    assert "different tokenizers" in "\n".join(
        notes.cannot_say(STUDY | {"models": own}, rates, [], {}, set(), [], [])
    )


def test_the_rules_say_of_a_study_what_the_page_reads(tmp_path: Path) -> None:
    job = Study(prepare(tmp_path)).job("results/report.html")
    study = job.snakemake.params.study
    assert compared.title(study) == "What moe and dense represent, compared"
    assert study["pair"] == PAIR.replace("/c/", "/moe-dense/").replace("/r/", "/default/").rstrip(
        "/"
    )
    assert study["left_out"] == []
    # Every dictionary has features, text and figures; those of the pair are plots.
    assert len(job.snakemake.input.features) == len(job.snakemake.input.examples) == 2
    assert job.snakemake.input.figures == [
        "results/dictionaries/moe/moe.0/default/seed-0/figures.json"
    ]
    assert job.snakemake.input.divergence == []  # both models are trained here


def test_the_page_of_two_loaded_models_has_the_divergence_of_their_predictions(
    tmp_path: Path,
) -> None:
    place = prepare(tmp_path)
    config = {key: TINY[key] for key in ("recipes",)} | {
        "corpus": TINY["corpus"] | {"tokenizer": {"load": "some/base"}},
        "models": {"base": {"load": "some/base"}, "tuned": {"load": "some/tuned"}},
        "comparisons": {"pair": {"each": ["base", "tuned"]}},
    }
    study = Study(place, config)
    asked = study.job("results/report.html").snakemake.input.divergence
    assert asked == ["results/baselines/pair/base.0_tuned.0/divergence.parquet"]
    job = study.job(asked[0]).snakemake
    assert job.input.models == [
        f"results/models/{name}/seed-0/model.json" for name in ("base", "tuned")
    ]
    assert job.input.tokens == ["results/corpus/validation/00000.h5"] * 2
    assert job.params.models == ["base", "tuned"]
    config["models"] = {
        name: {"load": f"some/{name}", "tokenizer": "own"} for name in ("base", "tuned")
    }
    job = Study(place, config).job(asked[0]).snakemake
    assert job.input.tokens == [
        f"results/retokenised/{name}/validation/00000.h5" for name in ("base", "tuned")
    ]
