"""The feature browser of the report: every feature of a dictionary with its numbers and examples.

One piece of HTML with its style, its data and its script. Nothing is requested, and text comes into
the page by `textContent` alone: tokens hold anything, markup too.

Data is JSON in elements of their own, one a dictionary, so that only the one looked at is read. It
is compact: texts of tokens stand in one list, by falling frequency, and examples hold numbers of it;
activations are whole percents of the feature's largest, and only those above 0 are written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from moediff.core.errors import UserError

DIGITS = 4  # significant ones of a number
# Columns that are shown on demand: what a class was made of, and other conventions.
_ASIDE = re.compile(r"block|fired|class_.*|decoder_.*|paper_.*")
# What would end a script element or a line of it, or is no text in UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Browsed:
    """A dictionary to be looked at."""

    label: str  # what it is called everywhere on the page
    features: pl.DataFrame  # as `features.feature_table` gives it; columns may be joined to it
    examples: pl.DataFrame  # as `examples.feature_examples` gives them
    experts: pl.DataFrame | None = None  # feature, source, layer, expert, information (nats)


def browser(dictionaries: Sequence[Browsed]) -> str:
    """HTML of one section that shows the features of dictionaries; to be put on a page once.

    A row a feature, to be searched, filtered by class and by top domain, and sorted by any column;
    under it, its examples, each token coloured by the feature's activation over its largest. A column
    without any value is left out. Raises UserError where a table lacks a column that is needed.
    """
    for one in dictionaries:
        _check(one)
    count = Counter(text for one in dictionaries for text in one.examples["tokens"].explode())
    vocabulary = sorted(count, key=lambda text: (-count[text], text))
    number = {text: place for place, text in enumerate(vocabulary)}
    parts = {"labels": [one.label for one in dictionaries], "vocabulary": vocabulary}
    parts |= {f"dictionary-{n}": packed(one, number) for n, one in enumerate(dictionaries)}
    data = "".join(
        f'<script type="application/json" data-part="{name}">{embedded(part)}</script>'
        for name, part in parts.items()
    )
    return f'<style>{_STYLE}</style><div id="feature-browser">{_BODY}{data}</div><script>{_SCRIPT}</script>'


def _check(dictionary: Browsed) -> None:
    for table, needed in (
        (dictionary.features, ("feature", "class", "top_domain")),
        (dictionary.examples, ("feature", "rank", "domain", "row", "activation", "tokens",
                               "activations", "peak")),
        (dictionary.experts, ("feature", "source", "layer", "expert", "information")),
    ):  # fmt: skip
        missing = [] if table is None else [name for name in needed if name not in table.columns]
        if missing:
            raise UserError(
                f"{dictionary.label}: a table of the browser lacks {', '.join(missing)}"
            )


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element, whatever text it holds."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def packed(dictionary: Browsed, number: dict[str, int]) -> dict[str, Any]:
    """What the script reads of a dictionary; `number` is each token text's place in the vocabulary.

    `examples` has, for each row of the features, a list of [domain, row, activation, peak, tokens,
    levels]: `tokens` in the vocabulary, `levels` as place, percent, place, percent.
    """
    features, examples = dictionary.features, dictionary.examples
    domains = examples["domain"].unique().sort().to_list()
    place = {feature: row for row, feature in enumerate(features["feature"])}
    found: list[list[list[Any]]] = [[] for _ in place]
    most: dict[int, float] = {}
    for one in examples.sort("feature", "rank").iter_rows(named=True):
        most.setdefault(one["feature"], one["activation"])
        found[place[one["feature"]]].append(
            [
                domains.index(one["domain"]), one["row"], _rounded(one["activation"]), one["peak"],
                [number[text] for text in one["tokens"]],
                _levels(one["activations"], most[one["feature"]]),
            ]
        )  # fmt: skip
    experts = dictionary.experts
    return {
        "columns": _columns(features),
        "domains": domains,
        "examples": found,
        "experts": [] if experts is None else _columns(experts.drop_nulls("expert")),
    }


def _levels(activations: Sequence[float], most: float) -> list[int]:
    """Place and percent of `most` of each activation above 0; what rounds to nothing is 1."""
    return [
        part
        for place, value in enumerate(activations)
        if value > 0
        for part in (place, min(max(round(100 * value / most), 1), 100))
    ]


def _columns(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Columns with their values, or the numbers of their texts among `levels`; those that have any."""
    found = []
    for column in table:
        if column.null_count() == len(column):
            continue
        one: dict[str, Any] = {"name": column.name, "aside": bool(_ASIDE.fullmatch(column.name))}
        if column.dtype.is_numeric():
            one |= {
                "values": [_rounded(value) for value in column],
                "whole": column.dtype.is_integer(),
            }
        else:
            texts = column.cast(pl.String)
            one["levels"] = texts.drop_nulls().unique().sort().to_list()
            number = {text: place for place, text in enumerate(one["levels"])}
            one["values"] = [number.get(text) for text in texts]
        found.append(one)
    return found


