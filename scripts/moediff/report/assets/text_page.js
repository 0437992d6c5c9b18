"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const place = find("text"), shown = find("token");
  let chosen = -1;

  const make = (tag, text, of) => {
    const part = document.createElement(tag);
    if (text !== undefined) part.textContent = text;
    if (of) part.className = of;
    return part;
  };
  const textOf = (id) => data.texts[id] ?? "";
  // What cannot be seen, drawn.
  const visible = (text) => text.replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5") || "\u2205";

  const words = data.tokens.map((token, number) => {
    const word = make("span", textOf(token.id), token.first ? "word first" : "word");
    word.setAttribute("role", "option");
    word.setAttribute("aria-selected", "false");
    word.addEventListener("click", () => choose(number));
    place.append(word);
    return word;
  });

  const said = (parts) => {
    const cell = make("td");
    for (const [id, share] of parts) {
      const say = make("span", visible(textOf(id)), "say");
      say.append(make("small", " " + Math.round(100 * share) + " %"));
      cell.append(say);
    }
    return cell;
  };

  const row = (...cells) => {
    const line = make("tr");
    line.append(...cells);
    return line;
  };

  const table = (number) => {
    const whole = make("table"), beside = find("beside").checked;
    const head = ["layer", "expert", "gate", beside ? "says with the stream" : "says alone",
                  "the layer says"];
    whole.append(row(...head.map((name) => make("th", name))));
    for (const layer of data.layers) {
      const gates = layer.gates[number], most = Math.max(...gates, 1e-9);
      layer.experts[number].forEach((expert, slot) => {
        const gate = make("td", undefined, "gate"), bar = make("span", undefined, "bar");
        bar.style.width = 5 * gates[slot] / most + "rem";
        gate.append(bar, gates[slot].toPrecision(3));
        const first = slot === 0;
        whole.append(row(
          make("td", first ? layer.layer : ""), make("td", expert), gate,
          said((beside ? layer.beside : layer.alone)[number][slot]),
          first ? said(layer.says[number]) : make("td")));
      });
    }
    return whole;
  };

  const show = () => {
    const token = data.tokens[chosen], next = data.tokens[chosen + 1];
    const head = make("h2", "token " + chosen + ": ");
    head.append(make("span", visible(textOf(token.id)), "say"));
    const about = make("p", token.domain + "; the model says ");
    about.append(...said(token.next).childNodes);
    if (next && !next.first) about.append("then came ", make("span", visible(textOf(next.id)), "say"));
    const wide = make("div", undefined, "wide");
    wide.append(table(chosen));
    shown.replaceChildren(head, about, wide);
  };

  const choose = (number) => {
    if (number < 0 || number >= words.length) return;
    if (chosen >= 0) words[chosen].setAttribute("aria-selected", "false");
    chosen = number;
    words[chosen].setAttribute("aria-selected", "true");
    words[chosen].scrollIntoView({block: "nearest"});
    show();
  };

  const search = () => {
    const asked = find("search").value;
    const wanted = asked.trim().toLowerCase().match(/^expert (\d+)(?: layer (\d+))?$/);
    const used = (number) => data.layers.some((layer) =>
      (wanted[2] === undefined || layer.layer === Number(wanted[2])) &&
      layer.experts[number].includes(Number(wanted[1])));
    const lower = asked.toLowerCase();
    let count = 0;
    words.forEach((word, number) => {
      const found = asked !== "" &&
        (wanted ? used(number) : textOf(data.tokens[number].id).toLowerCase().includes(lower));
      word.classList.toggle("found", found);
      count += found;
    });
    find("status").textContent = asked === "" ? words.length + " tokens"
      : count + " of " + words.length + " tokens";
  };

  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  find("search").addEventListener("input", search);
  find("beside").addEventListener("change", () => { if (chosen >= 0) show(); });
  place.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10}[event.key];
    if (step) {
      event.preventDefault();
      choose(Math.max(0, Math.min(words.length - 1, chosen + step)));
    }
  });
  search();
  choose(0);
  document.body.dataset.ready = "yes";
})();
