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
  const {columns, domains, examples, experts, text} = read(`dictionary-${number}`);
  at("note").textContent = read("notes")[number];
  const peak = row => examples[row].length
    ? vocabulary[examples[row][0][4][examples[row][0][3]]] : null;
  view = {columns: unpacked(columns), domains, examples, experts: new Map()};
  if (text) view.columns.push({name: EXAMPLE, text: true, of: peak});
  view.known = text;
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
    box.append(make("p", "", view.known ? "It fires on no validation row."
                                        : "No text of its rows is known here."));
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
