"""The documentation: it builds as a site, and its command lines are run, or say what they need that a test has not."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import yaml
from basicsr.utils.logger import initialized_logger
from conftest import _frames
from runs import write_video
from shell_lines import commands_of

import multigrid_vsr
from benchmarks.base_run import options as base_options
from multigrid_vsr.cli import build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
NEEDS = {'GPU', 'REDS', 'minutes'}
# What the pages whose commands are run begin with, of what the first of them has made.
RUN = {
    'tutorial_own_videos.md': ['videos'],
    'tutorial_reds.md': ['stock.yml', 'options', 'experiments', 'video.mp4'],
    'recipes.md': ['stock.yml'],
    'watching.md': ['mg.yml', 'datasets', 'options'],
    'training.md': ['mg.yml', 'datasets', 'options', 'stock.yml'],
    'results.md': ['experiments', 'video.mp4'],
    'commands.md': [],
}
# The tutorial is for minutes; here it is one for seconds.
SHORTER = {'total_iter: 300': 'total_iter: 8', 'val_freq: 75': 'val_freq: 4', 'save_checkpoint_freq: 75': 'save_checkpoint_freq: 4'}  # fmt: skip
_BLOCK = re.compile(
    r'(?:^ *<!-- (?P<marker>needs|ends with):? (?P<what>[^>]*?) -->\n)?'
    r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^(?P=indent)```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and the comment before it."""

    page: str
    language: str
    title: str | None
    needs: frozenset[str]
    ends_with: int
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """The command lines; in a block of a console those after a prompt."""
        if self.language == 'console':
            return [line[2:] for line in self.lines if line.startswith('$ ')]
        return [line for line in self.lines if line and not line.startswith('#')] if self.language == 'bash' else []


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        needs = frozenset(match['what'].split(', ')) if match['marker'] == 'needs' else frozenset()
        ends_with = int(match['what']) if match['marker'] == 'ends with' else 0
        lines = tuple(line.removeprefix(match['indent']) for line in match['text'].splitlines())
        found.append(Block(path.name, match['language'], match['title'], needs, ends_with, lines))
    assert 2 * len(found) == len(re.findall(r'^ *```', text, re.MULTILINE)), 'a block that is not read'
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.commands]


def test_every_block_of_commands_is_run_or_says_what_it_needs():
    assert len(SHELL) > 25
    runs = [block for block in SHELL if block.page in RUN or block.language == 'console']  # these are compared, below
    assert [block for block in SHELL if not block.needs and block not in runs] == []
    assert {need for block in BLOCKS for need in block.needs} <= NEEDS


def test_every_block_with_a_command_in_it_is_one_of_a_shell():
    hidden = re.compile(r'^\s*(\$ )?(multigrid-vsr|python|pip|torchrun|pytest) ')
    others = [block for block in BLOCKS if not block.commands]
    assert [line for block in others for line in block.lines if hidden.match(line)] == []


@pytest.mark.parametrize('block', SHELL, ids=lambda block: f'{block.page}-{block.commands[0][:40]}')
def test_commands_of_a_block_are_taken_by_their_parsers(block):
    for line in block.commands:
        train = re.sub(r'(python|torchrun)\b.*?(basicsr/train\.py|-m basicsr\.train)', 'multigrid-vsr train', line)
        for arguments in commands_of(train):
            build_parser().parse_args(arguments)
        for option_file in re.findall(r'options/\S+\.yml', line):
            assert (ROOT / option_file).is_file()
        for extras in re.findall(r'pip install .*\[([\w,]+)\]', line):
            assert set(extras.split(',')) <= {'demo', 'test', 'dev', 'docs', 'plot'}


def run_line(line: str, folder: Path) -> tuple[int, str]:
    """Runs a command line: ``multigrid-vsr`` by itself in this process, where torch is imported already."""
    words = shlex.split(line, comments=True)
    if words[0] != 'multigrid-vsr' or set(words) & {'|', '>', '&&'}:
        env = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
        done = subprocess.run(['bash', '-c', line], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=300)  # fmt: skip
        return done.returncode, done.stdout
    logger = logging.getLogger('basicsr')
    fresh = mock.patch.dict(initialized_logger, clear=True)  # BasicSR sets its logger up once in a process
    with fresh, mock.patch.object(logger, 'handlers', []), mock.patch.object(sys, 'argv', words[:1]), mock.patch.object(sys, 'excepthook'):  # fmt: skip
        try:
            main(words[1:])
        except SystemExit as end:
            return (1, end.code) if isinstance(end.code, str) else (end.code or 0, '')
        finally:
            for handler in logger.handlers:
                handler.close()
    return 0, ''


