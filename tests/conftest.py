"""What every test shares: a home of its own, a fixed number of threads, the speech and the model."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_SPEECH = ROOT.parent / "shared" / "speech"

# Before anything imports torch, huggingface_hub or jupyter, which read these once. A test must neither see
# nor touch what the user keeps at home; sums in float32 depend on the number of threads.
HOME = Path(tempfile.mkdtemp(prefix="adaptwin-tests-"))
os.environ.update(
    {
        "XDG_CACHE_HOME": str(HOME / "cache"),
        "XDG_CONFIG_HOME": str(HOME / "config"),
        "XDG_DATA_HOME": str(HOME / "data"),
        "HF_HOME": str(HOME / "huggingface"),
        "JUPYTER_CONFIG_DIR": str(HOME / "jupyter"),
        "JUPYTER_DATA_DIR": str(HOME / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(HOME / "jupyter-runtime"),
        "IPYTHONDIR": str(HOME / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": "1000",  # as the package sets it where it is imported before torch
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "2")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_speech() -> Path:
    """The folder with `kathleen` and `librispeech`, beside the checkout on developers' machines."""
    if not (SHARED_SPEECH / "kathleen" / "dev.jsonl").is_file():
        pytest.skip("the test speech ../shared/speech is not on this machine")
    return SHARED_SPEECH


@pytest.fixture(scope="session")
def tiny_en():
    """Whisper tiny.en in float32 from the offline package. Shared by all tests: copy it to change it."""
    import adaptwin_widgets as aw

    return aw.load("tiny.en")


@pytest.fixture(scope="session")
def ragged(tiny_en):
    """A small tiny.en that still writes: ragged heads and fewer neurons everywhere, one layer with small heads only,
    and in every layer of the encoder a head less, in one two."""
    import adaptwin_widgets as aw
    from adaptwin_widgets.anatomy import Twin

    stats = aw.observe(tiny_en, aw.demo_speech()["target_train"].head(40))
    twins = aw.spectra(tiny_en, stats)
    plan = aw.RankPlan.for_budget(twins, encoder=0.08, decoder=0.1)
    for twin in ("encoder.2.query_key", "encoder.2.value_output"):
        plan.ranks[twin] = [min(rank, 48) for rank in plan.ranks[twin]]
    for layer in range(4):
        values = twins.values[Twin("encoder", layer, "value_output")]
        for head in (values**2).sum(1).argsort()[: 1 + (layer == 1)]:
            for kind in ("query_key", "value_output"):
                plan.ranks[f"encoder.{layer}.{kind}"][head] = 0
    return aw.compress(tiny_en, plan, stats)
