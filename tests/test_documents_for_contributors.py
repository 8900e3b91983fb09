"""What the documents for those who change kpf name is there: files, functions, classes, constants, words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from kpf.arguments import parsers

ROOT = Path(__file__).parent.parent
KPF = ROOT / "kpf"
SECTION = re.compile(r"^## Where to change what$(.*?)^## ", re.M | re.S)


def named(text: str) -> Iterator[tuple[str, str]]:
    """(file, name) of each name that the table gives; "" for a file alone."""
    for row in text.splitlines():
        file = ""
        for one in re.findall(r"`([^`]+)`", row.rpartition(" | ")[2]):
            if one.endswith(".py"):
                file = one
                yield file, ""
            elif file and re.fullmatch(r"[A-Za-z_][\w.]*", one):
                yield file, one


def defined(file: Path) -> set[str]:
    """Functions, classes, methods with their classes, and constants."""
    found = set[str]()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{one.name}" for one in members}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return found


def test_whatever_is_to_be_changed_is_where_it_is_said_to_be() -> None:
    table = SECTION.search((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert table
    places = list(named(table[1]))
    assert len({file for file, _ in places}) > 40
    missing = [(file, name) for file, name in places if name and name not in defined(KPF / file)]
    assert missing == []


def test_modules_that_are_named_are_there() -> None:
    rows = re.findall(r"^\| `([a-z.]+)` \| (.*) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M)
    packages = {name.replace(".", "/"): text for name, text in rows if (KPF / name.replace(".", "/")).is_dir()}
    assert {"sources/api", "plan", "nft", "shm", "worker", "master"} <= packages.keys()
    named = [(package, one) for package, text in packages.items() for one in re.findall(r"`([a-z_]+)`", text)]
    assert [one for one in named if not (KPF / one[0] / f"{one[1]}.py").exists()] == []


def test_a_word_of_the_glossary_has_one_row() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ") and not row.startswith("| word")]
    words = [word for first, *_ in rows for word in first.strip("| ").split(", ")]
    assert len(words) == len(set(words))
    assert all(source.strip(" |") for *_, source in rows)


def test_files_that_are_linked_are_there() -> None:
    for document in (
        ROOT / "ARCHITECTURE.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "README.md",
        *(ROOT / "docs").iterdir(),
    ):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), (document.name, link)


def test_commands_that_help_with_trouble_are_there() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    _, commands = parsers()
    asked = re.findall(r"`kpf ([a-z]+)((?: --[a-z-]+| [A-Z]+)*)`", text)
    assert {"status", "check", "cleanup"} <= {name for name, _ in asked}
    for name, flags in asked:
        assert name in commands, name
        known = {one for action in commands[name]._actions for one in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", flags)) <= known, (name, flags)


def test_what_the_log_is_said_to_say_is_said() -> None:
    """Quoted text, piece by piece: dots stand for what differs, and a colon is where a reason begins."""
    table = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## It says something")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table.partition("\n## ")[0], re.M)
    code = "\n".join(one.read_text(encoding="utf-8") for one in KPF.rglob("*.py"))
    assert len(quoted) > 8
    pieces = [piece.strip() for one in quoted for piece in re.split(r"\.\.\.|[:,]", one)]
    assert [piece for piece in pieces if piece and piece not in code] == []
