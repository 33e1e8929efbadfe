"""What every widget shares: its script and styles from the files beside it, and a place for errors."""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from adaptwin_widgets.errors import InputError

HERE = Path(__file__).parent


@lru_cache
def source(name: str) -> str:
    """The text of a file beside this one, such as "picker.js"."""
    return (HERE / name).read_text(encoding="utf-8")


STYLE = source("style.css")


class View(anywidget.AnyWidget):
    """A widget with the shared styles. error: ``{"sentence", "details"}``, shown by its script; empty: none.

    Messages from the script are dictionaries ``{"do": name, ...}`` and call the method ``do_<name>``.
    """

    _css = STYLE
    error = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any):
        super().__init__(**traits)
        self.on_msg(self._receive)

    def _receive(self, _: Any, content: dict, buffers: list) -> None:
        name = content.get("do") if isinstance(content, dict) else None
        action: Callable[..., Any] | None = getattr(self, f"do_{name}", None) if isinstance(name, str) else None
        if action is None:
            self.error = {"sentence": f"The page asked for {name!r}, which this widget cannot do; reload the page."}
            return
        self.guard(action)(**{key: value for key, value in content.items() if key != "do"})

    def guard(self, action: Callable[..., Any]) -> Callable[..., None]:
        """The action with its errors shown in the widget: Jupyter hides those of callbacks."""

        @wraps(action)
        def guarded(*args: Any, **kwargs: Any) -> None:
            before = self.error
            try:
                action(*args, **kwargs)
                if before and self.error is before:  # another one came of what the action set off
                    self.error = {}
            except Exception as error:
                self.fail(error)

        return guarded

    def fail(self, error: Exception) -> None:
        """Show what went wrong; of what is no `InputError`, the traceback as well."""
        if isinstance(error, InputError):
            shown = {"sentence": str(error)}
        else:
            details = "".join(traceback.format_exception(error))
            shown = {"sentence": f"{type(error).__name__}: {error}", "details": details}
        if shown == self.error:
            self.error = {}  # the same again would be no change, and the page waits for its answer
        self.error = shown

    def summary(self) -> str:
        """What a page without a kernel shows in the widget's place: HTML, without scripts."""
        return f"<p>{html.escape(repr(self))}</p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = self.summary()
        return bundle
