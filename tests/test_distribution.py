"""What is given to others: sdist and wheel, the versions that kpf was tested with, how it is said to be installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kpf import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = "kpf-service-proxy"
FILES = f"kpf_service_proxy-{__version__}"
# what is of a clone alone
OF_A_CLONE = {".gitignore", ".ci/run"}
# what is made, in a build or by running
MADE = ("tests/__pycache__/old.pyc", "perf/results/half.tmp")
# the two calls of PEP 517, without a network
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@dataclass(frozen=True)
class Built:
    """`unpacked`: the sdist's folder. `wheel`: made from that. `installed`: the wheel, without what it depends on."""

    sdist: Path
    unpacked: Path
    wheel: Path
    installed: Path


def run(cwd: Path, *command: str | Path, path: Path | None = None) -> str:
    """What it prints. `path` comes before all other places that modules are looked for in."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    base = tmp_path_factory.mktemp("built")
    source = base / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist"))
    for name in MADE:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    run(source, sys.executable, "-c", BUILD, "build_sdist", base)
    (sdist,) = base.glob("*.tar.gz")
    # not here: which filters there are, and what goes without one, differs from Python to Python
    run(base, sys.executable, "-m", "tarfile", "--extract", sdist, base)
    (unpacked,) = (one for one in base.glob("kpf*") if one.is_dir())
    run(unpacked, sys.executable, "-c", BUILD, "build_wheel", base)
    (wheel,) = base.glob("*.whl")
    installed = base / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile")
    run(base, *pip, "--target", installed, wheel)
    return Built(sdist, unpacked, wheel, installed)


def of_wheel(wheel: Path) -> tuple[list[str], Message]:
    """Names of its files, and its METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{FILES}.dist-info/METADATA").decode()
        return archive.namelist(), Parser().parsestr(text)


def test_files_are_named_after_the_distribution(built: Built) -> None:
    assert PROJECT["name"] == NAME
    assert built.sdist.name == f"{FILES}.tar.gz"
    assert built.wheel.name == f"{FILES}-py3-none-any.whl"


def test_the_wheel_says_what_it_is(built: Built) -> None:
    _, said = of_wheel(built.wheel)
    assert (said["Name"], said["Version"]) == (NAME, __version__)
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE"]
    # PEP 639: beside the expression they are an error
    assert not [one for one in said.get_all("Classifier", []) if one.startswith("License")]


def test_the_wheel_has_the_program_and_nothing_else(built: Built) -> None:
    names, _ = of_wheel(built.wheel)
    program = {str(one.relative_to(ROOT)) for one in (ROOT / "kpf").rglob("*") if one.suffix in {".py", ".typed"}}
    assert program > {"kpf/py.typed", "kpf/lab/__init__.py", "kpf/demo/__init__.py"}
    # beside it, below the prefix that it is installed to: manual pages, completion
    shared = {f"{FILES}.data/data/{one.relative_to(ROOT)}" for one in (ROOT / "share").rglob("*") if one.is_file()}
    assert len(shared) == 5
    assert {one for one in names if not one.startswith(f"{FILES}.dist-info/")} == program | shared
    assert f"{FILES}.dist-info/licenses/LICENSE" in names


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not a clone, or no git")
def test_the_sdist_has_all_that_a_clone_has(built: Built) -> None:
    tracked = set(run(ROOT, "git", "-c", f"safe.directory={ROOT}", "ls-files").splitlines())
    assert sorted(one for one in tracked - OF_A_CLONE if not (built.unpacked / one).exists()) == []


def test_the_sdist_has_nothing_that_was_made(built: Built) -> None:
    assert [one for one in MADE if (built.unpacked / one).exists()] == []


