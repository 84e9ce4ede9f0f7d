"""Checks the length of the README, the lines its table points to, and its links."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# | paper | `first` [.. `last`] | `path/file.py:1-2` |
ROW = re.compile(r"^\|.*\| (`.*`) \| `(\S+\.py):(\d+)-(\d+)` \|$", re.M)


def find_lines(path: Path, name: str) -> tuple[int, int]:
    """First and last line of a definition, such as `train` or `Checkpoints.save`."""
    body = ast.parse(path.read_text()).body
    for part in name.split("."):
        (node,) = (node for node in body if defines(node, part))
        body = getattr(node, "body", [])
    return node.lineno, node.end_lineno


def defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == name
    return getattr(node, "name", None) == name


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 140
    assert max(map(len, lines)) <= 100
    assert len(ROW.findall(README)) == 11


@pytest.mark.parametrize("row", ROW.findall(README), ids=lambda row: row[0])
def test_table_points_to_the_lines_it_names(row):
    names, path, first, last = row
    path, names = ROOT / "glinpaint_jax" / path, re.findall(r"`(.*?)`", names)
    assert int(first) == find_lines(path, names[0])[0]
    assert int(last) == find_lines(path, names[-1])[1]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_exist(link):
    assert (ROOT / link).exists()


def test_table_covers_the_paper():
    assert len(ROW.findall(README)) == 11
