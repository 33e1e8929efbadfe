"""Exports: what another runtime reads is the same model, compressed or not."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from runtimes import ctranslate2_alone, faster_whisper, filled_up

import adaptwin_widgets as aw
from adaptwin_widgets import ct2_reader
from adaptwin_widgets.ct2_writer import dimensions
from adaptwin_widgets.export import FILES
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.onnx_engine import OnnxEngine
from adaptwin_widgets.packed import packed_attention
from adaptwin_widgets.score import score_texts

pytest.importorskip("ctranslate2")


@pytest.fixture
def small(ragged):
    return ragged


@pytest.fixture(scope="module")
def clips():
    return aw.demo_speech()["target_dev"].head(4)


def test_padding_a_head_changes_nothing(small):
    torch.manual_seed(0)
    packed = packed_attention(small.model.model.encoder.layers[0].self_attn)
    wide = packed.padded(64)
    x = torch.randn(5, small.config.d_model)

    def scores(p):
        q = (x @ p.q_weight.T + p.q_bias).unflatten(1, (p.heads, p.key_dim))
        k = (x @ p.k_weight.T).unflatten(1, (p.heads, p.key_dim))
        return torch.einsum("qhd,khd->hqk", q, k), (x @ p.v_weight.T) @ p.out_weight.T

    for ours, theirs in zip(scores(packed), scores(wide), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_factors_of_a_twin_are_of_one_size(small):
    for layer in (*small.model.model.encoder.layers, *small.model.model.decoder.layers):
        packed = packed_attention(layer.self_attn)
        used = packed.v_weight.norm(dim=1) > 0  # the rest is padding
        torch.testing.assert_close(packed.v_weight.norm(dim=1)[used], packed.out_weight.norm(dim=0)[used])
        torch.testing.assert_close(packed.q_weight.norm(dim=1), packed.k_weight.norm(dim=1))


@pytest.mark.parametrize("to", ["ctranslate2", "onnx"])
def test_eight_bits_say_what_32_say(small, clips, tmp_path, to):
    """Where one factor of a twin holds all its size, eight bits keep only the largest, and the model writes "."."""

    def errors(texts: list[str]) -> int:
        score = score_texts([c.text for c in clips], texts, [c.id for c in clips])
        return score.insertions + score.deletions + score.substitutions

    ours = errors([t.text for t in aw.transcribe(small, clips, dtype="float32")])
    folder = aw.export(small, tmp_path / to, to=to, dtype="int8")
    if to == "onnx":
        texts = [t.text for t in aw.transcribe(small, clips, engine=OnnxEngine(folder))]
    else:
        texts = ctranslate2_alone(folder, "int8", small)(clips)
    assert errors(texts) <= ours + 2


def test_an_original_comes_back_bit_for_bit(tiny_en, tmp_path):
    folder = aw.export(tiny_en, tmp_path / "ct2", dtype="float16")
    assert {p.name for p in folder.iterdir()} == {
        "model.bin", "config.json", "vocabulary.json", "tokenizer.json", "preprocessor_config.json",
    }  # fmt: skip
    read = ct2_reader.read_variables((folder / "model.bin").read_bytes(), "model.bin")
    state = ct2_reader.state_dict(read, "model.bin")
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.float(), tiny_en.model.state_dict()[name], rtol=0, atol=0)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["suppress_ids"] == tiny_en.model.generation_config.suppress_tokens
    assert len(json.loads((folder / "vocabulary.json").read_text())) == tiny_en.config.vocab_size


def test_a_compressed_model_writes_the_same_text(tiny_en, small, clips, tmp_path):
    folder = aw.export(small, tmp_path / "ct2", dtype="float32")
    ours = [t.text for t in aw.transcribe(small, clips, dtype="float32")]
    assert ctranslate2_alone(folder, "float32", small)(clips) == ours
    assert dimensions(small)["encoder.2"] == 48
    written = ct2_reader.read_variables((folder / "model.bin").read_bytes(), "model.bin")
    assert int(written["encoder/num_heads"]) == 5 and int(written["decoder/num_heads"]) == 6
    assert len(written["encoder/layer_2/self_attention/linear_0/weight"]) == 3 * 5 * 48, "heads that are gone"
    original = (aw.export(tiny_en, tmp_path / "original", dtype="float32") / "model.bin").stat().st_size
    assert (folder / "model.bin").stat().st_size < original - 2e6


def test_faster_whisper_reads_it(tiny_en, clips, tmp_path):
    folder = aw.export(tiny_en, tmp_path / "ct2", dtype="float32")
    assert faster_whisper(folder, "float32")(clips) == [t.text for t in aw.transcribe(tiny_en, clips, dtype="float32")]


def test_a_clip_filled_up_is_heard_as_whisper_hears_it(small, clips, tmp_path):
    """The how-to page says so of faster-whisper, which else writes zeros behind the spectrogram."""
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.feature_extractor import FeatureExtractor

    ours = log_mel([clips[0].samples()], small.processor.feature_extractor)[0].numpy()
    heard = []
    for samples in (clips[0].samples(), filled_up(clips[0].samples())):
        frames = FeatureExtractor()(samples)[:, :-1]
        heard.append(np.abs(pad_or_trim(frames) - ours).max())
    assert heard[0] > 0.1 and heard[1] < 1e-3
    folder = aw.export(small, tmp_path / "ct2", dtype="float32")
    texts = [t.text for t in aw.transcribe(small, clips, dtype="float32")]
    assert faster_whisper(folder, "float32", filled=True)(clips) == texts


def test_words_get_their_times(small, clips, tmp_path):
    from faster_whisper import WhisperModel

    folder = aw.export(small, tmp_path / "ct2", dtype="int8")
    model = WhisperModel(str(folder), device="cpu", compute_type="int8")
    segments, _ = model.transcribe(clips[0].samples(), language="en", word_timestamps=True)
    words = [word for segment in segments for word in segment.words]
    times = np.array([[word.start, word.end] for word in words])
    assert len(words) > 3 and (times[:, 1] >= times[:, 0]).all() and times.max() <= clips[0].duration + 0.5


def test_heads_of_layers_that_are_not_there_are_left_out(tiny_en, tmp_path):
    """Distilled models name those of their teacher, and CTranslate2 would crash on them."""
    settings = copy.deepcopy(tiny_en.model.generation_config)
    model = copy.copy(tiny_en.model)
    model.generation_config = settings
    for named, written in (
        ([[25, 3], [2, 3], [3, 9]], [[2, 3]]),
        ([[25, 3]], [[layer, head] for layer in (2, 3) for head in range(6)]),
    ):
        settings.alignment_heads = named
        folder = aw.export(replace(tiny_en, model=model), tmp_path / str(len(named)), dtype="int8")
        assert json.loads((folder / "config.json").read_text())["alignment_heads"] == written


def test_a_failed_export_leaves_what_was_there(small, tmp_path, monkeypatch):
    folder = aw.export(small, tmp_path / "ct2", dtype="int8")
    before = (folder / "model.bin").read_bytes()
    monkeypatch.setattr("adaptwin_widgets.ct2_writer._vocabulary", lambda whisper: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        aw.export(small, folder)
    assert (folder / "model.bin").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["ct2"]


@pytest.mark.parametrize(("to", "dtype"), [("ctranslate2", "float32"), ("ctranslate2", "int8"), ("onnx", "int8")])
def test_an_export_leaves_the_model_as_it_is(tiny_en, tmp_path, to, dtype):
    """CTranslate2's own package works in place on the arrays that it is given."""
    before = {name: tensor.clone() for name, tensor in tiny_en.model.state_dict().items()}
    aw.export(tiny_en, tmp_path / "out", to=to, dtype=dtype)
    changed = [name for name, tensor in tiny_en.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not changed


@pytest.mark.parametrize("to", ["ctranslate2", "onnx"])
def test_an_export_killed_half_way_leaves_nothing_that_loads(tmp_path, to):
    """The process is killed while the weights are being written."""
    code = f"""
import os, signal, sys
import adaptwin_widgets as aw
from adaptwin_widgets import ct2_writer, onnx_writer
from adaptwin_widgets.onnx_graph import Graph
if {to!r} == "onnx":
    Graph.save = lambda *rest: os.kill(os.getpid(), signal.SIGKILL)  # the weights are there, the graph is not
else:
    ct2_writer._vocabulary = lambda whisper: os.kill(os.getpid(), signal.SIGKILL)
aw.export(aw.load("tiny.en"), {str(tmp_path / "out")!r}, to={to!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "out").exists()
    with pytest.raises(aw.InputError, match="There is no model folder"):
        aw.load(str(tmp_path / "out"))


def test_what_a_user_keeps_beside_an_export_stays(small, tmp_path):
    folder = aw.export(small, tmp_path / "mine", dtype="int8")
    mine = {"README.md": "how it was made", ".git/config": "[core]", "notes/today.txt": "work of years"}
    for name, text in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "link").symlink_to("notes")
    for to, gone in (("onnx", "model.bin"), ("ctranslate2", "encoder_model.onnx")):
        assert (folder / "vocabulary.json").exists() == (to == "onnx")
        aw.export(small, folder, to=to, dtype="int8")
        assert {name: (folder / name).read_text() for name in mine} == mine
        assert (folder / "link").is_symlink() and not (folder / gone).exists()
        assert {p.name for p in folder.iterdir()} - FILES == {"README.md", ".git", "notes", "link"}
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_exported_is_said(small, tmp_path):
    with pytest.raises(aw.InputError, match="'gguf' is no format to export to; choose ctranslate2"):
        aw.export(small, tmp_path / "x", to="gguf")
    with pytest.raises(aw.InputError, match="'int4' is no number format"):
        aw.export(small, tmp_path / "x", dtype="int4")
    with pytest.raises(aw.InputError, match="Tensor is no model"):
        aw.export(torch.ones(1), tmp_path / "x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("work of years")
    with pytest.raises(aw.InputError, match="is not empty and holds no export"):
        aw.export(small, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
