"""Work in pieces: the same records and curves whoever does the pieces, and whoever is lost on the way."""

import importlib
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context

import numpy as np
import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import Twin
from adaptwin_widgets.pieces import PREFIX, Crew, executor_of, turn
from adaptwin_widgets.sensitivity import cached, fingerprint
from adaptwin_widgets.stored import read_spectra, read_statistics, write_spectra, write_statistics

TIMES = ("time", "seconds")


@pytest.fixture(scope="module")
def seen(tiny_en):
    """A few clips with their statistics and spectra."""
    demo = aw.demo_speech()
    recipe = aw.Recipe(tiny_en, [demo["target_train"][:6]], allocation="energy", windows=2)
    assert recipe.spectra.aware
    return recipe, {"target": demo["target_dev"][:1]}


def timeless(value):
    """A record without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return value


def records(study):
    return [timeless(asdict(record)) for record in aw.Study(study.folder).records]


def weights(study, name):
    return study.model(name).model.state_dict()


def assert_same(local, other):
    assert records(local) == records(other)
    for record in local.records[1:]:
        first, second = weights(local, record.name), weights(other, record.name)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for evaluation in local.about["evaluations"]:
            assert local.hypotheses(record.name, evaluation) == other.hypotheses(record.name, evaluation)
    left = [other.folder.rglob(name) for name in (f"{PREFIX}*", "record.json", "try.json", "tuning.safetensors")]
    assert not any(map(list, left))


def test_statistics_and_spectra_come_back_bit_for_bit(seen, tmp_path):
    recipe, _ = seen
    write_statistics(recipe.stats, tmp_path / "stats.safetensors")
    write_spectra(recipe.spectra, tmp_path / "spectra.safetensors")
    stats = read_statistics(tmp_path / "stats.safetensors")
    twins = read_spectra(tmp_path / "spectra.safetensors")
    assert (stats.source, stats.speech, stats.seconds) == (
        recipe.stats.source, recipe.stats.speech, recipe.stats.seconds
    )  # fmt: skip
    for kind in ("attention", "neurons"):
        ours, theirs = getattr(recipe.stats, kind), getattr(stats, kind)
        assert list(ours) == list(theirs)
        for key, moments in ours.items():
            for name, value in vars(moments).items():
                other = getattr(theirs[key], name)
                assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert all(torch.equal(value, vars(stats.output)[name]) for name, value in vars(recipe.stats.output).items())
    assert (twins.config, twins.source, twins.aware) == (recipe.spectra.config, recipe.spectra.source, True)
    for name in ("values", "weight_only"):
        ours, theirs = getattr(recipe.spectra, name), getattr(twins, name)
        assert list(ours) == list(theirs) and all(np.array_equal(ours[t], theirs[t]) for t in ours)
    assert all(torch.equal(order, twins.order[twin]) for twin, order in recipe.spectra.order.items())
    (tmp_path / "stats.safetensors").write_bytes(b"half of it")
    with pytest.raises(aw.InputError, match=r"stats\.safetensors: no statistics"):
        read_statistics(tmp_path / "stats.safetensors")


def test_a_study_on_processes_equals_the_local_one(seen, tmp_path):
    recipe, evaluations = seen
    options = {"points": [0.3, 0.15], "recipe": recipe, "threads": 1}  # tuned in the slow test: a step takes seconds
    local = aw.run_study(recipe.model, recipe.speech, evaluations, folder=tmp_path / "local", **options)
    job = aw.Job()
    other = aw.run_study(
        recipe.model, recipe.speech, evaluations, folder=tmp_path / "other", executor=1, job=job, **options
    )
    assert [record.name for record in other.records] == ["original", "encoder-15", "encoder-30"]
    assert other["encoder-30"].settings["threads"] == 1 and other["encoder-30"].versions["torch"]
    assert_same(local, other)
    assert (job.text, job.done, job.total) == ("Points of the study", 2, 2)
    for name, value in (("windows", 4), ("rough", 0.5)):
        changed = {**options, "recipe": aw.Recipe(recipe.model, recipe.speech, **{**recipe.options, name: value})}
        with pytest.raises(aw.InputError, match=f"studies (an)?other {name}"):
            aw.run_study(recipe.model, recipe.speech, evaluations, folder=local.folder, **changed)


def test_sensitivity_on_threads_equals_the_plain_one(seen, tiny_en, tmp_path):
    recipe, _ = seen
    left = [Twin("encoder", 3, "query_key"), Twin("encoder", 1, "feed_forward"), Twin("cross", 0, "value_output")]
    known = {twin: [(0.5, 0.25)] for twin in recipe.spectra.values if twin not in left}
    mark = fingerprint(recipe.spectra)

    def measure(name, **options):
        aw.Sensitivity(dict(known), mark).save(cached(tmp_path / name, mark, (0.5,), 1))  # those are not done again
        options |= {"windows": 1, "levels": (0.5,), "cache": tmp_path / name}
        return aw.measure_sensitivity(tiny_en, recipe.spectra, recipe.stats, recipe.speech, **options)

    plain = measure("plain")
    with ThreadPoolExecutor(2) as pool:
        other = measure("threads", executor=pool)
    assert plain == other and list(plain.curves) == list(other.curves) and set(plain.together) == {"encoder", "decoder"}
    assert all(plain.curves[twin] != [(0.5, 0.25)] for twin in left) and len(plain.curves) == len(known) + 3
    assert aw.Sensitivity.load(cached(tmp_path / "threads", mark, (0.5,), 1)) == other


@pytest.fixture(scope="module")
def cut(seen):
    """A model with one compressed layer a side, and how its layers are tuned in the tests."""
    recipe, _ = seen
    plan = recipe.plan(encoder=0.3, decoder=0.1)
    ranks = {twin: r for twin, r in plan.ranks.items() if twin.startswith(("encoder.2", "cross.1"))}
    small = recipe.compress(aw.RankPlan(ranks, plan.shape))
    # Five clips are soon learned by heart: look often.
    settings = aw.Settings(learning_rate=2e-5, check_every=2, transcripts=0.0)
    options = {"teacher": recipe.model, "speech": recipe.speech, "steps": 8, "threads": 1, "settings": settings}
    return small, options


def states(whisper):
    return whisper.model.state_dict()


def test_layers_tuned_on_processes_equal_those_tuned_here(cut, tmp_path):
    small, options = cut
    before = {name: value.clone() for name, value in states(small).items()}
    here = aw.tune_layers(small, **options)
    there = aw.tune_layers(small, executor=1, folder=tmp_path, **options)
    assert all(torch.equal(value, states(there)[name]) for name, value in states(here).items())
    assert here.notes["layerwise"]["layers"] == there.notes["layerwise"]["layers"]
    moved = {name for name, value in states(here).items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("model.encoder.layers.2.", "model.decoder.layers.1.")) for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in states(small).items())
    losses = here.notes["layerwise"]["layers"]
    assert list(losses) == ["encoder.2", "decoder.1"] and not list(tmp_path.iterdir())
    assert all(row["held_out_best"] < row["held_out_before"] for row in losses.values())


def test_a_cancelled_layer_is_no_result(cut):
    small, options = cut
    job = aw.Job()
    job.listeners.append(lambda job: job.cancel() if job.text == "Tuning" else None)
    with pytest.raises(aw.Cancelled):
        aw.tune_layers(small, job=job, **options)


ERRANDS = """
import os, signal, time
from pathlib import Path

