"""Time and memory against the size of the model."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets.precision import release

ROOT = Path(__file__).parents[1]


def test_weights_stay_in_their_file_when_nothing_is_said(tiny_en: aw.Whisper, tmp_path: Path) -> None:
    """Memory of its own for the whole model would show: what belongs to no file, such as the tokenizer, grows by less
    than a third of it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("only Linux says what memory belongs to no file")

    def own() -> int:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    folder = tiny_en.save_pretrained(tmp_path / "model")
    aw.load(folder, dtype=None)  # what loading leaves behind the first time is not the model's
    before = own()
    model = aw.load(folder, dtype=None)
    assert own() - before < 4 * model.model.num_parameters() / 3
    assert model.model.dtype == torch.float32
    assert all(torch.equal(p, q) for p, q in zip(model.model.parameters(), tiny_en.model.parameters(), strict=True))


@pytest.mark.slow
def test_the_benchmark_measures_both_pieces_of_work(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "size.py", "--json", "--model", "tiny", "base"]
    done = subprocess.run(
        [*command, "--picture", tmp_path / "size.png"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout)
    tiny, base = found["models"]
    assert tiny["parameters"] == 37_760_640 and base["parameters"] == 72_593_920
    for row in (tiny, base):
        model = 4 * row["parameters"] / 2**30
        assert model < row["spectra"]["peak_gib"] < 1 + 2.5 * model
        assert row["compress"]["peak_gib"] < 1 + 2.5 * model
        assert set(row["compress"]["stages"]) == {"load", "spectra", "plan", "compress", "save"}
    times = base["parameters"] / tiny["parameters"]
    assert set(found["growth"]) == {"spectra", "compress"}
    for kind, exponents in found["growth"].items():
        for what, exponent in exponents.items():  # seconds as well, though a busy machine may need fewer for base
            assert base[kind][what] / tiny[kind][what] == pytest.approx(times**exponent)
        assert exponents["peak_gib"] > 0
    assert (tmp_path / "size.png").stat().st_size > 10_000


def test_an_accelerators_memory_is_given_back_and_cycles_with_it(monkeypatch: pytest.MonkeyPatch):
    class Held:
        pass

    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(alive() is None))
    cycle = Held()
    cycle.itself, alive = cycle, weakref.ref(cycle)  # type: ignore[attr-defined]
    del cycle
    release(torch.device("cpu"))
    assert not given_back
    release(torch.device("cuda"))
    assert given_back == [True]