def test_the_layers_are_in_the_sdist_as_they_are(built: Built) -> None:
    """setuptools writes setup.cfg anew."""
    ours, theirs = ConfigParser(), ConfigParser()
    ours.read(ROOT / "setup.cfg", encoding="utf-8")
    theirs.read(built.unpacked / "setup.cfg", encoding="utf-8")
    contracts = [name for name in ours.sections() if name.startswith("importlinter")]
    assert len(contracts) > 3
    assert {name: dict(theirs[name]) for name in contracts} == {name: dict(ours[name]) for name in contracts}


def test_the_sdist_can_run_the_tests(built: Built) -> None:
    """Those of the documents: every file that is linked or named is there."""
    test = "tests/test_documents_for_contributors.py"
    out = run(built.unpacked, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)
    assert re.search(r"^\d+ passed in ", out, re.M), out


def test_what_is_installed_from_the_wheel_runs(built: Built, tmp_path: Path) -> None:
    """Beside the checkout that the tests run from, so that is asked, too."""
    place = run(tmp_path, sys.executable, "-c", "import kpf; print(kpf.__file__)", path=built.installed)
    assert Path(place.strip()).is_relative_to(built.installed)
    for command in ((built.installed / "bin" / "kpf",), (sys.executable, "-m", "kpf")):
        assert run(tmp_path, *command, "--version", path=built.installed) == f"kpf {__version__}\n"
    manifests = built.unpacked / "examples" / "manifests"
    said = run(tmp_path, sys.executable, "-m", "kpf", "check", "--manifests", manifests, path=built.installed)
    assert "no problems" in said
    assert (built.installed / "share/man/man8/kpf.8").is_file()


def locked() -> dict[str, Requirement]:
    """The lines of requirements.lock, by name."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    pinned = [Requirement(line.partition(" --hash")[0]) for line in lines]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}\b", line) for line in lines)
    assert all(re.fullmatch(r"==[^*,]+", str(one.specifier)) for one in pinned)
    return {canonicalize_name(one.name): one for one in pinned}


def needed() -> Iterator[Requirement]:
    """What kpf depends on here, and what that depends on, as far as it is installed."""
    waiting = [Requirement(one) for one in PROJECT["dependencies"]]
    seen = set[str]()
    while waiting:
        one = waiting.pop()
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
            continue
        yield one
        if str(one) not in seen:
            seen.add(str(one))
            waiting += [Requirement(line) for line in metadata.requires(one.name) or ()]


def test_the_lock_has_all_that_is_needed_in_a_version_that_fits() -> None:
    pinned = locked()
    names = set[str]()
    for one in needed():
        name = canonicalize_name(one.name)
        names.add(name)
        assert name in pinned, f"{one} is not in requirements.lock: make lock"
        (version,) = pinned[name].specifier
        assert one.specifier.contains(version.version, prereleases=True), f"{one}, but {pinned[name]}: make lock"
    assert len(names) > len(PROJECT["dependencies"])


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment that `make test` makes")
def test_what_is_tested_is_what_is_locked() -> None:
    here = [pin for pin in locked().values() if not pin.marker or pin.marker.evaluate()]
    other = [f"{pin}, but {found}" for pin in here if (found := metadata.version(pin.name)) not in pin.specifier]
    assert here
    assert other == []


def documents() -> Iterator[Path]:
    """What is read by whoever installs kpf."""
    for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "Makefile", "docs", "systemd", "examples"):
        place = ROOT / name
        yield from [place] if place.is_file() else (one for one in place.rglob("*") if one.is_file())


def test_nobody_is_told_to_install_somebody_elses_program() -> None:
    """On PyPI `kpf` is another project, and ours is not there: it is installed from a folder or file."""
    lines = [line for one in documents() for line in one.read_text(encoding="utf-8").splitlines()]
    asked = [line for line in lines if re.search(r"\bpip3?\b.*\binstall\b", line)]
    assert any("requirements.lock" in line for line in asked)
    name = re.compile(rf"(?<![/\w.-])(kpf|{NAME})(?![\w/.-])")
    wrong = [line for line in asked if name.search(re.split(r"\binstall\b", line, maxsplit=1)[1])]
    assert wrong == []
