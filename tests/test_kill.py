"""A tune that is killed again and again, at any moment, ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import safetensors
import safetensors.torch
import torch

import adaptwin_widgets as aw

KILLS = 20
SCRIPT = """
import sys
import torch
import adaptwin_widgets as aw
import adaptwin_widgets.run
torch.set_num_threads(1)
adaptwin_widgets.run.CHECKPOINT_SECONDS = 0.0  # after every step, so that many a kill falls into a save
small, state, output = sys.argv[1:]
demo = aw.demo_speech()
speech = [demo["target_train"][:6], demo["general_train"][:6]]
from pathlib import Path
tuned = aw.tune(
    aw.load(small), teacher=aw.load("tiny.en"), speech=speech, steps=24, checkpoint=state,
    resume=Path(state).is_file(), settings=aw.Settings(batch_size=1, check_every=6, seed=3),
)
tuned.save_pretrained(output)
"""


@pytest.mark.slow
def test_twenty_kills_change_nothing(tiny_en, tmp_path):
    demo = aw.demo_speech()
    stats = aw.observe(tiny_en, demo["target_train"][:6], windows=4)
    plan = aw.RankPlan.for_budget(aw.spectra(tiny_en, stats), encoder=0.3)
    aw.compress(tiny_en, plan, stats).save_pretrained(tmp_path / "small")

    def start(name):
        arguments = [str(tmp_path / part) for part in ("small", f"{name}.tuning", name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment, start_new_session=True)

    def reached():
        """The steps in the checkpoint: whatever the moment of a kill, what is there can be read."""
        if not state.is_file():
            return 0
        with safetensors.safe_open(state, "pt") as opened:
            return json.loads(opened.metadata()["run"])["progress"]["steps"]

    began = time.monotonic()
    assert start("unbroken").wait() == 0
    whole = time.monotonic() - began
    moments, state, kills, during = random.Random(4), tmp_path / "killed.tuning", 0, 0

    def same():
        first, second = (
            safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in ("unbroken", "killed")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    steps = 0
    while kills < KILLS:
        run = start("killed")
        if kills % 4 < 3:  # between its first step and its last; else while it starts, if the machine is not quicker
            while run.poll() is None and reached() == steps:
                time.sleep(0.02)
        time.sleep(moments.uniform(0, 1.0 if kills % 4 < 3 else 0.5 * whole))
        if run.poll() is not None:  # it was quicker than the knife: this one is whole, the next begins anew
            assert run.returncode == 0
            same()
            state.unlink()
            steps = 0
            continue
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        kills += 1
        now = reached()
        assert now >= steps  # it never goes back
        during, steps = during + (now > steps), now
    assert during >= KILLS // 2
    assert start("killed").wait() == 0
    same()
