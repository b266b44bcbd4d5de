"""The tests on the oldest and the newest of what the project stands on, a fresh environment for each row.

``nox -f .ci/noxfile.py -s "tests(oldest)" -- tests/test_schedule.py -n 0``; without names of tests all of them. The
interpreters have to be there. docs/versions.md has what came out.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = 'venv'
nox.options.reuse_venv = 'yes'

OLDEST = ['torch==2.6.0', 'torchvision==0.21.0', 'numpy==1.26.4', 'opencv-python==4.11.0.86', 'av==17.1.0']
NEWEST = ['torch', 'torchvision', 'numpy', 'opencv-python', 'av']
MASTER = os.environ.get('BASICSR_MASTER', 'git+https://github.com/XPixelGroup/BasicSR@master')  # or a checkout
# Of the extra `test` without realesrgan and gfpgan, whose setup.py is BasicSR's.
TOOLS = 'scikit-video matplotlib pytest pytest-xdist>=3.8 tensorboard wandb jsonschema build twine'.split()
ROWS = {  # Python, the stack, and BasicSR
    'oldest': ('3.10', OLDEST, 'basicsr==1.4.2'),
    'newest': ('3.12', NEWEST, 'basicsr==1.4.2'),
    'master': ('3.11', NEWEST, MASTER),
    'fixed': ('3.11', NEWEST, 'basicsr-fixed'),
    'python3.13': ('3.13', NEWEST, 'basicsr==1.4.2'),
}


@nox.session
@nox.parametrize('python,row', [nox.param(python, row, id=row) for row, (python, *_) in ROWS.items()])
def tests(session: nox.Session, row: str) -> None:
    """Runs the tests, or those that are named."""
    session.chdir(Path(__file__).parents[1])  # nox goes to where this file is
    with tempfile.TemporaryDirectory() as folder:
        install(session, row, Path(folder))
    session.run('pip', 'list')
    session.run('pytest', *session.posargs)


def install(session: nox.Session, row: str, folder: Path) -> None:
    """Installs a row.

    Args:
        session: Its environment.
        row: Key of ``ROWS``.
        folder: For files that are needed meanwhile.
    """
    python, stack, basicsr = ROWS[row]
    pins = folder / 'pins.txt'
    pins.write_text('\n'.join(stack))
    session.install('setuptools>=77,<81', 'wheel', 'cython', *stack)  # BasicSR's setup.py imports torch
    if python == '3.13':  # where its setup.py fails: the wheel, which is of Python alone, comes from an older one
        session.run_install('python3.12', '-m', 'pip', 'wheel', '--no-deps', '-w', str(folder), basicsr, external=True)
        basicsr = str(next(folder.glob('basicsr-*.whl'), folder))  # -R installs nothing
    session.install('--no-build-isolation', '-c', str(pins), basicsr if row != 'fixed' else 'basicsr==1.4.2')
    if python == '3.13':  # setup.py lets nobody in but where BasicSR is there already
        session.install('--no-build-isolation', '--no-deps', '--ignore-requires-python', '-e', '.')
        session.install('-c', str(pins), 'lmdb', 'isal', 'jinja2', *TOOLS)
    else:
        session.install('--prefer-binary', '-c', str(pins), '-e', '.[demo,test]')  # newest ones may have dropped 3.10
    if row == 'fixed':  # it brings the same package under another name
        session.run_install('pip', 'uninstall', '--yes', 'basicsr')
        session.install('--no-build-isolation', '--no-deps', '--force-reinstall', basicsr)
