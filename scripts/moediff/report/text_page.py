"""A page of one text: each token, and under it which experts of each layer it used and what each would
say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from moediff.report.browser import embedded
from moediff.report.templates import render


def text_page(name: str, read: Mapping[str, Any]) -> str:
    """HTML of what `experts.text_reading.read_text` gives of model `name`: self-contained, nothing is
    requested.

    A click on a token, or an arrow key, shows it layer by layer; the search marks tokens by their text, or
    by an expert that they used: `expert 3`, or `expert 3 layer 1`.
    """
    return render("text_page.html.j2", name=name, data=Markup(embedded(read)))
