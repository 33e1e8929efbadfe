"""The project as a whole: what it declares, how its parts may depend on each other, the wheel it builds."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adaptwin_widgets"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE = [path for path in MODULES if "widgets" not in path.relative_to(PACKAGE).parts]
CONDA_NAMES = {"pytorch": "torch", "pysoundfile": "soundfile"}  # conda-forge's name -> pip's


def bounds(requirements: list[str]) -> dict[str, str]:
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed}


def declared() -> dict[str, str]:
    extras = PROJECT["optional-dependencies"].values()
    return bounds(PROJECT["dependencies"] + [line for extra in extras for line in extra])


def imported_names(path: Path) -> Iterator[str]:
    """The dotted names of all absolute imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_conda_environment_says_the_same_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    lines = environment["dependencies"]
    pip_lines = next(line["pip"] for line in lines if isinstance(line, dict))
    conda = bounds([line for line in lines if isinstance(line, str)])
    assert conda.pop("python") == PROJECT["requires-python"]
    conda.pop("pip")
    conda = {CONDA_NAMES.get(name, name): bound for name, bound in conda.items()}
    assert not set(conda) & set(bounds(pip_lines)), "asked of conda and of pip"
    assert conda | bounds(pip_lines) == declared()


def test_constraints_pin_every_dependency_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    missing = [name for name in declared() if name not in pins]
    assert not missing
    requirements = [Requirement(f"{name}{bound}") for name, bound in declared().items()]
    outside = [str(r) for r in requirements if not r.specifier.contains(pins[canonicalize_name(r.name)])]
    assert not outside


def test_the_package_imports_only_what_it_declares():
    distributions = importlib.metadata.packages_distributions()
    names = {name.partition(".")[0] for path in MODULES for name in imported_names(path)}
    foreign = names - set(sys.stdlib_module_names) - {"adaptwin_widgets"}
    undeclared = {
        name
        for name in foreign
        if not {canonicalize_name(d) for d in distributions.get(name, [name])} & set(declared())
    }
    assert not undeclared


def test_the_core_does_not_know_the_widgets():
    forbidden = ("ipywidgets", "anywidget", "adaptwin_widgets.widgets")
    culprits = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in CORE
        if path.name != "__init__.py"  # it lists the public names, the widgets' among them
        for name in imported_names(path)
        if name.startswith(forbidden)
    ]
    assert not culprits


def test_no_module_has_more_than_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("name", ["", "peers", "decoding"])
def test_make_bench_runs_what_needs_no_arguments(name: str):
    command = ["make", "-n", "-o", ".venv/.installed", "bench", f"BENCH={name}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    asked = re.findall(r"benchmarks/[\w.]+", said)
    programs = {p.name for p in (ROOT / "benchmarks").glob("[a-z]*") if p.suffix == ".py" or p.is_dir()}
    everything = {f"benchmarks/{program}" for program in programs - {"picture.py"}}
    assert set(asked) == ({"benchmarks/" + {"peers": "peers"}.get(name, f"{name}.py")} if name else everything)
    assert all((ROOT / path).is_file() or (ROOT / path / "__main__.py").is_file() for path in asked)


def test_no_file_names_a_machine_or_a_registry():
    # Written in pieces, so that this file does not name them either.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "deb.debian" + ".org", "debian" + ".net"]
    folders = ["/ro" + "ot/", "/wo" + "rk/", "/opt/whe" + "els", "/opt/py" + "pi", "/ho" + "me/[a-z]"]
    pattern = re.compile("|".join([re.escape(host) for host in hosts] + folders))
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # audio and pictures
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_every_place_that_says_the_version_says_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    said = {"CITATION.cff": citation["version"], "CHANGELOG.md": newest.group(1)}
    code = re.search(r'^__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    if code:  # else it is read from the installed package, which has it from pyproject.toml
        said["__init__.py"] = code.group(1)
    assert said == dict.fromkeys(said, PROJECT["version"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_what_a_user_without_the_checkout_needs(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if not n.startswith(("adaptwin_widgets/", "adaptwin_widgets-"))]
    scripts = [p for kind in ("*.js", "*.css") for p in PACKAGE.rglob(kind)]
    assert {p.relative_to(ROOT).as_posix() for p in MODULES + scripts} <= set(names)
    demo = [p.relative_to(ROOT / "data" / "demo") for p in (ROOT / "data" / "demo").rglob("*") if p.is_file()]
    assert demo
    assert {f"adaptwin_widgets/_demo/{p.as_posix()}" for p in demo} <= set(names)
    notebooks = (ROOT / "notebooks").glob("*.ipynb")
    assert {f"adaptwin_widgets/_notebooks/{p.name}" for p in notebooks} <= set(names)


@pytest.mark.slow
def test_the_wheel_works_when_installed_clean(wheel: Path, tmp_path: Path):
    """In a virtual environment of its own, away from the checkout. The dependencies are lent to it by a .pth
    file, so that no gigabyte of torch is installed twice; ours are asked to come from the wheel itself."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    scheme = {"base": str(venv), "platbase": str(venv)}
    site = Path(sysconfig.get_path("purelib", vars=scheme))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # A plain path line: it does not run the .pth files in there, the checkout's editable one among them.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str | Path) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "evaluate" in run(python.with_name("adaptwin"), "--help")
    program = "import adaptwin_widgets as aw; print(aw.__file__); print(sorted(map(str, aw.demo_speech())))"
    where, parts = run(python, "-c", program).splitlines()
    assert Path(where).is_relative_to(site)
    assert len(ast.literal_eval(parts)) >= 2
