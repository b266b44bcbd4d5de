"""The wheel in a fresh environment: what it adds to the start of Python, and what it leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, cwd='/').stdout


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def python(request, tmp_path_factory):
    """A Python that has the plugin and nothing else: neither torch nor BasicSR."""
    root = tmp_path_factory.mktemp(request.param)
    venv.create(root / 'venv', with_pip=False)
    python = root / 'venv/bin/python'
    pip = [sys.executable, '-m', 'pip', '--python', python, '--disable-pip-version-check', '--quiet']
    packages = site_packages(python)
    empty = {path.name for path in packages.iterdir()}
    # The build's own files must not land in the project.
    subprocess.run(['git', 'clone', '--quiet', str(PROJECT), str(root / 'source')], check=True)
    target = ['--editable', root / 'source'] if request.param == 'editable' else [built_wheel(root)]
    output(*pip, 'install', '--no-deps', *target)
    yield python
    output(*pip, 'uninstall', '--yes', 'multigrid_vsr')
    assert empty == ({path.name for path in packages.iterdir()} if packages.exists() else set())
    assert not (python.parent / 'multigrid-vsr').exists()


def built_wheel(root: Path) -> Path:
    """A source distribution, and from it a wheel, that the index would take."""
    output(sys.executable, '-m', 'build', '--outdir', root / 'dist', root / 'source')
    source, wheel = sorted((root / 'dist').iterdir(), key=lambda path: path.suffix)
    assert output(sys.executable, '-m', 'twine', 'check', '--strict', source, wheel).count('PASSED') == 2
    return wheel


def site_packages(python: Path) -> Path:
    return next((python.parent.parent / 'lib').glob('python*/site-packages'))


def test_start_up_hook_is_armed_and_imports_nothing(python):
    code = (
        'import sys; print(type(sys.meta_path[0]).__name__, {"torch", "numpy", "basicsr", "argparse"} & {*sys.modules})'
    )
    assert output(python, '-c', code) == '_HostFinder set()\n'


def test_start_up_hook_takes_less_than_5_ms(python):
    def cost():
        done = subprocess.run([python, '-X', 'importtime', '-c', 'pass'], check=True, capture_output=True, text=True)
        return int(re.search(r'\|\s*(\d+) \|\s+multigrid_vsr\n', done.stderr).group(1))

    assert min(cost() for _ in range(5)) <= 5000  # microseconds, with all that it imports


@pytest.mark.parametrize('flag', ['-S', '-I', '-E', '-s'])
def test_python_with_start_up_flags_still_starts(flag, python):
    assert output(python, flag, '-c', 'print(1)') == '1\n'


def test_python_without_basicsr_misses_it_as_before(python):
    done = subprocess.run([python, '-c', 'import basicsr'], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'basicsr'"


def test_python_whose_plugin_is_damaged_still_starts(python):
    source = output(python, '-c', 'import multigrid_vsr.host.autoload as a; print(a.__file__)').strip()
    text = Path(source).read_text()
    try:
        Path(source).write_text('raise RuntimeError("damaged")')
        done = subprocess.run([python, '-c', 'print(1)'], capture_output=True, text=True)
    finally:
        Path(source).write_text(text)
    assert (done.stdout, done.stderr) == ('1\n', '')
