"""What is patched in BasicSR: the reasons beside each patch, and what is said where the host is not as it was."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import basicsr.train
import pytest
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils import dist_util, logger
from basicsr.utils import options as host_options
from runs import options, run, write

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.host import arch_patches, entry, install, launch, patch, resume
from multigrid_vsr.options.multigrid_block import asked_for

PAGE = Path(__file__).parent.parent / 'docs/patches.md'


def test_table_of_the_docs_says_what_stands_beside_each_patch():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith('| ')]
    expected = [f'| {p.what} | {p.why} | {p.needed} | {p.goes} |' for p in install.PATCHES]
    assert rows == ['| patch | why | how it is known to be needed | when it goes |', *expected]


def test_every_patch_of_the_host_is_in_the_list():
    found = {
        unit
        for name, module in sys.modules.items()
        if name.startswith('multigrid_vsr.host.')
        for unit in vars(module).values()
        if isinstance(unit, patch.Patch)
    }
    assert found == set(install.PATCHES)


def test_this_basicsr_is_as_the_patches_expect():
    assert patch.left_out == []


_FIRST = """
import importlib, os, sys
import torch, torchvision, cv2  # once for all
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f'multigrid_vsr.{name}')
        import basicsr.train
        from multigrid_vsr.host.patch import left_out
        print(name, [unit.what for unit, _ in left_out], basicsr.train.MessageLogger.__name__, flush=True)
        os._exit(0)
    os.wait()
"""


def test_patches_are_applied_whichever_part_of_the_plugin_comes_first(tmp_path):
    """What a user's own script imports before BasicSR brings BasicSR, and so the patches, into the middle of itself."""
    parts = ['data.multigrid_dataset', 'models.multigrid_video_model', 'models.clock']
    printed = run(sys.executable, '-W', 'ignore', '-c', _FIRST, *parts, cwd=tmp_path).stdout
    assert printed.splitlines() == [f'{part} [] MultigridMessageLogger' for part in parts]


def nothing(self, *args):
    """A function in which there is nothing to patch."""


CHANGED = [
    (arch_patches.small_frames, BasicVSRPlusPlus, 'forward', nothing, '`BasicVSRPlusPlus.forward`, it has no assertion to leave out'),
    (arch_patches.alignment_without_gpu, BasicVSRPlusPlus, '__init__', nothing, '`BasicVSRPlusPlus.__init__`, it does not ask for a GPU'),
    (arch_patches.small_flows, SpyNet, 'process', None, "`SpyNet.process`, type object 'SpyNet' has no attribute 'process'"),
    (launch.ranks_on_cpus, dist_util, '_init_dist_pytorch', nothing, '`_init_dist_pytorch`, `_init_dist_slurm`, _init_dist_pytorch counts no GPUs'),
    (launch.ranks_on_cpus, dist_util, '_init_dist_slurm', None, '`_init_dist_pytorch`, `_init_dist_slurm`, module .* has no attribute .*_init_dist_slurm.*'),
    (entry.log_line, logger, 'MessageLogger', None, '`MessageLogger`, module .* has no attribute .*MessageLogger.*'),
]  # fmt: skip


@pytest.fixture
def left_out(monkeypatch):
    """A list of this test's own of what was not patched."""
    found = []
    monkeypatch.setattr(patch, 'left_out', found)
    monkeypatch.setattr(entry, 'left_out', found)
    return found


def change(monkeypatch, place, name, value):
    if value is None:
        monkeypatch.delattr(place, name)
    else:
        monkeypatch.setattr(place, name, value)


@pytest.mark.parametrize(('unit', 'place', 'name', 'value', 'line'), CHANGED)
def test_patch_that_finds_the_host_changed_says_so_in_a_multigrid_run_alone(
    unit, place, name, value, line, clips, left_out, monkeypatch, capsys
):
    change(monkeypatch, place, name, value)
    assert not unit.apply()
    assert getattr(place, name, None) is value  # as it was
    assert asked_for(options(clips, model_type='SRModel', multigrid=None, datasets__train__type='Paired')) is None
    entry._check_host(asked_for(options(clips)))
    assert re.fullmatch(f'BasicSR is not as it was. Not patched: {line}\n', capsys.readouterr().out)


@pytest.mark.parametrize('asking', [{'model_type': 'SRModel'}, {'multigrid': None}, {'datasets__train__type': 'X'}])
def test_multigrid_run_without_a_patch_that_it_needs_is_refused(asking, clips, left_out, monkeypatch):
    monkeypatch.delattr(basicsr.train, 'load_resume_state')
    assert not resume.whole_states.apply()
    with pytest.raises(InputError, match=r'^(model_type|datasets\.train\.type): must be run with BasicSR 1\.4\.2 or later, got Multigrid\w+\. '
                                         r"Here `load_resume_state` cannot be patched: module 'basicsr.train' has no attribute 'load_resume_state'\.$"):  # fmt: skip
        entry._check_host(asked_for(options(clips, **asking)))


@pytest.mark.parametrize(
    ('value', 'line'),
    [(None, 'its utils/options.py has no parse_options'), (nothing, 'its parse_options takes (self, args)')],
)
def test_host_whose_options_are_parsed_otherwise_is_not_changed_at_all(value, line, left_out, monkeypatch):
    change(monkeypatch, host_options, 'parse_options', value)
    monkeypatch.setattr(install, '_is_done', False)
    before = dict(vars(basicsr.train))
    assert install.after_import() == line
    assert (vars(basicsr.train), left_out) == (before, [])


@pytest.mark.parametrize(
    'spelt', [['--local-rank=1'], ['--local-rank', '1'], ['--local_rank=1'], ['--local_rank', '1']]
)
def test_local_rank_is_taken_in_either_spelling(spelt, tmp_path, clips, monkeypatch):
    argv = ['train.py', *spelt, '-opt', str(write(tmp_path, options(clips)))]
    monkeypatch.setattr(sys, 'argv', argv)
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    _, args = host_options.parse_options(str(tmp_path))
    assert args.local_rank == 1
    assert sys.argv is argv  # which BasicSR takes down as the command of the run