def _rounded(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


_STYLE = """
#feature-browser { font-size: .9rem }
#feature-browser form { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: end }
#feature-browser label { display: flex; flex-direction: column; font-size: .8rem; color: #555 }
#feature-browser label.line { flex-direction: row; gap: .3rem; align-items: center; height: 2rem }
#feature-browser input, #feature-browser select { font: inherit; font-size: .9rem; color: #222 }
#feature-browser select, #feature-browser input[type=search] { height: 2rem; box-sizing: border-box;
  max-width: 100%; border: 1px solid #bbb; border-radius: 3px; background: #fff; padding: 0 .4rem }
#feature-browser select { max-width: 26rem }
#feature-browser .whole { flex-basis: 100% }
#feature-browser .grow { flex: 1 1 14rem }
#feature-browser .bar { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center;
  margin: .6rem 0; color: #555 }
#feature-browser .bar button { font: inherit; padding: .1rem .7rem; border: 1px solid #bbb;
  border-radius: 3px; background: #f6f6f6; color: #222 }
#feature-browser .bar button:disabled { color: #aaa }
#feature-browser :focus-visible { outline: 2px solid #0072B2; outline-offset: 1px }
#feature-browser .wide { overflow-x: auto; container-type: inline-size }
#feature-browser .list { width: 100% }
#feature-browser th { vertical-align: bottom; padding: .2rem .4rem; font-size: .8rem }
#feature-browser .list > tbody > tr > td { padding: .25rem .4rem; vertical-align: top }
#feature-browser th button, #feature-browser .number { all: unset; cursor: pointer }
#feature-browser th button:focus-visible, #feature-browser .number:focus-visible {
  outline: 2px solid #0072B2 }
#feature-browser th button:hover { text-decoration: underline }
#feature-browser th[aria-sort=ascending] button::after { content: " \\25B2"; color: #0072B2 }
#feature-browser th[aria-sort=descending] button::after { content: " \\25BC"; color: #0072B2 }
#feature-browser th.text { text-align: left }
#feature-browser tr.feature { cursor: pointer }
#feature-browser tr.feature:hover, #feature-browser tr.open { background: #eef5fb }
#feature-browser .number::before { content: "\\25B8"; display: inline-block; width: 1.1em;
  color: #0072B2 }
#feature-browser .number[aria-expanded=true]::before { content: "\\25BE" }
#feature-browser .snippet { font: .8rem/1.5 ui-monospace, monospace; white-space: pre;
  max-width: 14rem; overflow: hidden; text-overflow: ellipsis; color: #666; unicode-bidi: isolate }
#feature-browser .snippet b { color: #222; font-weight: 600; background: rgb(213 94 0 / .3) }
#feature-browser .list > tbody > tr > td.inside { background: #fafcfe; text-align: left; padding: 0 }
#feature-browser .examples { position: sticky; left: 0; width: 100cqw; box-sizing: border-box;
  padding: .5rem .8rem .7rem 1.6rem }
#feature-browser .examples p { margin: .2rem 0; color: #555 }
#feature-browser ol { list-style: none; margin: 0; padding: 0 }
#feature-browser li { display: grid; grid-template-columns: 9rem 1fr; gap: .2rem .8rem;
  padding: .3rem 0; border-top: 1px solid #e4ebf1 }
#feature-browser li > span { color: #555; overflow-wrap: anywhere }
#feature-browser li > div { font: .85rem/1.6 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: isolate; tab-size: 4 }
#feature-browser .token { border-radius: 2px; min-height: 1em }
#feature-browser .token:empty { display: inline-block; width: .5em; vertical-align: text-bottom }
#feature-browser .peak { border-bottom: 2px solid #222 }
#feature-browser .experts { margin-top: .6rem; font-size: .85rem }
#feature-browser .experts caption { text-align: left; color: #555 }
@media (max-width: 40rem) { #feature-browser li { grid-template-columns: 1fr }
  #feature-browser .examples { padding-left: .8rem } }
"""

_BODY = """
<form role="search" aria-label="Features">
<label class="whole">dictionary<select data-part="which"></select></label>
<label class="grow">search<input type="search" data-part="search" autocomplete="off"
  spellcheck="false" placeholder="text of examples, domain, class or number"></label>
<label>class<select data-part="class"></select></label>
<label>top domain<select data-part="domain"></select></label>
<label class="line"><input type="checkbox" data-part="aside">all columns</label>
</form>
<div class="bar"><button type="button" data-part="back">previous</button>
<button type="button" data-part="next">next</button>
<span role="status" data-part="status"></span></div>
<div class="wide" data-part="scroll" tabindex="0" role="region" aria-label="Table of features">
<table class="list"><thead data-part="head"></thead><tbody data-part="body"></tbody></table></div>
<noscript><p>The browser needs JavaScript; the same numbers are in features.parquet and
examples.parquet.</p></noscript>
"""

_SCRIPT = r"""
"use strict";
(() => {
const PAGE = 50;  // rows that are drawn at once
const EXAMPLE = "strongest example";
const root = document.getElementById("feature-browser");
const at = name => root.querySelector(`[data-part="${name}"]`);
const read = name => JSON.parse(at(name).textContent);
const vocabulary = read("vocabulary").map(text => text.replaceAll("\n", "\u21b5"));
const collator = new Intl.Collator("en");

let view;                // the dictionary that is shown
let rows = [];           // its rows that pass, in order
let first = 0;           // of these, the first that is drawn
let order = {name: "feature", down: false};
let open = new Set();    // rows whose examples are shown

function make(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- data ---

const textOf = example => example[4].map(token => vocabulary[token]).join("");

function unpacked(columns) {
  return columns.map(column => {
    const {name, levels, values, aside, whole} = column;
    return {name, aside, whole, text: !!levels,
            of: levels ? row => values[row] === null ? null : levels[values[row]]
                       : row => values[row]};
  });
}

function load(number) {
  const {columns, domains, examples, experts} = read(`dictionary-${number}`);
  const peak = row => examples[row].length
    ? vocabulary[examples[row][0][4][examples[row][0][3]]] : null;
  view = {columns: unpacked(columns), domains, examples, experts: new Map()};
  view.columns.push({name: EXAMPLE, text: true, of: peak});
  view.column = Object.fromEntries(view.columns.map(column => [column.name, column]));
  const told = Object.fromEntries(unpacked(experts).map(column => [column.name, column.of]));
  for (let n = 0; experts.length && n < experts[0].values.length; n++) {
    const one = ["source", "layer", "expert", "information"].map(name => told[name]?.(n) ?? null);
    const feature = told.feature(n);
    if (!view.experts.has(feature)) view.experts.set(feature, []);
    view.experts.get(feature).push(one);
  }
  open = new Set();
  if (!view.column[order.name]) order = {name: "feature", down: false};
  choices("class", "class");
  choices("domain", "top_domain");
}

// What a search looks through, in small letters; made when it is first needed.
function haystack() {
  const labels = ["class", "top_domain"].map(name => view.column[name]).filter(Boolean);
  view.haystack ??= view.examples.map((examples, row) =>
    [...labels.map(column => column.of(row) ?? ""), ...examples.map(textOf)]
      .join("\n").toLowerCase());
  return view.haystack;
}

function choices(part, name) {
  const select = at(part), kept = select.value, counts = new Map();
  const column = view.column[name];
  for (let row = 0; column && row < view.examples.length; row++) {
    const value = column.of(row);
    if (value !== null) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  select.replaceChildren(new Option("all", ""));
  for (const value of [...counts.keys()].sort(collator.compare))
    select.append(new Option(`${value} (${counts.get(value).toLocaleString("en")})`, value));
  select.value = counts.has(kept) ? kept : "";
}

// --- which rows, in which order ---

function choose() {
  const query = at("search").value.trim().toLowerCase();
  const number = /^#?\d+$/.test(query) ? Number(query.replace("#", "")) : null;
  const texts = query ? haystack() : null;
  const wanted = [["class", "class"], ["domain", "top_domain"]]
    .map(([part, name]) => [at(part).value, view.column[name]]).filter(([value]) => value);
  const {feature} = view.column;
  rows = [];
  for (let row = 0; row < view.examples.length; row++) {
    if (query && feature.of(row) !== number && !texts[row].includes(query)) continue;
    if (wanted.every(([value, column]) => column.of(row) === value)) rows.push(row);
  }
  const column = view.column[order.name], turn = order.down ? -1 : 1;
  const compare = column.text ? collator.compare : (a, b) => a - b;
  rows.sort((a, b) => {
    const x = column.of(a), y = column.of(b);
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return turn * compare(x, y) || a - b;
  });
  first = 0;
  draw();
}

// --- drawing ---

function shown(value, column) {
  if (value === null) return "\u2013";
  if (column.name === "feature" || column.text) return String(value);
  if (column.whole) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size < 0.001 ? value.toExponential(1) : value.toFixed(size < 100 ? 3 : 0);
}

const drawn = () => view.columns.filter(column => !column.aside || at("aside").checked);

function draw() {
  const heads = drawn().map(column => {
    const head = make("th", column.text ? "text" : ""), button = make("button");
    button.type = "button";
    button.textContent = column.name.replaceAll("_", " ");
    button.dataset.column = column.name;
    head.scope = "col";
    if (order.name === column.name)
      head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    head.append(button);
    return head;
  });
  const focused = document.activeElement?.dataset?.column;
  const line = make("tr");
  line.append(...heads);
  at("head").replaceChildren(line);
  if (focused) [...at("head").querySelectorAll("button")]
    .find(button => button.dataset.column === focused)?.focus();
  const lines = rows.slice(first, first + PAGE).flatMap(row =>
    open.has(row) ? [lineOf(row), inside(row)] : [lineOf(row)]);
  at("body").replaceChildren(...lines);
  const last = Math.min(first + PAGE, rows.length), all = view.examples.length;
  const number = value => value.toLocaleString("en");
  at("status").textContent = (rows.length
    ? `${number(first + 1)} to ${number(last)} of ${number(rows.length)} features`
    : "no feature passes") + (rows.length < all ? `, of ${number(all)} in all` : "");
  at("back").disabled = first === 0;
  at("next").disabled = last >= rows.length;
}

function lineOf(row) {
  const line = make("tr", open.has(row) ? "feature open" : "feature");
  line.dataset.row = row;
  for (const column of drawn()) {
    const cell = make("td", column.text ? "text" : "");
    if (column.name === "feature") {
      const button = make("button", "number", shown(column.of(row), column));
      button.type = "button";
      button.setAttribute("aria-expanded", String(open.has(row)));
      button.setAttribute("aria-label", `examples of feature ${column.of(row)}`);
      cell.append(button);
    } else if (column.name === EXAMPLE) cell.append(snippet(row));
    else cell.textContent = shown(column.of(row), column);
    line.append(cell);
  }
  return line;
}

function snippet(row) {
  const made = make("div", "snippet"), [best] = view.examples[row];
  if (!best) return made;
  const peak = best[3];
  const texts = best[4].map(token => vocabulary[token].replace(/\s+/g, " "));
  const before = [...texts.slice(0, peak).join("")].slice(-12).join("");
  const after = [...texts.slice(peak + 1).join("")].slice(0, 18).join("");
  made.append(before, make("b", "", texts[peak]), after);
  return made;
}

function inside(row) {
  const line = make("tr"), cell = make("td", "inside"), box = make("div", "examples");
  cell.colSpan = drawn().length;
  line.append(cell);
  cell.append(box);
  const examples = view.examples[row];
  if (!examples.length) {
    box.append(make("p", "", "It fires on no validation row."));
    return line;
  }
  box.append(make("p", "", "Strongest rows, one a document, with the feature's activation there. "
    + "Colour: activation over the largest; underlined: the row itself."));
  const list = make("ol");
  for (const example of examples) {
    const item = make("li"), about = make("span", "", example[2].toPrecision(3));
    about.append(" ", view.domains[example[0]]);
    about.title = `validation row ${example[1]}`;
    item.append(about, passage(example, examples[0][2]));
    list.append(item);
  }
  box.append(list);
  const experts = view.experts.get(view.column.feature.of(row));
  if (experts) box.append(told(experts));
  return line;
}

// Tokens of an example; `most` is what a level of 100 stands for.
function passage(example, most) {
  const made = make("div"), [, , , peak, tokens, levels] = example, level = new Map();
  for (let n = 0; n < levels.length; n += 2) level.set(levels[n], levels[n + 1]);
  tokens.forEach((token, place) => {
    const percent = level.get(place) ?? 0;
    if (!percent && place !== peak) {
      made.append(vocabulary[token]);
      return;
    }
    const piece = make("span", place === peak ? "token peak" : "token", vocabulary[token]);
    piece.style.backgroundColor = `rgb(213 94 0 / ${(0.7 * percent / 100).toFixed(3)})`;
    const value = place === peak ? example[2] : most * percent / 100;
    piece.title = `activation ${value.toPrecision(3)}`;
    made.append(piece);
  });
  return made;
}

function told(experts) {
  const table = make("table", "experts"), body = make("tbody"), head = make("tr");
  table.append(make("caption", "", "Experts that its firing tells of, within token id"));
  for (const name of ["source", "layer", "expert", "information (nats)"])
    head.append(make("th", name === "source" ? "text" : "", name));
  table.append(make("thead"), body);
  table.tHead.append(head);
  for (const [source, layer, expert, information] of [...experts].sort((a, b) => b[3] - a[3])) {
    const line = make("tr"), value = information === null ? "\u2013" : information.toPrecision(3);
    line.append(make("td", "text", source), make("td", "", layer), make("td", "", expert),
                make("td", "", value));
    body.append(line);
  }
  return table;
}

// --- what a reader does ---

function toggle(line) {
  const row = Number(line.dataset.row), opened = !open.has(row);
  if (opened) open.add(row); else open.delete(row);
  line.classList.toggle("open", opened);
  line.querySelector(".number").setAttribute("aria-expanded", String(opened));
  if (opened) line.after(inside(row)); else line.nextElementSibling.remove();
}

function turn(step) {
  first += step * PAGE;
  draw();
}

root.querySelector("form").addEventListener("submit", event => event.preventDefault());
at("search").addEventListener("input", choose);
at("class").addEventListener("change", choose);
at("domain").addEventListener("change", choose);
at("aside").addEventListener("change", draw);
at("back").addEventListener("click", () => turn(-1));
at("next").addEventListener("click", () => turn(1));
at("which").addEventListener("change", () => { load(Number(at("which").value)); choose(); });
at("head").addEventListener("click", event => {
  const name = event.target.closest("button")?.dataset.column;
  if (!name) return;
  order = {name, down: order.name === name && !order.down};
  choose();
});
at("body").addEventListener("click", event => {
  const line = event.target.closest("tr.feature");
  const marking = event.detail && String(getSelection());  // text is being marked by the mouse
  if (line && !marking) toggle(line);
});

read("labels").forEach((label, number) => at("which").append(new Option(label, number)));
load(0);
choose();
requestAnimationFrame(() => {
  root.dataset.ready = "yes";
  performance.mark("feature browser ready");
});
})();
"""
