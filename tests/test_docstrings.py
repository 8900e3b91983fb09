"""Docstrings of `kpf` tell more than names do: what is raised, and what a number measures. That there are any: ruff."""

import ast
import builtins
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "kpf").rglob("*.py"))}

# what no caller is told of by name: a defect, the end of the process, a method that a subclass has
UNSAID = {"AssertionError", "NotImplementedError", "SystemExit", "Exception", "BaseException", "object"}
UNIT_OF_NAME = re.compile(r"(^|_)(s|ms|us|seconds|ratio)$")
UNIT_OF_TEXT = re.compile(r"(?<!')\b(m?s|(milli)?seconds?|0 to 1)\b", re.IGNORECASE)
# what a docstring may have beside the words of its name and still tell nothing
FILLER = re.compile("an?|the|that|this|its?|one|all|is|are|of|for|in|at|and|or", re.IGNORECASE)

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A module's function, or a class's method; `owner`: the class."""

    node: FunctionNode
    owner: ast.ClassDef | None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def is_public(self) -> bool:
        is_magic = self.node.name.startswith("__")
        return (is_magic or not self.node.name.startswith("_")) and not (self.owner and self.owner.name.startswith("_"))

    @property
    def own_text(self) -> str:
        """Its docstring; that of its class, where what it does is to make one."""
        node = self.owner if self.owner and self.node.name == "__init__" else self.node
        return ast.get_docstring(node) or ""

    @property
    def text(self) -> str:
        """Its docstring, and its class's."""
        return f"{self.own_text} {ast.get_docstring(self.owner) if self.owner else ''}"


class Escape(NamedTuple):
    """An exception on its way out of a function: what is raised, or the private function that is called."""

    raised: str
    called: str
    caught: frozenset[str]


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def functions(module: ast.Module) -> list[Function]:
    owners: list[tuple[list[ast.stmt], ast.ClassDef | None]] = [(module.body, None)]
    owners += [(node.body, node) for node in module.body if isinstance(node, ast.ClassDef)]
    return [Function(node, owner) for body, owner in owners for node in body if isinstance(node, FunctionNode)]


def last_name(node: ast.expr | None) -> str:
    """Of what is called, raised or caught: its name, without those before the dot."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def bases() -> dict[str, list[str]]:
    """Of every class of kpf, by name."""
    classes = [node for module in MODULES for node in ast.walk(parsed(module)) if isinstance(node, ast.ClassDef)]
    return {node.name: [last_name(base) for base in node.bases] for node in classes}


@cache
def lineage(name: str) -> frozenset[str]:
    """The exception and its bases; nothing if it is no exception."""
    if name in bases():
        above = frozenset[str]().union(*map(lineage, bases()[name]))
        return above | {name} if above else above
    known = getattr(builtins, name, None)
    if not isinstance(known, type) or not issubclass(known, BaseException):
        return frozenset()
    return frozenset(one.__name__ for one in known.__mro__)


@cache
def makers() -> dict[str, str]:
    """Functions that make an exception for others to raise, and which."""
    nodes = [node for module in MODULES for node in ast.walk(parsed(module)) if isinstance(node, FunctionNode)]
    return {node.name: last_name(node.returns) for node in nodes if lineage(last_name(node.returns))}


def handled(node: ast.Try) -> set[str]:
    """What its handlers catch and keep: those that raise it again do not."""
    found: set[str] = set()
    for one in node.handlers:
        if not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(one)):
            caught = one.type.elts if isinstance(one.type, ast.Tuple) else [one.type]
            found |= {last_name(error) for error in caught} if one.type else {"BaseException"}
    return found


def suppressed(node: ast.With) -> set[str]:
    calls = [one.context_expr for one in node.items if isinstance(one.context_expr, ast.Call)]
    return {last_name(error) for call in calls if last_name(call) == "suppress" for error in call.args}


def escapes(node: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[Escape]:
    """What leaves the node; functions within it are not entered."""
    if isinstance(node, FunctionNode | ast.Lambda):
        return
    if isinstance(node, ast.Raise) and node.exc is not None:
        name = last_name(node.exc)
        yield Escape(makers().get(name, name), "", caught)
    if isinstance(node, ast.Call) and last_name(node).startswith("_"):
        yield Escape("", last_name(node), caught)
    inside, body = caught, list[ast.stmt]()
    if isinstance(node, ast.Try):
        inside, body = caught | handled(node), node.body
    elif isinstance(node, ast.With):
        inside, body = caught | suppressed(node), node.body
    for child in ast.iter_child_nodes(node):
        yield from escapes(child, inside if child in body else caught)


def raised(function: Function, among: list[Function], seen: frozenset[str] = frozenset()) -> set[str]:
    """Exceptions that it raises itself, or by way of the private functions of its module and of its class."""
    found: set[str] = set()
    for one in (escape for statement in function.node.body for escape in escapes(statement)):
        names = {one.raised}
        if one.called and one.called not in seen:
            called = [
                other for other in among if other.node.name == one.called and other.owner in (None, function.owner)
            ]
            names = set().union(*(raised(other, among, seen | {one.called}) for other in called))
        found |= {name for name in names if lineage(name) and not lineage(name) & one.caught}
    return found - UNSAID


def silent(module: ast.Module) -> list[str]:
    """What public functions raise, and neither their docstrings nor their classes' name: it, or one of its bases."""
    among = functions(module)
    return [
        f"{function.node.lineno} {function.name}: {name}"
        for function in among
        if function.is_public
        for name in sorted(raised(function, among))
        if not (lineage(name) - UNSAID) & {*re.findall(r"\w+", function.text)}
    ]


