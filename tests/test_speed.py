"""The speed table: what it holds, and that every runtime does the work it is timed for."""

from __future__ import annotations

import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets import speed
from adaptwin_widgets.cost import cost


@pytest.fixture(scope="module")
def small(tiny_en):
    return aw.compress(tiny_en, aw.RankPlan.for_budget(aw.spectra(tiny_en), encoder=0.5, decoder=0.3))


def test_a_row_for_everything_and_ratios_to_the_first(tiny_en, small):
    table = aw.speed_table(
        {"original": tiny_en, "small": small}, runtimes=("torch", "onnx"), dtypes=("float32",), batch_sizes=(1, 2),
        repeats=1,
    )  # fmt: skip
    assert list(table["model"]) == ["original", "small"] * 4
    assert list(table["runtime"]) == ["torch"] * 4 + ["onnx"] * 4 and list(table["batch"]) == [1, 1, 2, 2] * 2
    assert (table[["features_ms", "encoder_ms", "prompt_ms"]] > 0).all(axis=None)
    first, second = table.iloc[0], table.iloc[1]
    assert first.encoder_ratio == 1 and second.encoder_ratio == pytest.approx(second.encoder_ms / first.encoder_ms)
    assert second.megabytes == pytest.approx(cost(small.config, small.config.ranks).bytes() / 1e6)
    exported = table[table["runtime"] == "onnx"]
    assert exported.megabytes.iloc[1] < 0.9 * exported.megabytes.iloc[0]


def test_ctranslate2_writes_as_many_tokens_as_are_counted(tiny_en, tmp_path):
    pytest.importorskip("ctranslate2")
    features, _ = speed._features(tiny_en, 2)
    runner = speed._runner("ctranslate2", tiny_en, "float32", features, tmp_path / "m")
    runner.hear()
    assert [len(tokens) for tokens in runner.write(0)] == [1, 1]
    assert [len(tokens) for tokens in runner.write(speed.TOKENS)] == [speed.TOKENS + 1] * 2


def test_every_repeat_begins_anew(tiny_en):
    features, _ = speed._features(tiny_en, 1)
    runner = speed._runner("torch", tiny_en, "float32", features, None)
    with torch.inference_mode():
        runner.hear()
        runner.write(3)
        runner.write(3)
    assert runner.memory.length == len(tiny_en.prompt()) + 3


def test_what_cannot_be_timed_is_said(tiny_en):
    with pytest.raises(aw.InputError, match="'tflite' is no runtime here; choose torch, ctranslate2, onnx"):
        aw.speed_table({"original": tiny_en}, runtimes=("tflite",))
    with pytest.raises(aw.InputError, match="There is no model to time"):
        aw.speed_table({})
