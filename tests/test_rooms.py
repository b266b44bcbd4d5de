"""The rooms of the package: who may know whom, and who may not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import multigrid_vsr

PACKAGE = Path(multigrid_vsr.__file__).parent
# Each room may import those before it.
ROOMS = ('core', 'options', 'frames', 'data', 'models', 'launches', 'host', 'measure', 'report', 'demo', 'cli')
PURE = ('core', 'options')
LIBRARIES_OF_PURE = {'yaml'}
FILES = sorted(PACKAGE.rglob('*.py'))


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: a relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix('').parts[0]


def test_every_folder_of_the_package_is_a_room():
    assert {room_of(path) for path in FILES if path.name != '__init__.py' or path.parent != PACKAGE} == set(ROOMS)


@pytest.mark.parametrize(
    'path', [p for p in FILES if p.parent != PACKAGE or p.stem != '__init__'], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_file_imports_rooms_before_its_own_alone(path):
    allowed = ROOMS[: ROOMS.index(room_of(path)) + 1]
    ours = [name.split('.') for name in imports_of(path) if name.split('.')[0] == 'multigrid_vsr']
    assert [name for name in ours if name[1] not in allowed] == []


@pytest.mark.parametrize('path', [p for p in FILES if room_of(p) in PURE], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_of_a_pure_room_imports_no_library_but_yaml(path):
    roots = {name.split('.')[0] for name in imports_of(path)} - {'multigrid_vsr', '__future__'}
    assert roots - sys.stdlib_module_names <= (LIBRARIES_OF_PURE if room_of(path) == 'options' else set())


def test_imports_have_no_circles():
    """Between files, and so inside a room too; what is imported in a function counts as well."""
    modules = {'.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts): path for path in FILES}
    graph = {
        name: {found for imported in imports_of(path) for found in (imported, imported.rpartition('.')[0])}
        & (modules.keys() - {name, 'multigrid_vsr.__init__'})
        for name, path in modules.items()
    }
    while leaves := {name for name, known in graph.items() if not known & graph.keys()}:
        graph = {name: known for name, known in graph.items() if name not in leaves}
    assert graph == {}


def test_public_names_are_there_and_cost_nothing_before_they_are_asked_for():
    code = (
        'import sys, multigrid_vsr; before = {"torch", "numpy", "basicsr"} & sys.modules.keys(); '
        'found = [getattr(multigrid_vsr, name) for name in multigrid_vsr.__all__]; '
        'print(before, len(found), multigrid_vsr.MultigridVideoModel.__name__)'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == f'set() {len(multigrid_vsr.__all__)} MultigridVideoModel\n'
    with pytest.raises(AttributeError, match='has no attribute'):
        getattr(multigrid_vsr, 'Nothing')  # noqa: B009
