"""The shape of the package: imports go one way, the mathematics stays pure, everything public is documented.

`python tests/test_architecture.py` prints the figures.
"""

import ast
import statistics
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rewriter"
PLAN = (  # a module imports only from those before it
    *("errors", "files", "cache", "checks", "masks", "pictures"),
    *(
        "generators",
        "memory",
        "editing",
        "checkpoints",
        "worlds",
        "units",
        "photo",
        "hub",
        "serving",
        "evaluation",
        "cli",
    ),
)
MODULES = {
    "rewriter." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
PACKAGE = ROOT / "__init__.py"
MOST_NAMES, MOST_DEPTH = 17, 9  # names: six leaves, and a room for each of eleven subjects


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(nodes, inside):
    """Every statement; `inside`: of functions and classes too."""
    for node in nodes:
        if not is_for_type_checkers(node):
            yield node
            blocks = (ast.If, ast.Try, ast.With, *((ast.FunctionDef, ast.ClassDef, ast.For) if inside else ()))
            if isinstance(node, blocks):
                yield from statements(node.body, inside)


def imports(path, *, inside=True):
    """Modules that a file imports; `inside`: also those imported when a function runs."""
    for node in statements(tree(path).body, inside):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def ours(path, **options):
    return {name for name in imports(path, **options) if name in MODULES}


def place(module):
    return module.split(".")[1]


def floor(module):
    return PLAN.index(place(module)) if place(module) in PLAN else len(PLAN)


def depth():
    """Length of the longest chain of imports, in arrows between files."""
    graph = {module: ours(path, inside=False) - {module} for module, path in MODULES.items()}

    @cache
    def below(module):
        return max((1 + below(other) for other in graph[module]), default=0)

    return max(map(below, graph))


def names():
    """What a newcomer sees at the top of the package."""
    return sorted(p.name for p in ROOT.iterdir() if not p.name.startswith(("_", ".")) and p.suffix != ".typed")


def functions(path):
    return [n for n in ast.walk(tree(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def report():
    """The figures of the structure, in words."""
    lines = [f"names at the top: {len(names())}", f"depth of the import graph: {depth()}"]
    arrows = {(place(m), place(o)) for m, path in MODULES.items() for o in ours(path) if place(m) != place(o)}
    lines.append(f"arrows between the {len({place(m) for m in MODULES})} places at the top: {len(arrows)}")
    for folder in (ROOT, ROOT.parent / "space", ROOT.parent / "tests"):
        files = [path for path in sorted(folder.rglob("*.py"))]
        sizes = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
        lengths = [node.end_lineno - node.lineno + 1 for path in files for node in functions(path)]
        median, longest = statistics.median(lengths), max(lengths)
        lines.append(f"{folder.name}: {len(files)} files, {sum(sizes)} lines, functions {median:.0f} / {longest}")
    return "\n".join(lines)


def test_the_top_level_is_the_floor_plan():
    assert {place(module) for module in MODULES} - {"__main__"} == set(PLAN)
    assert len(names()) <= MOST_NAMES


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_from_those_above_in_the_plan(module):
    assert {name for name in ours(MODULES[module]) if floor(name) > floor(module)} == set()


def test_no_import_is_circular():
    graph = {module: ours(path) - {module} for module, path in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) >= set(MODULES)


def test_chains_of_imports_are_short():
    assert depth() <= MOST_DEPTH


@pytest.mark.parametrize("module", [m for m in MODULES if place(m) in ("generators", "memory")])
def test_the_mathematics_knows_nothing_of_files_pages_or_the_hub(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    assert roots & {"gradio", "PIL", "huggingface_hub", "accelerate", "requests", "httpx"} == set()


def loaded_by(code):
    """Heavy packages that a fresh process has loaded after running the code."""
    code += "\nimport sys; print(*sorted({'gradio', 'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    return done.stdout.split()


def test_importing_the_package_imports_nothing_heavy_and_its_names_no_gradio():
    assert loaded_by("import rewriter, rewriter.cli") == []
    assert loaded_by("from rewriter import *") == ["torch"]


def test_public_names_are_importable_and_typed():
    import rewriter

    assert all(getattr(rewriter, name) is not None for name in rewriter.__all__)
    checked = next(node for node in tree(PACKAGE).body if is_for_type_checkers(node))
    assert {alias.name for node in checked.body for alias in node.names} == set(rewriter.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rewriter.nothing


def undocumented(node, name):
    """Public classes and functions without a docstring; a class's docstring covers its magic methods."""
    if ast.get_docstring(node) is None:
        yield name
    for child in node.body if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else []:
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if named and not child.name.startswith("_"):
            yield from undocumented(child, f"{name}.{child.name}")


@pytest.mark.parametrize("module", ["rewriter", *MODULES])
def test_everything_public_is_documented(module):
    assert list(undocumented(tree(MODULES.get(module, PACKAGE)), module)) == []


@pytest.mark.parametrize("module", [m for m in MODULES if place(m) not in ("cli", "evaluation", "__main__")])
def test_the_library_prints_and_executes_nothing(module):
    calls = [node.func for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)]
    assert {f.id for f in calls if isinstance(f, ast.Name)} & {"print", "exec", "eval"} == set()


if __name__ == "__main__":
    print(report())  # noqa: T201
