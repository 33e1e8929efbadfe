"""adaptwin_widgets: see where a Whisper is redundant, make it smaller, adapt it to one speaker."""

from adaptwin_widgets.asterisk import asterisk_speech
from adaptwin_widgets.compress import compress
from adaptwin_widgets.demo import demo_speech
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Cancelled, Job
from adaptwin_widgets.model import TwinWhisperConfig, TwinWhisperForConditionalGeneration
from adaptwin_widgets.observe import Statistics, observe
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.score import Score, evaluate, paired_difference
from adaptwin_widgets.sensitivity import Sensitivity, measure_sensitivity
from adaptwin_widgets.spectra import Spectra, spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.study import Study, run_study
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.tune import Settings, tune
from adaptwin_widgets.whisper import Whisper, load

__version__ = "0.1.0"

__all__ = [
    "Cancelled", "Corpus", "InputError", "Job", "RankPlan", "Recipe", "Score", "Sensitivity", "Settings", "Spectra",
    "Statistics", "Study", "TwinWhisperConfig", "TwinWhisperForConditionalGeneration", "Whisper", "asterisk_speech",
    "compress", "demo_speech", "evaluate", "load", "measure_sensitivity", "observe", "paired_difference", "run_study",
    "spectra", "transcribe", "tune",
]  # fmt: skip
