"""adaptwin_widgets: see where a Whisper is redundant, make it smaller, adapt it to one speaker."""

import os
from importlib import import_module
from typing import Any

# Threads of torch that wait for each other keep their processor for some milliseconds (GNU OpenMP, on Linux); where
# another program wants one, every small operation takes as long: a tune stands still beside a busy browser. A hundredth
# of that spin is as fast on a quiet machine (benchmarks/threads.py). Torch reads this when it is first imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"

from adaptwin_widgets.asterisk import asterisk_speech
from adaptwin_widgets.clock import measure_times
from adaptwin_widgets.compress import compress
from adaptwin_widgets.demo import demo_speech
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.export import export
from adaptwin_widgets.jobs import Cancelled, Job
from adaptwin_widgets.layerwise import tune_layers
from adaptwin_widgets.mismatch import SpeechCheck, check_speech
from adaptwin_widgets.model import TwinWhisperConfig, TwinWhisperForConditionalGeneration
from adaptwin_widgets.observe import Statistics, observe
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.prices import MULTIPLY_ADDS, Times
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.report import SpeechReport
from adaptwin_widgets.score import Score, evaluate, paired_difference
from adaptwin_widgets.sensitivity import Sensitivity, measure_sensitivity
from adaptwin_widgets.settings import Settings
from adaptwin_widgets.spectra import Spectra, spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.speed import speed_table
from adaptwin_widgets.study import Study
from adaptwin_widgets.sweep import run_study
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.tune import tune
from adaptwin_widgets.vocabulary import Vocabulary, choose_vocabulary
from adaptwin_widgets.whisper import Whisper, load
from adaptwin_widgets.workbench import Workbench
from adaptwin_widgets.worker import Worker

__version__ = "0.1.0"

# The widgets load when they are asked for, so that scripts need no Jupyter.
WIDGETS = {
    "AtHand": "at_hand", "Frontier": "frontier", "Jobs": "jobs", "Listen": "listen", "RankPicker": "picker",
    "Recorder": "recorder", "SpectraView": "spectra", "Studio": "studio", "Tuner": "tuner",
}  # fmt: skip

__all__ = [
    "MULTIPLY_ADDS", "AtHand", "Cancelled", "Corpus", "Frontier", "InputError", "Job", "Jobs", "Listen", "Planner",
    "RankPicker", "RankPlan", "Recipe", "Recorder", "Score", "Sensitivity", "Settings", "Spectra", "SpectraView",
    "SpeechCheck", "SpeechReport", "Statistics", "Studio", "Study", "Times", "Tuner", "TwinWhisperConfig",
    "TwinWhisperForConditionalGeneration", "Vocabulary", "Whisper", "Workbench", "Worker", "asterisk_speech",
    "check_speech", "choose_vocabulary", "compress", "demo_speech", "evaluate", "expand", "export", "load",
    "measure_sensitivity", "measure_times", "observe", "paired_difference", "run_study", "spectra", "speed_table",
    "transcribe", "tune", "tune_layers",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in WIDGETS:
        return getattr(import_module(f"adaptwin_widgets.widgets.{WIDGETS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
