"""What is at hand: which try, how large, how good; and the way to take it along."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import traitlets

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.export import export
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.widgets.pace import Throttle
from adaptwin_widgets.workbench import Workbench

PER_SECOND = 5  # messages to the page at most
FOLLOWED = ["current", "small", "revision"]
FORMS = {  # what the model can be saved for, how it is loaded there, and what `export` is to be given
    "transformers": ("transformers, and here again", "aw.load({!r})", {}),
    "float16": ("faster-whisper, float16", "faster_whisper.WhisperModel({!r})", {"dtype": "float16"}),
    "int8": ("faster-whisper, int8", 'faster_whisper.WhisperModel({!r}, compute_type="int8")', {"dtype": "int8"}),
    "onnx": ("onnxruntime, float32", "adaptwin_widgets.onnx_engine.OnnxEngine({!r})", {"to": "onnx"}),
}


class AtHand(View):
    """The model that the next cell and the export work with: its name, sizes and scores, and a button to save it.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> aw.AtHand(studio.workbench)                                                          # doctest: +SKIP
    """

    _esm = source("dom.js") + source("parts.js") + source("at_hand.js")
    info = traitlets.Dict().tag(sync=True)
    forms = traitlets.Dict({key: title for key, (title, *_) in FORMS.items()}).tag(sync=True)
    saved = traitlets.Unicode().tag(sync=True)  # how to load what was saved last

    def __init__(self, workbench: Workbench, **traits: Any):
        super().__init__(**traits)
        self.workbench = workbench
        self._show = Throttle(self, self._refresh, 1 / PER_SECOND)
        self._show.follow(workbench, FOLLOWED)
        self._show.now()

    def close(self) -> None:
        if hasattr(self, "workbench"):
            self._show.follow(self.workbench, FOLLOWED, on=False)
            del self.workbench
        super().close()

    def _refresh(self) -> None:
        if not hasattr(self, "workbench"):  # closed while a timer ran
            return
        bench = self.workbench
        known = bench.current in bench.study  # and then its numbers are those of its record, whatever the plan is
        scores = bench.study[bench.current].scores if known else {}
        loading = f"Load {bench.current}" in [task.name for task in bench.worker.tasks if not task.finished]
        sizes = bench.study[bench.current].sizes if known else bench.planner.plan.reductions
        self.info = {
            "original": bench.model.name,
            "current": bench.current,
            "loading": loading,
            "tuned": bool(known and bench.study[bench.current].tuning),
            "parameters": [bench.planner.before.model, sizes.get("parameters_after", bench.planner.before.model)],
            "scores": {name: [s["wer"], s["wer_low"], s["wer_high"]] for name, s in scores.items()},
            "metric": next((s.get("metric", "wer") for s in scores.values()), "wer").upper(),
            "folder": (Path("models") / f"{bench.model.name}-{bench.current or 'plan'}").as_posix(),
            "can_save": bench.matching,
        }

    def do_save(self, folder: str, form: str = "transformers") -> None:
        """Save the small model in a folder, in one of `FORMS`, in the background."""
        small = self.workbench.small
        if not self.workbench.matching:
            raise InputError("There is no compressed model of this plan yet; make a try, or go back to one.")
        if not folder.strip():
            raise InputError("Name a folder to save the model in.")
        if form not in FORMS:
            raise InputError(f"{form!r} is nothing to save for; choose {', '.join(FORMS)}.")
        self.saved = ""

        def work(_: Any) -> str:
            _, code, how = FORMS[form]
            path = export(small, folder.strip(), **how) if how else small.save_pretrained(folder.strip())
            return code.format(path.as_posix()).replace("'", '"')

        self.workbench.worker.submit(f"Save {folder}", work, self._saved)

    def _saved(self, code: str) -> None:
        self.saved = code

    def summary(self) -> str:
        return f"<p>{html.escape(self.info['original'])}: {html.escape(self.info['current'] or 'a new plan')}</p>"