def unmeasured(module: ast.Module) -> list[str]:
    """Floats that public functions take or return, and of which neither a name nor a docstring tells the unit."""
    return [
        f"{function.node.lineno} {function.name}: {name}"
        for function in functions(module)
        if function.is_public and not UNIT_OF_TEXT.search(function.own_text)
        for name, annotation in signature(function.node)
        if "float" in annotation and not UNIT_OF_NAME.search(name)
    ]


def signature(node: FunctionNode) -> Iterator[tuple[str, str]]:
    """Names of the parameters, and of the function itself, with what their annotations say."""
    for one in (*node.args.args, *node.args.kwonlyargs):
        yield one.arg, ast.unparse(one.annotation) if one.annotation else ""
    yield node.name, ast.unparse(node.returns) if node.returns else ""


def words(text: str) -> set[str]:
    """In lower case, without the endings of plurals and verbs; those of names are taken apart."""
    apart = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", text)
    return {re.sub(r"(ing|ed|es|s)$", "", word.lower()) for word in apart if not FILLER.fullmatch(word)}


def retold(module: ast.Module) -> list[str]:
    """Functions and classes whose docstrings have no word that is not in their signatures."""
    nodes = [node for node in ast.walk(module) if isinstance(node, FunctionNode | ast.ClassDef)]
    return [
        f"{node.lineno} {node.name}: {text}"
        for node in nodes
        if (text := ast.get_docstring(node))
        if words(text) <= words(node.name if isinstance(node, ast.ClassDef) else str([*signature(node)]))
    ]


@pytest.mark.parametrize("fault", [silent, unmeasured, retold])
def test_a_docstring_tells_what_the_name_does_not(fault: Callable[[ast.Module], list[str]]) -> None:
    assert not [f"{module}:{one}" for module in MODULES for one in fault(parsed(module))]


SAMPLE = '''
def direct(): raise ValueError("silent")
def said():
    """Raises ValueError."""
    raise ValueError
def by_its_base():
    """Raises OSError."""
    raise ConnectionResetError
def caught():
    try: raise KeyError
    except LookupError: pass
def kept():
    with suppress(OSError): raise TimeoutError
def raised_again():
    try: raise TimeoutError
    except OSError: raise
def in_the_handler():
    try: pass
    except OSError as error: raise RuntimeError from error
def _private(): raise EOFError
def indirect(): return [_private() for _ in "ab"]
def later(): return lambda: _private()
class Public:
    """Making one raises OSError."""
    def __init__(self): self._own()
    def _own(self): raise OSError
    def recursive(self): self._turn()
    def _turn(self):
        self._turn()
        raise EOFError
class _Hidden:
    def public(self): raise OSError
'''


def test_what_escapes_is_found() -> None:
    found = [one.partition(" ")[2] for one in silent(ast.parse(SAMPLE))]
    assert found == [
        "direct: ValueError",
        "raised_again: TimeoutError",
        "in_the_handler: RuntimeError",
        "indirect: EOFError",
        "Public.recursive: EOFError",
    ]


def test_a_float_without_a_unit_is_found() -> None:
    text = 'def wait(so_long: float, at_most_s: float) -> None:\n    """So long, or less."""'
    assert unmeasured(ast.parse(text)) == ["1 wait: so_long"]
    assert not unmeasured(ast.parse(text.replace("less", "5 s")))


def test_a_docstring_without_a_word_of_its_own_is_found() -> None:
    assert retold(ast.parse('class WorkerProcess:\n    """A process of the workers."""'))
    assert not retold(ast.parse('class WorkerProcess:\n    """A process of its own."""'))
