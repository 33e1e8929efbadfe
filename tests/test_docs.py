"""The documentation: what its examples say is so, the site builds without a warning and asks no other host."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if ">>> " in path.read_text(encoding="utf-8"))
SLOW = {"tutorial", "choose_ranks"}  # they observe speech
FENCE = re.compile(r"^```.*$", re.MULTILINE)  # a closing fence is no expected output


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in PAGES]
)
def test_the_examples_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    examples = doctest.DocTestParser().get_doctest(text, {}, page.stem, str(page), 0)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=options).run(examples, out=said.append)
    assert outcome.attempted and not outcome.failed, "".join(said)


@pytest.mark.slow
def test_the_flow_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All of it as it stands there, but for the minutes, on the demonstration speech."""
    import adaptwin_widgets as aw

    (code,) = (
        block for block in re.findall("```python\\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "aw.tune(" in block
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for part in ("train", "dev"):
        aw.demo_speech()[f"target_{part}"][:8].to_manifest(f"{part}.jsonl")
    found: dict = {}
    exec(code.replace("minutes=5", "steps=1"), found)
    assert found["small"].notes["tuning"]["steps"] == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"small", "small-ct2", "small-onnx"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_and_asks_no_other_host(site: Path):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "method.html", "tutorial.html", "contributing.html"} <= {p.name for p in pages}
    loaded = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//|<link[^>]*rel="stylesheet"[^>]*href="https?:'
    )
    assert not [path.name for path, text in pages.items() if loaded.search(text)]
    assert "<math" in pages[site / "method.html"] and "arithmatex" not in pages[site / "method.html"]
    prose = {path.name: re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL) for path, text in pages.items()}
    assert not [name for name, text in prose.items() if "&gt;&gt;&gt; " in text], "an example outside of a fence"


def test_every_public_name_is_in_the_reference(site: Path):
    import adaptwin_widgets as aw

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    known = {name.rpartition(".")[2] for name in re.findall(r'id="adaptwin_widgets\.([\w.]+)"', text)}
    assert not set(aw.__all__) - known
