"""The shape of the code base: who may import whom, who touches the device, names and sizes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "latte_ms"

# A part imports parts of earlier lines only; parts on one line do not see each other.
LAYERS = (
    {"environment", "messages", "progress", "terminal"},
    {"atomic", "extras", "inline_fields", "launcher", "options", "recipes", "yaml_text"},
    {"config", "runtime"},
    {"launching", "media", "parallel"},
    {"data", "layers"},
    {"transformer", "vae", "text", "diffusion", "schedulers"},
    {"weights"},
    {"adapters", "cache", "metrics"},
    {"training", "generation"},
    {"commands"},  # a link to scripts
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

FOREIGN = {
    *("torch", "diffusers", "transformers", "peft", "mindone"),
    *("scripts", "tools", "examples", "tests"),
}
# Libraries that one module uses, each on every backend.
USED = {
    "latte_ms.schedulers.discrete": {"mindone"},
    "latte_ms.schedulers.repaired": {"mindone"},
}
SETTERS = {
    "set_context",
    "set_device",
    "set_auto_parallel_context",
    "set_memory",
    "set_deterministic",
    "set_recursion_limit",
}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
LINES_PER_FILE = 400
LINES_PER_FUNCTION = 40


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that `module` imports, deferred imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - 1 if is_package else node.level
            base = parts[: len(parts) - up] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def forbidden(path: Path) -> list[str]:
    """The imports of one package file that the contract forbids."""
    module = module_name(path)
    own = module.split(".")[1] if "." in module else None  # None: the package's public door
    bad = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imports(tree, module, path.name == "__init__.py"):
        first, *rest = name.split(".")
        if first in FOREIGN - USED.get(module, set()):
            bad.append(name)
        elif first == "latte_ms" and own is not None:
            other = rest[0] if rest else None
            if other != own and (other not in LEVEL or LEVEL[other] >= LEVEL[own]):
                bad.append(name)
    return bad


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield function.attr
            elif isinstance(function, ast.Name):
                yield function.id


def without_encoding(path: Path) -> list[int]:
    """The lines that read or write a text in the encoding of whatever machine it is."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("read_text", "write_text")
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]


def patched(path: Path) -> list[str]:
    """Assignments to attributes of names that the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    found = []
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr":
            targets = [ast.Attribute(node.args[0], "")]
        for target in targets:
            owner = target
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            if isinstance(target, ast.Attribute) and getattr(owner, "id", "") in imported:
                found.append(f"{path.name}:{node.lineno}")
    return found


def long_functions(path: Path) -> list[str]:
    """Functions over the limit, docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if lines > LINES_PER_FUNCTION:
                found.append(f"{node.name}: {lines}")
    return found


def test_every_part_has_a_place_in_the_contract() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    parts |= {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert parts - {"__init__"} <= set(LEVEL)


def test_imports_point_one_way() -> None:
    bad = {module_name(path): forbidden(path) for path in python_files("latte_ms")}
    assert {module: names for module, names in bad.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("latte_ms.diffusion.loss", "from latte_ms.training import step"),
        ("latte_ms.diffusion.loss", "from ..transformer.latte import Latte"),
        ("latte_ms.layers.mlp", "from latte_ms import Latte"),
        ("latte_ms.layers.mlp", "def later():\n    import latte_ms.vae"),
        ("latte_ms.training.loop", "from latte_ms.generation import pipeline"),
        ("latte_ms.weights.reader", "import torch"),
    ],
)
def test_a_forbidden_import_is_seen(
    module: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / Path(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(line, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert forbidden(path)


def test_every_import_is_a_statement() -> None:
    """A module loaded by its name in a string would be out of sight of the tests above."""
    loaders = {"import_module", "__import__", "load_module", "exec_module"}
    users = {module_name(path) for path in python_files("latte_ms") if loaders & set(calls(path))}
    assert users == set()


def test_no_class_of_a_library_is_changed() -> None:
    """No attribute of an imported name is assigned to, by a statement or by `setattr`."""
    changed = {module_name(path): patched(path) for path in python_files("latte_ms")}
    assert {module: names for module, names in changed.items() if names} == {}


def test_texts_have_an_encoding() -> None:
    files = python_files("latte_ms", "scripts", "tools", "examples")
    assert not [module_name(path) for path in files if without_encoding(path)]


def test_only_runtime_sets_the_context() -> None:
    users = {module_name(path) for path in python_files("latte_ms") if SETTERS & set(calls(path))}
    assert users <= {"latte_ms.runtime"}


def test_only_kernels_ask_for_the_backend() -> None:
    users = {module_name(p) for p in python_files("latte_ms") if "get_context" in set(calls(p))}
    assert users <= {"latte_ms.layers.kernels", "latte_ms.runtime"}


def test_no_file_has_an_empty_name() -> None:
    files = python_files("latte_ms", "scripts", "tools", "examples", "tests")
    names = {part for path in files for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & EMPTY_NAMES


def test_files_and_functions_are_short() -> None:
    files = python_files("latte_ms", "scripts", "tools", "examples", "tests")
    long_files = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES_PER_FILE
    }
    assert long_files == {}
    functions = {str(path.relative_to(ROOT)): long_functions(path) for path in files}
    assert {path: names for path, names in functions.items() if names} == {}
