"""The documentation in Python's own standard library: a few megabytes of English on every machine.

Sources are parsed and never imported: there are no side effects, and `python -OO` makes no difference.
"""

import ast
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from lm_jax.data.documents import Document

# Tests, and packages that some distributions or later versions lack; the rest is nearly the same everywhere.
_LEFT_OUT = frozenset({"test", "tests", "idlelib", "tkinter", "lib2to3", "distutils", "ensurepip"})
VERSION = platform.python_version()


def root() -> Path:
    """The directory of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def sources(root: Path) -> list[Path]:
    """The readable files of modules in order of their paths, without installed packages."""
    found = []
    for directory, inner, names in os.walk(root):
        # The directory of a package is an identifier, unlike site-packages, lib-dynload and config-3.x.
        inner[:] = sorted(name for name in inner if name.isidentifier() and name not in _LEFT_OUT)
        found += [Path(directory, name) for name in sorted(names) if name.endswith(".py")]
    return [path for path in found if os.access(path, os.R_OK)]


def module_name(path: Path, root: Path) -> str:
    """The dotted name by which the file would be imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def documentation(path: Path, name: str) -> str:
    """A module's docstring and those of its classes and functions, in the order of the source.

    Each follows its qualified name on a line of its own; empty lines separate them. The result is empty where
    there is no docstring, or where the file cannot be read or parsed (some files are there to test parsers).
    """
    tree = _parse(path)
    entries = _topics(tree) if name == "pydoc_data.topics" else _docstrings(tree, name)
    text = "\n\n".join(f"{title}\n{body}" for title, body in entries)
    # A literal may hold a lone surrogate, for which there is no UTF-8.
    return f"{text}\n".encode(errors="replace").decode() if text else ""


def docstrings(path: Path, name: str) -> Iterator[Document]:
    """The docstrings of a module that have a first line and a body, in the order of the source.

    A document is named MODULE:QUALIFIED.NAME. Its field `target` is the first line, which sums up what
    follows it after an empty line (PEP 257), and its text is that body. Docstrings of other forms are left
    out, and of equal ones in a module all but the first.
    """
    found = set()
    for title, text in _docstrings(_parse(path), name):
        first, _, rest = text.encode(errors="replace").decode().partition("\n")
        separator, _, body = rest.partition("\n")
        body = body.strip("\n").rstrip()
        if first.strip() and not separator.strip() and body and (first, body) not in found:
            found.add((first, body))
            yield Document(f"{name}:{title[len(name) + 1 :]}", body, {"target": first.strip()})


def _parse(path: Path) -> ast.Module:
    """The tree of a file, empty for one that cannot be read or parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in these sources
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and (text := ast.get_docstring(node)):
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _docstrings(child, name)


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The language reference, which `help()` shows by topic: one module, for topics quote each other."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for title, text in ast.literal_eval(statement.value).items():
                yield title, text.strip("\n")
