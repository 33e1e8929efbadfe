"""The recorder: read prompts into the microphone, hear them again, and have a corpus of one's own voice."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import traitlets

from adaptwin_widgets import takes
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.sound import to_wav
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.worker import Task, Worker


class Recorder(View):
    """Read sentences aloud; every take is checked and appended to a corpus in a folder on this machine.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> recorder = aw.Recorder(aw.load("tiny.en"), "speech/ann", speaker="ann")              # doctest: +SKIP
    >>> recorder                                                                             # doctest: +SKIP
    >>> mine, dev = recorder.corpus.split(0.8, by="prompt")                                  # doctest: +SKIP

    model: listens to each take and says when it heard something else. folder: of the corpus; one that holds takes
    already is gone on with. prompts: sentences to read, each once; without them, 120 that come along, ten minutes of
    speech. Clipped, silent and too long takes are refused; one in which the model heard other words may be kept all
    the same.
    Recordings go nowhere but to the kernel, and from there into the folder.

    Raises InputError for prompts that are empty or given twice, and for a folder whose manifest cannot be read.
    """

    _esm = source("dom.js") + source("parts.js") + source("recorder.js")
    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)  # of the prompt that is shown
    taken = traitlets.Dict().tag(sync=True)  # by prompt: the seconds of its take
    verdict = traitlets.Dict().tag(sync=True)  # on the last take: state, prompt, problem, heard, seconds, level
    where = traitlets.Unicode().tag(sync=True)
    longest = traitlets.Float(takes.LONGEST).tag(sync=True)

    def __init__(
        self,
        model: Whisper,
        folder: str | Path,
        *,
        speaker: str = "me",
        prompts: Sequence[str] | None = None,
        worker: Worker | None = None,
        **traits: Any,
    ):
        given = [text.strip() for text in (takes.prompts() if prompts is None else prompts)]
        if not given or not all(given) or len(set(given)) < len(given):
            raise InputError("The prompts have to be sentences, each given once; at least one.")
        super().__init__(prompts=given, **traits)
        self.model, self.takes = model, takes.Takes(folder, speaker)
        self.worker = worker or Worker()
        self.where = self.takes.folder.as_posix()
        self._doubtful: tuple[Any, str] | None = None  # a take that waits for its reader's word
        self._checking: Task | None = None
        self.worker.observe(self._checked, "revision")
        self._show_taken()
        self.index = next((i for i, text in enumerate(given) if text not in self.taken), 0)

    @property
    def corpus(self) -> Corpus:
        """All takes so far, those of earlier days in the same folder included."""
        return self.takes.corpus

    def _receive(self, widget: Any, content: dict, buffers: list) -> None:
        if buffers and isinstance(content, dict) and content.get("do") == "take":
            self.guard(self.take)(bytes(buffers[0]), int(content.get("rate", 0)), int(content.get("index", -1)))
            return
        super()._receive(widget, content, buffers)

    def take(self, data: bytes, rate: int, index: int) -> None:
        """Check one take in the background, and keep it if it is good; data: float32 samples at this rate."""
        if not 0 <= index < len(self.prompts):
            raise InputError("That take belongs to no prompt; reload the page and record again.")
        prompt, self._doubtful = self.prompts[index], None
        samples = takes.from_microphone(data, rate)
        self.verdict = {"state": "checking", "prompt": prompt}

        def work(_: Any) -> takes.Verdict:
            found = takes.check(samples, prompt, self.model)
            if found.good:
                self.takes.keep(samples, prompt)
            return found

        def then(found: takes.Verdict) -> None:
            self._doubtful = (samples, prompt) if found.doubtful else None
            self._tell(prompt, found)

        self._checking = self.worker.submit(f"Check “{prompt[:30]}”", work, then, quiet=True)
        self._checked()  # it may be over by now

    def _checked(self, _: Any = None) -> None:
        """A check that was stopped, or went wrong, is over as well: say so, and let the sentence be read again."""
        task = self._checking
        if task is None or not task.finished:
            return
        self._checking = None
        if task.state != "done":
            self.verdict = {}
        if task.state == "failed":
            self.error = {"sentence": f"The take could not be checked or kept: {task.error}"}

    def close(self) -> None:
        if hasattr(self, "worker"):
            self.worker.unobserve(self._checked, "revision")
            del self.worker
        super().close()

    def do_keep(self) -> None:
        """Keep the last take though the model heard other words."""
        if self._doubtful is None:
            raise InputError("There is no take to keep; record one.")
        (samples, prompt), self._doubtful = self._doubtful, None
        self.takes.keep(samples, prompt)
        self._show_taken()
        self.verdict = {**self.verdict, "state": "kept", "problem": ""}

    def do_show(self, index: int) -> None:
        """Go to another prompt."""
        self.index = max(0, min(int(index), len(self.prompts) - 1))

    def do_replay(self, index: int) -> None:
        """Send the take of a prompt to the page, as WAV."""
        kept = self.takes.of(self.prompts[index])
        if kept is None:
            raise InputError("This sentence was not recorded yet.")
        self.send({"replay": index}, [to_wav(kept.samples())])

    def _tell(self, prompt: str, found: takes.Verdict) -> None:
        self._show_taken()
        self.verdict = {
            "state": "kept" if found.good else "doubtful" if found.doubtful else "refused",
            "prompt": prompt, "problem": found.problem, "heard": found.heard,
            "seconds": round(found.seconds, 2), "level": round(found.level, 1),
        }  # fmt: skip

    def _show_taken(self) -> None:
        self.taken = {u.text: u.duration for u in self.takes.utterances}

    def summary(self) -> str:
        """How much was recorded, for a page without a kernel."""
        corpus = self.corpus
        return f"<p>{len(corpus)} takes of {html.escape(corpus.name)}, {corpus.seconds / 60:.1f} minutes.</p>"
