"""English short tales from a seeded grammar: a text domain that needs no download.

A tale is a plot (paragraphs, some optional, some in free order) written in a small template
language; the plots, sentence frames and words are in `tale_words`. In a template

    [a|b|c]            picks one of the choices, which may nest
    {stock}            expands a random entry of a stock, itself a template
    {stock#key}        the same, but the words stay with `key` to the end of the tale
    {stock#key.head}   the last word only, `.pl` its plural
    {stock@key}        expands the stock `stock_<what key was bound to>`
    {h} {f.his} ...    a character: the hero, the friend, the elder; see `_Person.forms`
    ^                  makes the next letter a capital

Objects and places bound to a key early come back later, and pronouns follow the character, so
the text has structure over hundreds of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from random import Random
from typing import NamedTuple, TypeVar

from moediff.corpus.tale_words import PINNED, PLOTS, STOCKS

T = TypeVar("T")
MIN_WORDS, MAX_WORDS = 120, 500
# Small stocks hold alternatives of form, free to repeat inside a tale; large ones should not.
NO_REPEAT_SIZE = 5
NO_REPEAT_TRIES = 4

_TOKEN = re.compile(r"[\[\]|]|\{[^{}]*\}|[^\[\]|{}]+")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|hour|honest|heir)(?!one\b|once\b|us[ei]|uni|eu)")
_CAPITAL = re.compile(r'((?:^|[.!?] |\." |\^)["(]?)([a-z])')
_PLURAL_ES = ("s", "x", "ch", "sh")


class _Choice(NamedTuple):
    options: tuple[_Parts, ...]


class _Ref(NamedTuple):
    name: str
    key: str
    attribute: str
    by: str


_Parts = tuple["str | _Choice | _Ref", ...]


def tales(seed: int) -> Iterator[str]:
    """Endless stream of tales; tale number n depends on `seed` and n alone."""
    for number in count():
        yield tale(seed, number)


def tale(seed: int, number: int) -> str:
    """Tale `number` of the stream of `seed`: 120 to 500 words, paragraphs split by empty lines."""
    for attempt in count():
        text = _Teller(Random(f"{seed}/{number}/{attempt}")).tell()
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text
    raise AssertionError("unreachable: count() does not end")


@cache
def _parse(template: str) -> _Parts:
    options, _ = _parse_options(_TOKEN.findall(template), 0)
    return options[0]


def _parse_options(tokens: list[str], at: int) -> tuple[list[_Parts], int]:
    """Read `a|b|c` up to the closing bracket (or the end); the position after it."""
    options: list[_Parts] = []
    parts: list[str | _Choice | _Ref] = []
    while at < len(tokens) and tokens[at] != "]":
        token = tokens[at]
        at += 1
        if token == "[":
            inner, at = _parse_options(tokens, at)
            parts.append(_Choice(tuple(inner)))
        elif token == "|":
            options.append(tuple(parts))
            parts = []
        else:
            parts.append(_parse_ref(token[1:-1]) if token[0] == "{" else token)
    options.append(tuple(parts))
    return options, at + 1


def _parse_ref(text: str) -> _Ref:
    path, _, attribute = text.partition(".")
    name, _, by = path.partition("@")
    name, _, key = name.partition("#")
    return _Ref(name, key, attribute, by)


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    return noun + ("es" if noun.endswith(_PLURAL_ES) else "s")


def _polish(paragraph: str) -> str:
    """Capitals at sentence starts and `an` before a vowel, which templates leave out."""
    text = _CAPITAL.sub(lambda found: found[1].replace("^", "") + found[2].upper(), paragraph)
    return _ARTICLE.sub(r"\1n ", text.replace("^", ""))


_PRONOUNS = {
    "female": {"he": "she", "him": "her", "his": "her", "self": "herself"},
    "male": {"he": "he", "him": "him", "his": "his", "self": "himself"},
    "teller": {"he": "I", "him": "me", "his": "my", "self": "myself"},
}
_SPEECH = {
    "said": ("said", "said", "said", "said", "declared", "murmured"),
    "answered": ("said", "answered", "answered", "replied"),
    "asked": ("asked", "asked", "asked", "wondered"),
    "cried": ("cried", "called", "shouted", "laughed"),
}
_WE = {"they": "we", "them": "us", "their": "our", "themselves": "ourselves"}


@dataclass
class _Person:
    """A character: the words for it, fixed for the tale."""

    name: str
    gender: str
    role: str
    hands: str
    teller: bool = False
    intro: str = ""
    met: bool = False

    @property
    def pronouns(self) -> dict[str, str]:
        return _PRONOUNS["teller" if self.teller else self.gender]


class _Teller:
    """The state of one tale: its cast, what is bound, what was used, who was named last."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.bound: dict[str, str] = {}
        self.used: set[tuple[str, int]] = set()
        self.last: _Person | None = None
        self.form = self._pick(("third", "third", "third", "third", "first", "letter", "diary"))
        self.cast: dict[str, _Person] = {}
        self._cast_people()
        self.bound["voice"] = "teller" if self.cast["h"].teller else "third"

    def tell(self) -> str:
        """The whole tale."""
        plot = self._pick(tuple(PLOTS))
        self.bound.update(PINNED.get(plot, {}))
        body = [self._paragraph(template) for template in self._outline(PLOTS[plot])]
        return "\n\n".join(self._framed(body))

    def _outline(self, plot: tuple[str | tuple[str, ...], ...]) -> Iterator[str]:
        """Paragraph templates in the order of this tale: a nested tuple is some, in any order."""
        yield "{opening@voice}[ {opening_more}|] [{want_day}|{weather@season}|{home_detail}]"
        for scene in plot:
            if isinstance(scene, tuple):
                yield from self.rng.sample(scene, self.rng.randint(1, len(scene)))
            elif not scene.startswith("?"):
                yield scene
            elif self.rng.random() < 0.5:
                yield scene[1:]
        yield "{ending}[ {moral}| {last_image}|]"

    def _framed(self, body: list[str]) -> list[str]:
        """The paragraphs as a plain tale, a letter, or the pages of a diary."""
        if self.form == "letter":
            return [self._paragraph("{letter_head}"), *body, self._paragraph("{letter_close}")]
        if self.form == "diary":
            return [self._paragraph("{diary_head}"), *body]
        return body

    def _paragraph(self, template: str) -> str:
        self.last = None
        return _polish(self._expand(template).strip())

    def _expand(self, template: str) -> str:
        out: list[str] = []
        self._write(_parse(template), out)
        return "".join(out)

    def _write(self, parts: _Parts, out: list[str]) -> None:
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif isinstance(part, _Choice):
                self._write(self._pick(part.options), out)
            elif part.name in self.cast:
                out.append(self._mention(self.cast[part.name], part.attribute))
            elif part.key:
                out.append(self._bound(part))
            elif part.name in _WE:
                out.append(_WE[part.name] if self.cast["h"].teller else part.name)
            else:
                self._write(_parse(self._entry(self._stock_name(part))), out)

    def _stock_name(self, ref: _Ref) -> str:
        return f"{ref.name}_{self._bind(ref.by, ref.by)}" if ref.by else ref.name

    def _bound(self, ref: _Ref) -> str:
        phrase = self._bind(ref.key, ref.name)
        if ref.attribute == "head":
            return phrase.rsplit(" ", 1)[-1]
        return _plural(phrase) if ref.attribute == "pl" else phrase

    def _bind(self, key: str, stock: str) -> str:
        if key not in self.bound:
            self.bound[key] = self._expand(self._entry(stock))
        return self.bound[key]

    def _entry(self, stock: str) -> str:
        """A random entry; from a large stock, one this tale has not used, if found soon.

        Stocks whose names differ in a final digit are versions of one (`swap1`, `swap2`).
        """
        entries = STOCKS[stock]
        family = stock.rstrip("0123456789")
        at = int(self.rng.random() * len(entries))
        if len(entries) >= NO_REPEAT_SIZE:
            for _ in range(NO_REPEAT_TRIES):
                if (family, at) not in self.used:
                    break
                at = int(self.rng.random() * len(entries))
            self.used.add((family, at))
        return entries[at]

    def _pick(self, options: tuple[T, ...]) -> T:
        return options[int(self.rng.random() * len(options))]

    def _cast_people(self) -> None:
        """Hero and friend differ in gender, so that a pronoun names one of them."""
        genders = ["female", "male"]
        self.rng.shuffle(genders)
        beasts = self.form == "third" and self.rng.random() < 0.2
        role, hands = ("animal", "paws") if beasts else ("trade", "hands")
        young = role if beasts or self.rng.random() < 0.5 else f"child_{genders[0]}"
        hero = self._person(genders[0], young, hands)
        hero.teller = self.form != "third"
        hero.met = True
        hero.intro = f"a {self._bind('trait', 'trait')} {hero.role} named {hero.name}"
        friend = self._person(genders[1], role, hands)
        friend.intro = f"{hero.pronouns['his']} {self._entry('relation')} {friend.name}"
        elder = self._person(self._pick(("female", "male")), role, hands)
        elder.intro = f"an old {elder.role} named {elder.name}"
        self.cast = {"h": hero, "f": friend, "o": elder}

    def _person(self, gender: str, role_stock: str, hands: str) -> _Person:
        return _Person(self._entry(f"name_{gender}"), gender, self._entry(role_stock), hands)

    def _mention(self, person: _Person, form: str) -> str:
        """The words for a character; the first time a character is named, who it is."""
        if form in ("name", "role", "hands", "intro"):
            return getattr(person, form)
        if form in person.pronouns:
            return person.pronouns[form]
        if form in _SPEECH:
            return self._speech(person, self._pick(_SPEECH[form]))
        pronoun_clear, self.last = self.last is person, person
        if form == "s":
            return "my" if person.teller else f"{self._named(person)}'s"
        pronoun = person.pronouns["him" if form == "obj" else "he"]
        if person.teller or (form != "n" and pronoun_clear and self.rng.random() < 0.6):
            return pronoun
        return self._named(person)

    def _named(self, person: _Person) -> str:
        if not person.met:
            person.met = True
            return person.intro
        if person is not self.cast["f"] and self.rng.random() < 0.12:
            return f"the {person.role}"
        return person.name

    def _speech(self, person: _Person, verb: str) -> str:
        if person.teller or self.last is person:
            self.last = person
            return f"{person.pronouns['he']} {verb}"
        self.last = person
        return f"{verb} {self._named(person)}"
