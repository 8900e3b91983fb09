"""What is made of the command line and the configuration for readers and shells: up to date, complete, and it works."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import manual
from kpf.arguments import COMMANDS, parsers
from kpf.config import FLAGS, Config, load
from manual import example, fields, roff, settings
from manual.completion import PLACES
from manual.fields import Field, groups

ROOT = Path(__file__).parent.parent
FIELDS = [field for _, listed in groups() for field in listed]

formats = pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")


@pytest.fixture(scope="module")
def made() -> Mapping[str, str]:
    return manual.files()


def test_what_is_in_the_tree_is_what_is_made(made: Mapping[str, str]) -> None:
    stale = [name for name, text in made.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "make manual"


def test_nothing_else_is_in_share(made: Mapping[str, str]) -> None:
    there = {str(one.relative_to(ROOT)) for one in (ROOT / "share").rglob("*") if one.is_file()}
    assert there == {name for name in made if name.startswith("share/")}


def formatted(page: str, *flags: str) -> tuple[str, str]:
    """As a reader sees it, and what groff complains of."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-c", "-rLL=200n", *flags],
        input=page,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return re.sub(r".\x08", "", done.stdout), done.stderr


@formats
def test_the_manual_of_the_command_has_every_flag_and_exit_status(made: Mapping[str, str]) -> None:
    text, complaints = formatted(made["share/man/man8/kpf.8"])
    assert complaints == ""
    for name, command in COMMANDS.items():
        assert re.search(rf"^   kpf {name}$", text, re.M), name
        assert all(f"{meaning}." in text for meaning in command.exit_statuses.values())
    for parser in parsers()[1].values():
        for action in parser._actions:
            shown = [*action.option_strings[-1:], *([str(action.metavar)] if action.metavar else [])]
            assert action.dest == "help" or " ".join(shown) in text


@formats
def test_the_manual_of_the_configuration_has_every_field(made: Mapping[str, str]) -> None:
    text, complaints = formatted(made["share/man/man5/kpf.yaml.5"])
    assert complaints == ""
    assert [one.name for one in FIELDS if not re.search(rf"^ +{re.escape(one.name)}( |$)", text, re.M)] == []
    assert "Default: 20000-29999. Flag: --proxy-port-range." in text


@formats
def test_what_roff_would_take_for_its_own_is_text() -> None:
    page = roff.Page("A", 8, 'kpf "1"')
    for text in (".SH no heading", "'quoted", r"back\slash", "`a-b` -- c"):
        page.paragraph(text)
    text, complaints = formatted(str(page))
    assert complaints == ""
    assert [line.strip() for line in text.splitlines() if line.startswith("       ")] == [
        ".SH no heading",
        "'quoted",
        r"back\slash",
        "a-b -- c",
    ]


def test_every_field_has_its_flag_and_every_flag_its_field() -> None:
    assert {one.flag: one.name for one in FIELDS if one.flag} == {
        f"--{flag}": ".".join(path) for flag, path in FLAGS.items() if path and flag != "master"
    }


def test_a_field_that_nobody_tells_of_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = settings.GROUPS
    monkeypatch.setattr(fields, "GROUPS", (first._replace(settings={"manifests": first.settings["manifests"]}), *rest))
    with pytest.raises(LookupError, match=r"differ in clientConnection\.kubeconfig, hostnameOverride"):
        list(groups())


def nested(name: str, value: Any) -> dict[str, Any]:
    outer, _, inner = name.partition(".")
    return {outer: {inner: value} if inner else value}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_an_example_is_valid_and_a_default_is_the_default(field: Field) -> None:
    config = Config.model_validate(nested(field.name, yaml.safe_load(field.example)), by_alias=True, by_name=False)
    if field.default == field.example and field.name != "proxyAddress":
        assert config == Config()
    for value in field.values:
        Config.model_validate(nested(field.name, value), by_alias=True, by_name=False)


def test_the_file_that_is_installed_sets_what_the_unit_needs_and_no_more() -> None:
    config = load({"config": str(ROOT / "systemd" / "kpf.yaml")})
    assert config == Config(manifests="/etc/kpf/manifests")


def test_the_file_that_is_installed_has_every_field(made: Mapping[str, str]) -> None:
    text = made["systemd/kpf.yaml"]
    inner = {one.name.rpartition(".")[2] for one in FIELDS}
    assert inner == set(re.findall(r"^(?:# |#   )?(\w+): \S+$", text, re.M)) & inner
    assert max(map(len, text.splitlines())) <= example.WIDTH
    assert (text.count("(restart)\n"), text.count("One of drop, leave")) == (4, 0)


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    code = f"""
    source {script}
    COMP_WORDS=({" ".join(repr(one) for one in words)})
    COMP_CWORD={len(words) - 1}
    _shtab_kpf
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_commands_flags_and_values() -> None:
    script = ROOT / PLACES["bash"]
    assert complete(script, "kpf", "") == sorted(COMMANDS)
    assert complete(script, "kpf", "ch") == ["check"]
    assert complete(script, "kpf", "check", "--st") == ["--strict"]
    assert complete(script, "kpf", "run", "--st") == []
    assert complete(script, "kpf", "run", "--on-exit", "") == ["drop", "leave"]
    assert complete(script, "kpf", "run", "--manifests", "exam") == ["examples"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_find_nothing_wrong_with_it(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", ROOT / PLACES[shell]], check=True, timeout=60)


@pytest.mark.parametrize("shell", PLACES)
def test_each_shell_knows_all_commands_and_flags(made: Mapping[str, str], shell: str) -> None:
    text = made[PLACES[shell]]
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []
    dashes = "-l " if shell == "fish" else "--"
    assert [flag for flag in FLAGS if f"{dashes}{flag}" not in text] == []
    # bash shows names alone
    assert shell == "bash" or [one.summary for one in COMMANDS.values() if one.summary not in text] == []
