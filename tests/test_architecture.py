"""The shape of the package: imports go one way, the maths stays pure, everything public is documented."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rewriter

ROOT = Path(rewriter.__file__).parent
ORDER = (
    "errors",
    "files",
    "masks",
    "generators",
    "memory",
    "stats",
    "rule",
    "recording",
    "fields",
    "edit",
    "provenance",
    "effect",
    "yardstick",
    "execute",
    "preview",
    "search",
    "suggest",
    "history",
    "session",
    "remote",
    "checkpoints",
    "townscape",
)
MODULES = {
    "rewriter." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


class Running(ast.NodeTransformer):
    """Leaves out what only a type checker reads."""

    def visit_If(self, node):  # noqa: N802 (ast's name)
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def imports(path, *, running=False):
    """Every module that a file imports, wherever in it; `running`: when it runs."""
    for node in ast.walk(Running().visit(tree(path)) if running else tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def ours(path, **options):
    return {name for name in imports(path, **options) if name.split(".")[0] == "rewriter"}


def floor(module):
    """A module's place in the floor plan; the edges come after all of it."""
    name = module.split(".")[1]
    return ORDER.index(name) if name in ORDER else len(ORDER)


def test_the_floor_plan_is_there():
    assert {module.split(".")[1] for module in MODULES} >= {*ORDER, "hub"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    imported = ours(MODULES[module])
    assert "rewriter" not in imported or floor(module) == len(ORDER)
    assert {name for name in imported - {"rewriter"} if floor(name) > floor(module)} == set()


def test_no_two_modules_import_each_other():
    graph = {module: ours(path, running=True) - {"rewriter"} for module, path in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) >= set(MODULES)


def test_the_command_line_and_the_evaluation_come_last():
    last = ("rewriter.cli", "rewriter.evaluation")
    importers = {
        module
        for module, path in MODULES.items()
        if any(name.startswith(last) for name in ours(path)) and not module.startswith((*last, "rewriter.__main__"))
    }
    assert importers == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[1] in ("generators", "memory")])
def test_the_maths_knows_nothing_of_pictures_pages_or_the_hub(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    assert roots & {"gradio", "PIL", "huggingface_hub", "accelerate", "requests", "httpx"} == set()


def test_importing_the_package_does_not_import_gradio():
    code = "import rewriter, sys; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.strip() == "False"


def test_public_names_are_importable():
    assert all(getattr(rewriter, name) is not None for name in rewriter.__all__)


def undocumented(node, name):
    """Public classes and functions without a docstring; magic methods are their class's affair."""
    if ast.get_docstring(node) is None:
        yield name
    for child in node.body if not isinstance(node, ast.FunctionDef) else []:
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if named and not child.name.startswith("_"):
            yield from undocumented(child, f"{name}.{child.name}")


@pytest.mark.parametrize("module", ["rewriter", *MODULES])
def test_everything_public_is_documented(module):
    assert list(undocumented(tree(MODULES.get(module, ROOT / "__init__.py")), module)) == []


@pytest.mark.parametrize("module", [module for module in MODULES if floor(module) < len(ORDER)])
def test_the_method_prints_and_executes_nothing(module):
    calls = [node.func for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)]
    assert {f.id for f in calls if isinstance(f, ast.Name)} & {"print", "exec", "eval"} == set()
