"""Enforces the dependency rule of docs/architecture.md, and lengths."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "glinpaint_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from folders (or top-level modules) of a lower rank, or from its own. So
# runs/ imports no networks, not even through other modules.
RANKS = {
    "errors": 0,
    "config": 1,
    "configs": 2,
    "files": 2,
    "parallel": 3,
    "processes": 3,
    "downloads": 4,
    "step_folders": 4,
    "data": 4,
    "models": 5,
    "runs": 5,
    "evaluation": 6,
    "interop": 6,
    "weights": 7,
    "training": 8,
    "inference": 8,
    "web": 9,
    "commands": 10,
    "main": 11,
    "__main__": 12,
}
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 400
# Lines, at most: what comes next replaces something.
BUDGETS = {"glinpaint_jax": 9_510, "scripts": 1_800, "tests": 10_000, "docs": 1_500}
ROOMS = {"commands": 890, "data": 1_690, "evaluation": 360, "inference": 1_170, "interop": 980}
ROOMS |= {"models": 1_120, "runs": 890, "training": 800, "web": 380}
BUDGETS |= {f"glinpaint_jax/{room}": lines for room, lines in ROOMS.items()}
IMPORTS = (ast.Import, ast.ImportFrom)
PURE = ["models", "training/losses.py", "training/phases.py", "evaluation/metrics.py"]


def imported_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    # A name may be a module: from glinpaint_jax.interop import torch_module.
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    return names if node.module == "glinpaint_jax" else names | {node.module}


def imported_modules(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return set().union(*(imported_by(node) for node in nodes if isinstance(node, IMPORTS)))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for module in imported_modules(path):
        if module.startswith("glinpaint_jax."):
            other = module.split(".")[1]
            assert other == own or RANKS[other] < RANKS[own], f"{own} imports {other}"


@pytest.mark.parametrize("folder_or_file", PURE)
def test_pure_modules_do_no_input_or_output(folder_or_file):
    path = PACKAGE / folder_or_file
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        top_level = {module.split(".")[0] for module in imported_modules(file)}
        assert not top_level & {"pathlib", "os", "sys", "cv2", "json", "grain", "io"}, file


def test_data_workers_do_not_import_jax():
    """They import the data modules and, when spawned, the program (grain itself may import jax)."""
    for path in (PACKAGE / "data").rglob("*.py"):
        assert not {module.split(".")[0] for module in imported_modules(path)} & {"jax", "flax"}
    code = (
        "import sys, glinpaint_jax.main, glinpaint_jax.commands.evaluate, "
        "glinpaint_jax.commands.prepare, glinpaint_jax.data.masks; sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_optional_packages_are_imported_late():
    """Only torch_module.py and web/ import theirs at the top, and are themselves imported late.

    Windows lacks fcntl and resource.
    """
    optional = {"torch", "onnx", "onnxruntime", "onnxscript", "starlette", "uvicorn", "anyio"}
    optional |= {"huggingface_hub", "fcntl", "resource"}
    for path in MODULES:
        top_level = [node for node in ast.parse(path.read_text()).body if isinstance(node, IMPORTS)]
        names = {name for node in top_level for name in imported_by(node)}
        if path.name == "torch_module.py":
            assert "torch" in {name.split(".")[0] for name in names}
            continue
        if path.parent.name == "web":
            continue
        assert not {name.split(".")[0] for name in names} & optional, path
        assert not any(name.startswith("glinpaint_jax.web") for name in names), path
        assert "glinpaint_jax.interop.torch_module" not in names, path


def test_functions_and_files_are_short():
    for path in MODULES:
        lines = path.read_text().splitlines()
        assert len(lines) <= MAX_FILE_LINES, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{path}: {node.name} has {length} lines"


@pytest.mark.parametrize("folder", BUDGETS)
def test_the_house_stays_within_its_budget(folder):
    pattern = "*.md" if folder == "docs" else "*.py"
    paths = (PACKAGE.parent / folder).rglob(pattern)
    lines = sum(len(path.read_text().splitlines()) for path in paths)
    assert lines <= BUDGETS[folder], "what does not fit replaces something"