def run_page(path: Path, folder: Path) -> None:
    """Runs what a page does in a folder, from its first block to its last."""
    for block in blocks_of(path):
        if block.language == 'yaml' and block.title:
            text = '\n'.join(block.lines)
            for long, short in SHORTER.items():
                assert text.count(long) == 1
                text = text.replace(long, short)
            (folder / block.title).write_text(text)
        if block.needs:
            continue
        for line in block.commands:
            status, output = run_line(line, folder)
            assert status == block.ends_with, (line, output)


@pytest.fixture(scope='module')
def tutorial(tmp_path_factory) -> Path:
    """The folder in which the tutorial begins: two short videos, one of which nothing trains on."""
    folder = tmp_path_factory.mktemp('tutorial')
    for name, source, count in (('train/bikes', 'bikes.mp4', 20), ('held_out', 'carphone_pristine.mp4', 6)):
        write_video(folder / f'videos/{name}.mp4', list(_frames(source, count)), 'mp4v')
    return folder


@pytest.fixture(scope='module')
def after_tutorial(tutorial) -> Path:
    """What the tutorial leaves behind, and a file and a run of stock BasicSR's name beside it."""
    before = Path.cwd()
    os.chdir(tutorial)
    try:
        run_page(ROOT / 'docs/tutorial_own_videos.md', tutorial)
    finally:
        os.chdir(before)
    shutil.copytree(tutorial / 'experiments/full', tutorial / 'experiments/stock')
    shutil.copy(tutorial / 'videos/held_out.mp4', tutorial / 'video.mp4')
    shutil.copytree(ROOT / 'options', tutorial / 'options')
    (tutorial / 'stock.yml').write_text(yaml.safe_dump(base_options('stock', 300, 0)))
    return tutorial


long = pytest.mark.filterwarnings('ignore')  # what torch and BasicSR say to each other


@long
def test_tutorial_from_videos_to_a_report_runs(after_tutorial):
    names = {path.name for path in after_tutorial.iterdir()}
    assert {'mg.yml', 'full.yml', 'plan.png', 'report.html', 'restored.mp4'} <= names
    page = (after_tutorial / 'report.html').read_text()
    assert '<h1>' in page
    assert page.count(' dB') > 2
    assert (after_tutorial / 'experiments/multigrid/models/net_g_average.pth').is_file()


@long
@pytest.mark.parametrize('page', [page for page in RUN if page != 'tutorial_own_videos.md'])
def test_commands_of_a_page_run(page, after_tutorial, tmp_path, monkeypatch):
    for name in RUN[page]:
        source = after_tutorial / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    run_page(ROOT / 'docs' / page, tmp_path)


def test_output_of_plan_in_the_docs_is_what_it_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = [block for block in BLOCKS if block.language == 'console']
    assert [block.page for block in blocks] == ['watching.md']
    for block in blocks:
        main(shlex.split(block.commands[0])[1:])
        assert capsys.readouterr().out.startswith('\n'.join(block.lines[1:]) + '\n')


def test_readme_can_be_read_in_three_minutes():
    assert len((ROOT / 'README.md').read_text().split()) <= 650


def test_page_of_recipes_has_every_option_file():
    listed = set(re.findall(r'\(\.\./options/(\w+\.yml)\)', (ROOT / 'docs/recipes.md').read_text()))
    assert listed == {path.name for path in (ROOT / 'options').glob('*.yml')}


def test_page_of_python_names_has_the_public_ones():
    names = re.findall(r'^::: (\S+)$', (ROOT / 'docs/api.md').read_text(), re.MULTILINE)
    assert sorted(names) == sorted(f'multigrid_vsr.{module}.{name}' for name, module in multigrid_vsr._PUBLIC.items())


def test_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path / 'site'], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in ('index.html', 'tutorial_own_videos/index.html', 'options/index.html', 'api/index.html'):
        html = (tmp_path / 'site' / page).read_text()
        assert not re.search(r'<(?:script|img|link rel="(?:stylesheet|preconnect)")[^>]*(?:src|href)="?https?:', html)
    assert 'id="multigrid_vsr.models.multigrid_video_model.MultigridVideoModel"' in html
    assert (tmp_path / 'site/project/options/train_basicvsr_mg.yml/index.html').is_file()
