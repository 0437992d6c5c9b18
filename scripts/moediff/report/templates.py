"""The page's templates, styles and script, which lie in assets/ as HTML, CSS and JavaScript.

Templates escape every value that is not `Markup`; what a function of `page` or `browser` gives is
markup already.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """A template of assets/ filled in."""
    return Markup(_environment().get_template(template).render(**values))


def asset(name: str) -> Markup:
    """A file of assets/ as it is."""
    return Markup(files("moediff.report").joinpath("assets", name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("moediff.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["asset"] = asset
    return environment
