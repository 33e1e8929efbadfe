"""The model card beside a small model, and the way to a hub."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import HfApi

import adaptwin_widgets as aw
from adaptwin_widgets.card import CARD, MARK, model_card
from adaptwin_widgets.cost import cost


@pytest.fixture(scope="module")
def small(tiny_en):
    """Fewer ranks by the weights alone: nobody is going to listen to it."""
    made = aw.compress(tiny_en, aw.RankPlan.for_budget(aw.spectra(tiny_en), encoder=0.2))
    made.notes["scores"] = {"target": {"wer": 4.2, "wer_low": 3.1, "wer_high": 5.3, "utterances": 270}}
    made.notes["tuning"] = {"steps": 40, "seconds": 180.0, "audio_seconds_seen": 4200.0}
    return made


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_a_small_model_is_saved_with_its_card(small, tmp_path):
    card = (small.save_pretrained(tmp_path / "small") / CARD).read_text()
    assert metadata(card) == {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "base_model": "openai/whisper-tiny.en",
        "license": "mit",
        "tags": ["whisper", "low-rank", "adaptwin"],
    }
    sizes = cost(small.config), cost(small.config, small.config.ranks)
    assert f"| {sizes[0].encoder / 1e6:.2f} | {sizes[1].encoder / 1e6:.2f} | 20." in card
    assert "encoder −20%" in card and "| target | WER 4.20 | 3.10 to 5.30 | 270 |" in card
    assert "Tuned for 40 steps (3.0 minutes, 70 minutes of speech seen)" in card


def test_an_original_has_no_card(tiny_en, tmp_path):
    assert not (tiny_en.save_pretrained(tmp_path / "copy") / CARD).exists()


def test_a_card_of_ones_own_stays(small, tmp_path):
    folder = small.save_pretrained(tmp_path / "small")
    (folder / CARD).write_text((folder / CARD).read_text().replace(MARK, "") + "Mine.")
    assert "Mine." in (small.save_pretrained(folder) / CARD).read_text()
    (folder / CARD).write_text(MARK + "old")
    assert "# Whisper tiny.en, made smaller" in (small.save_pretrained(folder) / CARD).read_text()


def test_a_folder_is_no_base_model_and_no_licence_is_made_up(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    card = model_card(small.config, {"original": "models/mine"})
    assert "base_model" not in metadata(card) and metadata(card)["license"] == "other"
    assert "look it up before you pass the model on" in card and "# mine, made smaller" in card
    assert metadata(model_card(small.config, {"original": "someone/whisper-x"}))["base_model"] == "someone/whisper-x"


def test_all_of_it_goes_to_a_hub_at_once(small, monkeypatch):
    seen = {}

    def upload(self, *, repo_id, folder_path, commit_message):
        again = aw.load(folder_path)
        seen.update(repo=repo_id, files={p.name for p in folder_path.iterdir()}, ranks=again.config.ranks)
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: seen.update(options))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert small.push_to_hub("me/small") == "https://hub/commit"
    assert seen["repo"] == "me/small" and seen["private"] and seen["ranks"] == small.config.ranks
    assert {CARD, "adaptwin.json", "config.json", "model.safetensors", "tokenizer.json"} <= seen["files"]


def test_a_hub_that_cannot_be_reached_is_said(small, monkeypatch):
    def fail(self, repo_id, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "create_repo", fail)
    with pytest.raises(aw.InputError, match="me/small cannot be put on the hub; no route to host"):
        small.push_to_hub("me/small")