def lose(folder, number, marker):
    if number == 1 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()

def die(folder):
    os.kill(os.getpid(), signal.SIGKILL)

def go_on(folder, marker):
    from adaptwin_widgets.pieces import _Piece
    job = _Piece(folder)
    Path(marker).touch()
    try:
        while True:
            job.update(0)
            time.sleep(0.05)
    finally:
        Path(marker).unlink()
"""


@pytest.fixture
def errands(tmp_path, monkeypatch):
    """Pieces in a module that other processes find as well."""
    (tmp_path / "errands.py").write_text(ERRANDS)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("errands")


def test_a_lost_process_costs_only_its_piece(errands, tmp_path):
    with Crew(1, tmp_path) as crew:
        found = list(crew.run(errands.lose, [(n, str(tmp_path / "lost")) for n in range(3)], aw.Job(), "Pieces"))
    assert [number for number, _ in found] == [0, 1, 2] and (tmp_path / "lost").is_file()
    pids = [pid for _, pid in found]
    assert pids[0] != pids[1] == pids[2]  # the first was not done again
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        Crew(pool, tmp_path) as crew,
        pytest.raises(aw.InputError, match="The workers were lost .* make the same call again"),
    ):
        list(crew.run(errands.die, [()], aw.Job(), "Pieces"))
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_cancelling_stops_pieces_that_run(errands, tmp_path):
    job, marker = aw.Job(), tmp_path / "running"

    def cancel_once_it_runs(job):
        if marker.exists():
            job.cancel()

    job.listeners.append(cancel_once_it_runs)
    with ThreadPoolExecutor(1) as pool, pytest.raises(aw.Cancelled), Crew(pool, tmp_path) as crew:
        (crew.folder / "task.json").touch()
        list(crew.run(errands.go_on, [(str(marker),)] * 2, job, "Pieces"))
    assert not marker.exists() and not crew.folder.exists()


def test_what_cannot_be_is_one_sentence(tmp_path):
    with pytest.raises(aw.InputError, match="0 processes"):
        Crew(0, tmp_path)
    with (
        ProcessPoolExecutor(1, get_context("fork")) as pool,
        pytest.raises(aw.InputError, match="forks can hang"),
    ):
        Crew(pool, tmp_path)
    with pytest.raises(aw.InputError, match="one of the two"):
        executor_of(2, "tcp://127.0.0.1:8786")
    with pytest.raises(aw.InputError, match="a folder that all machines share"), turn(str(tmp_path / "elsewhere")):
        pass


@contextmanager
def two_workers(folder):
    """A client of a dask cluster of two worker processes."""
    distributed = pytest.importorskip("distributed")
    place = {"dashboard_address": None, "local_directory": str(folder / "dask")}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **place) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_layers_tuned_on_a_dask_cluster_that_loses_a_worker(cut, tmp_path):
    small, options = cut
    killed = []
    with two_workers(tmp_path) as client:

        def kill(job):
            at_work = [name for name, pieces in client.processing().items() if pieces]
            if not killed and at_work and job.text == "Tuning layers":
                killed.extend(client.run(os.getpid, workers=at_work[:1]).values())
                os.kill(killed[0], signal.SIGKILL)

        there = aw.tune_layers(
            small, executor=client.get_executor(), folder=tmp_path, job=aw.Job(listeners=[kill]), **options
        )
    assert len(killed) == 1
    here = aw.tune_layers(small, **options)
    assert all(torch.equal(value, states(there)[name]) for name, value in states(here).items())


@pytest.fixture(scope="module")
def six(seen, tmp_path_factory):
    """Six tuned points, made by this process alone."""
    recipe, evaluations = seen
    fractions = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    options = {"points": fractions, "steps": 2, "recipe": recipe, "threads": 1}
    folder = tmp_path_factory.mktemp("six") / "local"
    return aw.run_study(recipe.model, recipe.speech, evaluations, folder=folder, **options), options


@pytest.mark.slow
@pytest.mark.parametrize("killing", [True, False])
def test_six_points_on_a_dask_cluster_equal_the_local_ones(seen, six, killing, tmp_path):
    """Two worker processes; one is killed at work on a point once the first record is there, or none."""
    (recipe, evaluations), (local, options) = seen, six
    killed = []
    with two_workers(tmp_path) as client:

        def kill(job):
            if not killing or killed or job.text != "Points of the study" or not 1 <= job.done < 5:
                return
            at_work = [name for name, pieces in client.processing().items() if pieces]
            if at_work and (tmp_path / "study" / "records.jsonl").read_text().count("\n") > 1:
                killed.extend(client.run(os.getpid, workers=at_work[:1]).values())
                os.kill(killed[0], signal.SIGKILL)

        study = aw.run_study(
            recipe.model, recipe.speech, evaluations, folder=tmp_path / "study", executor=client.get_executor(),
            job=aw.Job(listeners=[kill]), **options,
        )  # fmt: skip
    assert len(killed) == killing
    assert [record.tuning["steps"] for record in study.records[1:]] == [2] * 6
    assert_same(local, study)
