"""The ONNX export, run by onnxruntime: the same transcripts, compressed or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import adaptwin_widgets as aw
from adaptwin_widgets.onnx_graph import Graph, Weights
from adaptwin_widgets.onnx_writer import FILES, Attention

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from adaptwin_widgets.onnx_engine import OnnxEngine  # noqa: E402


@pytest.fixture(scope="module")
def clips():
    return aw.demo_speech()["target_dev"].head(4)


@pytest.fixture(scope="module")
def small(ragged):
    return ragged


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    return aw.export(small, tmp_path_factory.mktemp("onnx") / "small", to="onnx")


def texts(whisper, clips, **options):
    return [t.text for t in aw.transcribe(whisper, clips, **options)]


def test_onnxruntime_writes_the_same_text(small, folder, clips):
    assert texts(small, clips, engine=OnnxEngine(folder)) == texts(small, clips, dtype="float32")


def test_the_encoder_hears_the_same(small, folder):
    torch.manual_seed(0)
    features = torch.randn(1, small.config.num_mel_bins, 2 * small.config.max_source_positions)
    with torch.no_grad():
        ours = small.model.model.encoder(features).last_hidden_state
    session = onnxruntime.InferenceSession(folder / "encoder_model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"input_features": features.numpy()})
    torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-3, atol=1e-3)
    assert [Attention(Graph(None), layer.self_attn, "").packed.heads for layer in small.model.model.encoder.layers] == [
        5, 4, 5, 5,
    ], "heads that are gone take no time"  # fmt: skip


def test_files_and_names_are_those_of_the_hugging_face_exports(tiny_en, folder):
    assert {*FILES, "config.json", "generation_config.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    session = onnxruntime.InferenceSession(folder / "decoder_model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input_ids", "encoder_hidden_states"]
    layers = range(tiny_en.config.decoder_layers)
    presents = {f"present.{i}.{part}.{kind}" for i in layers for part in ("decoder", "encoder")
                for kind in ("key", "value")}  # fmt: skip
    assert {o.name for o in session.get_outputs()} == {"logits", *presents}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(" lemon cake").input_ids, skip_special_tokens=True).strip() == "lemon cake"


def test_a_multilingual_original_finds_its_language(clips, tmp_path):
    base = aw.load("base")
    engine = OnnxEngine(aw.export(base, tmp_path / "base", to="onnx"))
    found = aw.transcribe(base, clips.head(2), engine=engine)
    assert [t.language for t in found] == ["en", "en"]
    assert [t.text for t in found] == texts(base, clips.head(2), dtype="float32")


def test_int8_is_a_quarter_the_size_and_still_writes_words(small, folder, clips, tmp_path):
    eighth = aw.export(small, tmp_path / "int8", to="onnx", dtype="int8")
    sizes = [sum(p.stat().st_size for p in f.glob("*.data")) for f in (eighth, folder)]
    assert sizes[0] < 0.3 * sizes[1]
    words = [set(t.lower().split()) for t in texts(small, clips, engine=OnnxEngine(eighth))]
    expected = [set(t.lower().split()) for t in texts(small, clips, dtype="float32")]
    shared = sum(len(a & b) for a, b in zip(words, expected, strict=True))
    assert shared > 0.8 * sum(map(len, expected))


def test_int8_matrices_come_close(tmp_path):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 64)).astype(np.float32), rng.normal(size=(64, 32)).astype(np.float32)
    with (tmp_path / "w.data").open("wb") as file:
        graph = Graph(Weights(file, "w.data"), int8=True)
        graph.output(graph.linear(graph.input("x", [5, 64]), "w", w), "y", [5, 32])
        graph.save(tmp_path / "m.onnx")
    (y,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})
    assert np.abs(y - x @ w).max() < 0.02 * np.abs(x @ w).max()


def test_a_folder_with_a_missing_or_broken_file_says_which(folder, tmp_path):
    with pytest.raises(aw.InputError, match="no whole ONNX export: encoder_model.onnx is missing"):
        OnnxEngine(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "decoder_model.onnx").write_bytes(b"not a graph")
    with pytest.raises(aw.InputError, match="decoder_model.onnx cannot be read; export the model again"):
        OnnxEngine(tmp_path)
    (tmp_path / "decoder.data").unlink()
    with pytest.raises(aw.InputError, match="decoder.data is missing"):
        OnnxEngine(tmp_path)
