"""What the site needs beyond its plugins: formulas as MathML, and no script from another host."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
SHIM = re.compile(r'src="https://unpkg.com/iframe-worker/shim"')


def on_page_content(content: str, **_: Any) -> str:
    """MkDocs calls this with every page's HTML; arithmatex has marked the formulas in it."""
    return FORMULA.sub(lambda found: mathml(html.unescape(found[2]).strip()), content)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """The plugin `offline` asks another host for the script that lets search work from a folder; we bring it along."""
    return SHIM.sub(f'src="{"../" * page.url.count("/")}assets/iframe-worker.js"', output)


def on_post_template(output: str, *, template_name: str, **_: Any) -> str:
    """The same for pages that are no documents, such as 404.html."""
    return SHIM.sub('src="assets/iframe-worker.js"', output)


def mathml(formula: str) -> str:
    r"""MathML of ``\(x\)`` or, as a block, of ``\[x\]``: every present browser draws it by itself, without scripts.

    >>> mathml(r"\(x\)").startswith("<math")
    True
    """
    block = formula.startswith(r"\[")
    return convert(formula[2:-2].strip(), display="block" if block else "inline")
