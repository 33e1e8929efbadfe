"""Examples in docstrings become fenced blocks: to Markdown, ``>>>`` would be a quotation in a quotation."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)+", re.MULTILINE)
DIRECTIVE = re.compile(r" +# doctest: \+\w+")


class Fences(Extension):
    """Griffe calls it with everything it has read."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The examples of a docstring in fences, without the directives that are meant for the tests.

    >>> print(fenced("Adds.\\n\\n>>> 1 + 1  # doctest: +SKIP\\n2\\n\\nDone."))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    Done.
    """
    return EXAMPLE.sub(lambda found: f"```pycon\n{DIRECTIVE.sub('', found[0]).rstrip()}\n```\n", text)
