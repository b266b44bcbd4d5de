"""Stock option files and what ``multigrid-vsr convert`` makes of them."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest
import yaml
from probe import NETWORK, train_here
from runs import options, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.lr import CosineSchedule
from multigrid_vsr.core.plan import total_samples
from multigrid_vsr.options.archs import check_arch
from multigrid_vsr.options.conversion import convert
from multigrid_vsr.options.launches import known_run_launches
from multigrid_vsr.options.multigrid_block import schedule_from_options
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.run_options import check_scheduler, cosine_options

STOCK = """\
# general settings
name: 'run'   # odd   spacing stays
model_type: "VideoRecurrentModel"  # quoted
scale: 4
num_gpu: 2

datasets:
  train:
    name: REDS
    type:   REDSRecurrentDataset
    test_mode: False

    num_frame: 15
    gt_size: 256
    batch_size_per_gpu: 4
    prefetch_mode: ~

  val:
    num_frame: -1  # not needed

    # val_two: of the block above


# network structures
network_g:
  type: BasicVSR
  spynet_path: experiments/a/very/long/path/that/a/dumper/would/have/wrapped/because/of/its/length/spynet_sintel.pth

train:
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [100000, 100000,
              100000]  # three
    restart_weights: [1, 1, 1]
    # where it ends
    eta_min: !!float 1e-7

  total_iter: !!float 3e5
"""

STOCK_RUN = """
# the run that this file was made from: plan, log and report compare with it
stock_run:
  total_iter: {}  # its iterations
  batch_size: {}  # its samples an iteration, on all GPUs
"""

# Written by hand.
CHANGED = """\
-name: 'run'   # odd   spacing stays
-model_type: "VideoRecurrentModel"  # quoted
+name: run_paper   # odd   spacing stays
+model_type: MultigridVideoModel  # quoted
-    type:   REDSRecurrentDataset
+    type:   MultigridREDSDataset
+# the shapes of the run
+multigrid:
+  gt_size: [128, 256]  # spatial stages, equally long: LQ 32, 64
+  num_frame: [7, 11, 15]  # equal parts of every stage
+
+# the run that this file was made from: plan, log and report compare with it
+stock_run:
+  total_iter: 300000  # its iterations
+  batch_size: 8  # its samples an iteration, on all GPUs
+
-    type: CosineAnnealingRestartLR
-    periods: [100000, 100000,
-              100000]  # three
-    restart_weights: [1, 1, 1]
+    type: MultigridCosineLR
+    restart: shape  # the rate starts again at every change of the shape
+    anneal: last  # it stays near its start until the last shape, and falls there
+    warmup_iter: 5000  # iterations of a linear ramp at the start
+  cuda_graph: true  # one launch an iteration on a GPU, the same bits; not measured on a GPU yet
"""

PRINTED = """\
Recipe paper: arXiv 2205.05069: two spatial stages, three frame counts inside each, equation 1 of the rate, one ramp.
name: run_paper for run, so that the stock run keeps its folder
model_type: MultigridVideoModel for VideoRecurrentModel
datasets.train.type: MultigridREDSDataset for REDSRecurrentDataset
multigrid.gt_size: [128, 256], 1/2 and all of 256, rounded down to multiples of 4, 128 or more
multigrid.num_frame: [7, 11, 15], 1/2, 3/4 and all of 15, rounded down, 6 or more
train.scheduler: MultigridCosineLR without periods and restart_weights, restart: shape, anneal: last, warmup_iter: 5000
train.cuda_graph: True, one launch an iteration on a GPU, the same bits; not measured on a GPU yet

stage     iterations   count  gt_size  num_frame  batch/gpu  samples   Gpixels    cost  Mlaunches
"""


def converted(folder: Path, text: str) -> str:
    """What the command writes for an option file."""
    (folder / 'stock.yml').write_bytes(text.encode())
    main(['convert', '-opt', str(folder / 'stock.yml'), '-o', str(folder / 'mg.yml')])
    assert sorted(path.name for path in folder.iterdir()) == ['mg.yml', 'stock.yml']
    return (folder / 'mg.yml').read_bytes().decode()


def changed_lines(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), n=0)
    return ''.join(line for line in lines if not line.startswith(('---', '+++', '@@')))


def test_convert_changes_the_lines_that_it_has_to_and_says_why(tmp_path, capsys):
    after = converted(tmp_path, STOCK)
    assert changed_lines(STOCK, after) == CHANGED
    assert '    # val_two: of the block above\n\n# the shapes' in after
    assert '# equal parts of every stage\n\n# the run that' in after
    assert 'on all GPUs\n\n\n# network structures\n' in after
    printed = capsys.readouterr().out
    assert printed.startswith(PRINTED)
    assert printed.count('\n') == 9 + 2 + 6 + 1 + 2  # reasons, header, rows, the whole run, pixels and launches


def test_convert_keeps_windows_line_ends_and_the_mark_at_the_start(tmp_path):
    text = '\ufeff' + STOCK.replace('\n', '\r\n')
    after = converted(tmp_path, text)
    assert changed_lines(text, after) == CHANGED.replace('\n', '\r\n')


LIMITS = [
    (
        'multigrid:  # of my arch\n  lq_least: 40  # pixels\n\n',  # its old name
        'multigrid:  # of my arch\n  min_lq_size: 40  # pixels\n  gt_size: [160, 256]  # spatial stages, equally long: '
        'LQ 40, 64\n  num_frame: [7, 11, 15]  # equal parts of every stage\n\n',
        ['multigrid.min_lq_size: 40 stays'],
    ),
    ('multigrid: {num_frame_least: 9}\n',  # its old name
      'multigrid: {min_num_frame: 9, gt_size: [128, 256], num_frame: [9, 11, 15]}\n', ['multigrid.min_num_frame: 9 stays']),
    ('multigrid: {}\n', 'multigrid: {gt_size: [128, 256], num_frame: [7, 11, 15]}\n', []),
]  # fmt: skip


@pytest.mark.parametrize(('before', 'after', 'lines'), LIMITS)
def test_convert_keeps_the_limits_that_a_file_states_and_adds_the_shapes(before, after, lines, tmp_path, capsys):
    text = STOCK.replace('# network structures\n', f'{before}# network structures\n')
    rest = converted(tmp_path, text).partition(after)[2]
    assert rest.lstrip().startswith('# the run that this file was made from')
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(' stays')] == lines


def test_convert_takes_text_that_is_a_number_for_one_and_says_so(tmp_path, capsys):
    after = converted(tmp_path, STOCK.replace('!!float 3e5', '3e5'))
    assert '  total_iter: 300000\n' in after
    line = 'train.total_iter: 3e5 is text in YAML, taken as the number 300000. Write !!float 3e5'
    assert line in capsys.readouterr().out.splitlines()


def test_convert_with_datasets_last_and_no_line_end_adds_the_block_below(tmp_path):
    start, end = STOCK.index('datasets:'), STOCK.index('# network')
    text = STOCK[:start] + STOCK[end:] + '\n' + STOCK[start : STOCK.index('  # not needed')]
    after = converted(tmp_path, text)
    assert after.endswith(
        '    num_frame: -1\n\n# the shapes of the run\nmultigrid:\n'
        '  gt_size: [128, 256]  # spatial stages, equally long: LQ 32, 64\n'
        '  num_frame: [7, 11, 15]  # equal parts of every stage\n'
        f'{STOCK_RUN.format(300000, 8)}'
    )


ENDS = [
    'note: |\n      text\n      # of the text\n',
    "note: 'two\n      lines'  # a comment",
    'interval_list:\n      - 1\n      - 2  # a comment',
    'io_backend:',
    'scale: *scale',
    'io_backend: {type: disk,\n      x: 1}  # a comment',
]


@pytest.mark.parametrize('end', ENDS)
def test_convert_adds_the_block_right_after_datasets_whatever_its_last_option(end, tmp_path):
    text = STOCK.replace('scale: 4', 'scale: &scale 4').replace('num_frame: -1  # not needed', end)
    text = text.replace('    # val_two: of the block above\n', '')
    after = converted(tmp_path, text)
    assert f'    {end.rstrip()}\n\n# the shapes of the run\nmultigrid:\n' in after
    assert changed_lines(text, after) == CHANGED


RULE = 'restart: shape, anneal: last, warmup_iter: -1'
FLOW = [
    ('{type: CosineAnnealingRestartLR,  periods: [9], restart_weights: [1], eta_min: !!float 1e-7}', f'{{type: MultigridCosineLR, {RULE}, eta_min: !!float 1e-7}}'),
    ('{periods: [9], type: CosineAnnealingRestartLR, eta_min: 0, restart_weights: [1]}', f'{{type: MultigridCosineLR, {RULE}, eta_min: 0}}'),
    ('{restart_weights: [1], periods: [9], type: CosineAnnealingRestartLR, }', f'{{type: MultigridCosineLR, {RULE}, }}'),
]  # fmt: skip


@pytest.mark.parametrize(('before', 'after'), FLOW)
def test_convert_edits_blocks_in_braces(before, after, tmp_path):
    datasets = '{train: {type: REDSRecurrentDataset, num_frame: 15, gt_size: 256, batch_size_per_gpu: 1}}'
    text = (
        f'model_type: VideoRecurrentModel\nscale: 4\ndatasets: {datasets}  # one line\nnetwork_g: {{type: BasicVSR}}\n'
        f'train: {{total_iter: 9, scheduler: {before}\n  }}\n'
    )
    block = (
        '\n# the shapes of the run\nmultigrid:\n  gt_size: [128, 256]  # spatial stages, equally long: LQ 32, 64\n'
        f'  num_frame: [7, 11, 15]  # equal parts of every stage\n{STOCK_RUN.format(9, 1)}'
    )
    expected = text.replace('model_type: Video', 'model_type: MultigridVideo').replace('Recurrent', '', 1)
    expected = expected.replace('REDSRecurrentDataset', 'MultigridREDSDataset')
    expected = expected.replace('  # one line\n', f'  # one line\n{block}')
    expected = expected.replace(before, after).replace('total_iter: 9, sch', 'total_iter: 9, cuda_graph: true, sch')
    assert converted(tmp_path, text) == expected


def test_convert_of_a_file_that_is_one_pair_of_braces_adds_the_block_inside(tmp_path):
    opt = options(Path('.'), **REDS)
    after = yaml.safe_load(converted(tmp_path, yaml.safe_dump(opt, default_flow_style=True, sort_keys=False)))
    assert after['multigrid'] == {'gt_size': [128, 256], 'num_frame': [7, 11, 15]}
    assert list(after).index('multigrid') == list(after).index('datasets') + 1


def test_convert_of_an_unknown_arch_on_windows_writes_the_target(tmp_path):
    text = STOCK.replace('REDSRecurrentDataset', 'REDSDataset').replace('type: BasicVSR', 'type: Own')
    assert changed_lines(text, converted(tmp_path, text)).splitlines()[4:11] == [
        '-    type:   REDSDataset',
        '+    type:   MultigridREDSDataset',
        '+    target: center  # ground truth of only the middle frame',
        '+# the shapes of the run',
        '+multigrid:',
        '+  gt_size: [128, 256]  # spatial stages, equally long: LQ 32, 64',
        '+',
    ]


def test_converted_run_trains_on_the_shapes_of_its_block(tmp_path, stock_clips):
    stock = options(
        stock_clips, **{**REDS, 'network_g': NETWORK, 'datasets__train__gt_size': 144, 'datasets__train__num_frame': 7}
    )
    text = yaml.safe_dump(stock, sort_keys=False)
    seen = train_here(tmp_path, yaml.safe_load(converted(tmp_path, text)))
    # Written by hand: 13 iterations are 6 + 7; 6 are 3 + 3 and 7 are 3 + 4.
    frames_and_sides = [(shape[1], shape[3]) for shape, _ in seen[-13:]]  # shapes may be tried before
    assert frames_and_sides == [(6, 32)] * 3 + [(7, 32)] * 3 + [(6, 36)] * 3 + [(7, 36)] * 4


def run(model: str, dataset: str, gt_size: int, num_frame: int, **changes: object) -> dict:
    """A stock run of 13 iterations, with one cosine of as many."""
    return {
        'multigrid': None,
        'model_type': model,
        'datasets__train__type': dataset,
        'datasets__train__gt_size': gt_size,
        'datasets__train__num_frame': num_frame,
        **changes,
    }


def network(arch: str, **opt: object) -> dict:
    return {'network_g': {'type': arch, **opt}}


REDS = run('VideoRecurrentModel', 'REDSRecurrentDataset', 256, 15)
FLIPS = {'datasets__train__flip_sequence': True}
STEPS = {'train__scheduler': {'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.5}}
STEPPED, MULTIGRID = 'MultiStepLR', 'MultigridCosineLR'
VGG = {'network_d': {'type': 'VGGStyleDiscriminator', 'input_size': 256}}
UNET = {'network_d': {'type': 'UNetDiscriminatorSN'}}


def reds(num_frame: int, **changes: object) -> dict:
    return run('VideoRecurrentModel', 'REDSRecurrentDataset', 256, num_frame, **changes)


def vimeo(num_frame: int, **changes: object) -> dict:
    return run('VideoRecurrentModel', 'Vimeo90KRecurrentDataset', 256, num_frame, **changes)


def gan(gt_size: int, **changes: object) -> dict:
    losses = {'train__optim_d': {'type': 'Adam'}, 'train__gan_opt': {'type': 'GANLoss'}}
    return run('VideoRecurrentGANModel', 'REDSRecurrentDataset', gt_size, 15, **losses, **changes)


def edvr(gt_size: int, **changes: object) -> dict:
    return run('EDVRModel', 'REDSDataset', gt_size, 5, **network('EDVR', num_frame=5), **changes)


def window(dataset: str, arch: str, gt_size: int, **changes: object) -> dict:
    return run('VideoBaseModel', dataset, gt_size, 7, **network(arch), **changes)


# Written by hand: the stock run, then model, dataset, gt_size, num_frame and scheduler of the new one.
VIDEO, REDS_TYPE, VIMEO_TYPE = 'MultigridVideoModel', 'MultigridREDSDataset', 'MultigridVimeo90KDataset'
GAN = 'MultigridVideoGANModel'
SIZES = [128, 256]
CASES = {
    'basicvsr': (REDS, VIDEO, REDS_TYPE, SIZES, [7, 11, 15], MULTIGRID),
    'basicvsr, steps': ({**REDS, **STEPS}, VIDEO, REDS_TYPE, SIZES, [7, 11, 15], STEPPED),
    'basicvsr, 3 frames': (reds(3), VIDEO, REDS_TYPE, SIZES, None, MULTIGRID),
    'own arch, x3': ({**reds(6, **network('Own')), 'scale': 3, 'datasets__train__gt_size': 99}, VIDEO, REDS_TYPE, [96, 99], None, MULTIGRID),
    'basicvsr, LQ 1': ({**REDS, 'datasets__train__gt_size': 4}, VIDEO, REDS_TYPE, None, [7, 11, 15], MULTIGRID),
    'basicvsr, LQ 1, periods too short': (
        {**REDS, 'datasets__train__gt_size': 4, 'train__scheduler__periods': [6, 6]},
        VIDEO, REDS_TYPE, None, [7, 11, 15], MULTIGRID,
    ),
    'basicvsr, vimeo': (vimeo(-1), VIDEO, VIMEO_TYPE, SIZES, [6, 7], MULTIGRID),
    'basicvsr, vimeo, flips': (vimeo(-1, **FLIPS), VIDEO, VIMEO_TYPE, SIZES, [6, 10, 14], MULTIGRID),
    'basicvsr, vimeo, 7 of 14 frames': (vimeo(7, **FLIPS), VIDEO, VIMEO_TYPE, SIZES, [6, 10, 14], MULTIGRID),
    'iconvsr, 8 frames': (reds(8, **network('IconVSR')), VIDEO, REDS_TYPE, SIZES, [6, 8], MULTIGRID),
    'iconvsr, vimeo, flips': (
        vimeo(-1, **FLIPS, **network('IconVSR', temporal_padding=3)), VIDEO, VIMEO_TYPE, SIZES, [8, 10, 14], MULTIGRID,
    ),
    'basicvsr++': (reds(30, **network('BasicVSRPlusPlus')), VIDEO, REDS_TYPE, SIZES, [15, 22, 30], MULTIGRID),
    'basicvsr++, full size': (
        {**reds(30, **network('BasicVSRPlusPlus', is_low_res_input=False)), 'scale': 1, 'datasets__train__gt_size': 100},
        VIDEO, REDS_TYPE, [48, 100], [15, 22, 30], MULTIGRID,
    ),
    'edvr': (edvr(256), VIDEO, REDS_TYPE, SIZES, None, MULTIGRID),
    'edvr, 160 pixels': (edvr(160), VIDEO, REDS_TYPE, [128, 160], None, MULTIGRID),
    'edvr, vimeo': (window('Vimeo90KDataset', 'EDVR', 256), VIDEO, VIMEO_TYPE, SIZES, None, MULTIGRID),
    'duf': (window('Vimeo90KDataset', 'DUF', 256), VIDEO, VIMEO_TYPE, SIZES, None, MULTIGRID),
    'toflow': (window('Vimeo90KDataset', 'TOFlow', 112, scale=1), VIDEO, VIMEO_TYPE, [48, 112], None, MULTIGRID),
    'gan': (gan(256, **VGG, **STEPS), GAN, REDS_TYPE, None, [7, 11, 15], STEPPED),
    'gan, cosine': (gan(256, **VGG), GAN, REDS_TYPE, None, [7, 11, 15], MULTIGRID),
    'gan, unet': (gan(200, **UNET), GAN, REDS_TYPE, [128, 200], [7, 11, 15], MULTIGRID),
    'own arch': (reds(15, **network('Own')), VIDEO, REDS_TYPE, SIZES, [7, 11, 15], MULTIGRID),
    'own arch, windows': (window('REDSDataset', 'Own', 256), VIDEO, REDS_TYPE, SIZES, None, MULTIGRID),
}  # fmt: skip


@pytest.mark.parametrize(
    ('changes', 'model', 'dataset', 'gt_size', 'num_frame', 'scheduler'), CASES.values(), ids=CASES
)
def test_convert_fits_the_shapes_to_the_run(changes, model, dataset, gt_size, num_frame, scheduler):
    stock = options(Path('.'), **changes)
    new = convert(stock).options
    assert (new['model_type'], new['datasets']['train']['type']) == (model, dataset)
    block = {'gt_size': gt_size, 'num_frame': num_frame}
    assert new['multigrid'] == {key: values for key, values in block.items() if values}
    if scheduler == MULTIGRID:
        rule = {'restart': 'shape', 'anneal': 'last', 'warmup_iter': -1}  # 13 iterations are too few for a ramp
        if stock['network_g']['type'] == 'EDVR':
            rule['restart_weights'] = [0.5, 1]
        assert new['train']['scheduler'] == {'type': MULTIGRID, **rule, 'eta_min': 1e-7}
    else:
        assert new['train']['scheduler'] == stock['train']['scheduler']
    assert stock == options(Path('.'), **changes)


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        (CASES['gan'][0], 'multigrid.gt_size: left out, the VGGStyleDiscriminator takes only 256 pixels'),
        (CASES['gan'][0], 'train.scheduler: MultiStepLR stays as it is: the rate does not start again with the shapes'),
        (CASES['gan, cosine'][0], 'train.scheduler: MultigridCosineLR without periods and restart_weights, restart: shape, anneal: last, warmup_iter: -1'),
        (CASES['edvr'][0], 'train.scheduler: MultigridCosineLR without periods and restart_weights, restart: shape, anneal: last, warmup_iter: -1, restart_weights: [0.5, 1]'),
        ({**REDS, 'train__warmup_iter': 5}, "train.warmup_iter: -1 for 5, BasicSR's own ramp, as there is one now"),
        (CASES['edvr'][0], 'multigrid.num_frame: left out, an arch with one target frame has its 5 frames built in'),
        (CASES['iconvsr, vimeo, flips'][0], 'datasets.train.num_frame: 14 for -1, all frames of a septuplet and the same backwards'),
        (CASES['iconvsr, vimeo, flips'][0], 'multigrid.num_frame: [8, 10, 14], 1/2, 3/4 and all of 14, rounded down to multiples of 2, 8 or more'),
        (CASES['basicvsr, LQ 1'][0], 'multigrid.gt_size: left out, 1/2 and all of 4, rounded down to multiples of 4, 128 or more'),
        (CASES['own arch'][0], 'network_g.type: Own is not known here: the start of the run will show whether it takes the shapes'),
        (CASES['own arch, windows'][0], 'datasets.train.target: center, as in BasicSR for this dataset'),
    ],
)  # fmt: skip
def test_convert_says_why(changes, line):
    assert line in convert(options(Path('.'), **changes)).reasons


LENGTH = {'train__total_iter': 300, 'train__scheduler__periods': [300]}
LONGER = {'train__total_iter': 30000, 'train__scheduler__periods': [30000]}


def fast_shapes(changes: dict) -> list[tuple[int, int, int]]:
    stages = convert(options(Path('.'), **{**changes, **LENGTH}), 'fast', fill=False).options['multigrid']['stages']
    assert not any('batch_size_per_gpu' in entry for entry in stages)
    return [(entry['iter'], entry['num_frame'], entry['gt_size']) for entry in stages]


@pytest.mark.parametrize(
    ('changes', 'shapes'),
    [
        (REDS, [(270, 11, 64), (270, 11, 128), (15, 15, 256)]),
        (vimeo(7), [(270, 5, 64), (270, 5, 128), (15, 7, 256)]),
        (vimeo(-1, **FLIPS), [(270, 10, 64), (270, 10, 128), (15, 14, 256)]),
        ({**REDS, 'multigrid': {'min_lq_size': 32}}, [(540, 11, 128), (15, 15, 256)]),
        (edvr(256), [(270, 5, 64), (270, 5, 128), (15, 5, 256)]),
        ({**REDS, 'datasets__train__gt_size': 128}, [(540, 11, 64), (15, 15, 128)]),  # LQ 8 is below 16: one stage
        (window('Vimeo90KDataset', 'TOFlow', 112, scale=1), [(270, 7, 32), (270, 7, 48), (15, 7, 112)]),
    ],
    ids=['basicvsr', 'vimeo', 'vimeo, flips', 'LQ 32 or more', 'edvr', 'one small stage', 'toflow'],
)  # fmt: skip
def test_fast_recipe_has_nearly_twice_the_iterations_nearly_all_of_them_small(changes, shapes):
    assert fast_shapes(changes) == shapes


def test_fast_recipe_scales_what_counts_iterations_and_adds_its_options():
    new = convert(options(Path('.'), **{**edvr(256), **LONGER, 'train__tsa_iter': 3000}), 'fast').options['train']
    # By hand: 1500 + (27000 - 1500) / 4 + 27000 / 4 + 1500 = 16125, 0.5375 of the stock run's 30000; 0.5375 x 3000 = 1612.5.
    assert (new['total_iter'], new['tsa_iter']) == (16125, 1612)
    assert (new['channels_last'], new['amp'], new['cuda_graph']) == (True, 'auto', True)
    assert new['scheduler'] == {
        'type': MULTIGRID,
        'restart': 'shape',
        'anneal': 'last',
        'warmup_iter': 1075,
        'restart_weights': [0.5, 0.5, 1],
        'eta_min': 1e-7,
        'batch_scaling': 'sqrt',
    }


FILLED = [  # the stock run, its batch, samples of the data; batches of the entries before the last, and why they are smaller
    (REDS, 4, None, [4, 16, 16], []),
    (vimeo(7), 4, None, [4, 16, 16], []),
    (edvr(256), 4, None, [4, 16, 16], []),
    ({**REDS, 'datasets__train__gt_size': 128}, 2, None, [2, 8], []),
    # By hand: 2 x 14 x 112^2 / (10 x 80^2) = 5.49; 112 / 2 is 56, which an LQ side of 20 raises to 80.
    ({**vimeo(-1, **FLIPS), 'datasets__train__gt_size': 112, 'multigrid': {'min_lq_size': 20}}, 2, None, [2, 5], [
        '10 frames of 80 pixels: a batch of 5, not 8: it has the pixels of the full shape',
    ]),
    (REDS, 4, 9, [4, 9, 9], ['11 frames of 64 pixels: a batch of 9, not 16: the data has 9 samples', '11 frames of 128 pixels: a batch of 9, not 16: the data has 9 samples']),
    (REDS, 4, 3, [4, 4, 4], None),
    ({**REDS, 'path__pretrain_network_g': 'a.pth'}, 4, None, [16, 16], []),  # it has left bilinear
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'batch', 'num_samples', 'batches', 'lines'), FILLED)
def test_fast_recipe_fills_small_shapes_as_far_as_memory_and_data_allow(changes, batch, num_samples, batches, lines):
    stock = options(Path('.'), **{**changes, **LONGER, 'datasets__train__batch_size_per_gpu': batch})
    unfilled = convert(stock, 'fast', fill=False).schedule
    new = convert(stock, 'fast', num_samples=num_samples)
    shapes = [segment.shape for segment in new.schedule.segments]
    assert [shape.batch_size_per_gpu for shape in shapes] == [*batches, batch]
    assert all(shape.pixels <= new.schedule.full_shape.pixels for shape in shapes)
    if lines is not None:
        assert list(dict.fromkeys(line for line in new.reasons if ': a batch of ' in line)) == lines
    assert total_samples(new.schedule) == pytest.approx(total_samples(unfilled), rel=0.01)


@pytest.mark.parametrize(
    ('length', 'lengths'),
    [
        (4, [4, 4, 1]),  # by hand: 0.9 x 4 is 3.6, and at least one of the full shape
        (900, [810, 190, 155, 45]),  # (810 - 190) / 4
        (3600, [1000, 560, 810, 180]),
        (300_000, [15_000, 63_750, 67_500, 15_000]),
    ],
)
def test_filled_run_begins_with_the_batch_of_the_file(length, lengths):
    of_length = {'train__total_iter': length, 'train__scheduler__periods': [length]}
    segments = convert(options(Path('.'), **{**REDS, **of_length}), 'fast').schedule.segments
    assert [segment.num_iter for segment in segments] == lengths
    assert segments[0].shape.batch_size_per_gpu == segments[-1].shape.batch_size_per_gpu


LAUNCHES = [  # BasicSR's own files: arch, its options, frames, the most of stock's launches that `fast` may have
    ('BasicVSR', {'num_feat': 64, 'num_block': 30}, 15, 0.40),
    ('IconVSR', {'num_feat': 64, 'num_block': 30, 'keyframe_stride': 5, 'temporal_padding': 2}, 15, 0.50),
    ('BasicVSRPlusPlus', {'mid_channels': 64, 'num_blocks': 7, 'is_low_res_input': True}, 30, 0.50),
]


@pytest.mark.parametrize(('arch', 'arguments', 'num_frame', 'most'), LAUNCHES)
def test_fast_recipe_launches_less_than_half_of_stock(arch, arguments, num_frame, most):
    length = {'train__total_iter': 300000, 'train__scheduler__periods': [300000]}
    new = convert(options(Path('.'), **{**reds(num_frame, **network(arch, **arguments)), **length}), 'fast')
    launches = known_run_launches(new.options, new.schedule)
    assert 0.3 < launches.total(new.schedule) / (300000 * launches.stock) <= most


def test_paper_recipe_filled_has_the_paper_s_shapes_at_equal_samples():
    stock = options(Path('.'), **{**REDS, 'train__total_iter': 30000, 'datasets__train__batch_size_per_gpu': 4})
    new, paper = convert(stock, 'paper', fill=True), convert(stock).schedule
    # By hand: floor(4 x 15 x 256^2 / (t x g^2)), at most 16.
    assert new.options['multigrid'] == {
        'gt_size': [128, 256],
        'num_frame': [7, 11, 15],
        'batch_size_per_gpu': [16, [8, 5, 4]],
        'share': 'samples',
        'stage_iter': [15000, 15000],
    }
    assert new.options['name'] != convert(stock).options['name']
    shapes = [[(s.shape.num_frame, s.shape.gt_size) for s in run.segments] for run in (new.schedule, paper)]
    assert shapes[0] == shapes[1]
    assert total_samples(new.schedule) == pytest.approx(total_samples(paper), rel=1e-3)
    assert new.options['train']['scheduler']['batch_scaling'] == 'sqrt'


def test_fast_file_says_what_each_line_is_for_and_compares_with_the_stock_run(tmp_path, capsys):
    (tmp_path / 'stock.yml').write_text(STOCK)
    main(['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / 'mg.yml'), '--recipe', 'fast'])
    shapes = """\
# the shapes of the run
multigrid:
  stages:  # LQ 16, 32, 64
    - {iter: 15000, gt_size: 64, num_frame: 11}
    - {iter: 63750, gt_size: 64, num_frame: 11, batch_size_per_gpu: 16}
    - {iter: 67500, gt_size: 128, num_frame: 11, batch_size_per_gpu: 16}
    - {iter: 15000, gt_size: 256, num_frame: 15}
"""
    text = (tmp_path / 'mg.yml').read_text()
    assert shapes in text
    assert '  channels_last: true  # the layout that convolutions are fastest in\n' in text
    # By hand: 2 x 4 x (270000 x 11 x (64^2 + 128^2) + 15000 x 15 x 256^2) = 604.57e9; 300000 x 8 x 15 x 256^2 is 3.90 times that.
    # (15000 + 63750 + 67500) x (680 + 11 x 650) + 15000 x (680 + 15 x 650) against 300000 x (680 + 15 x 716) launches.
    said = capsys.readouterr().out
    assert (
        'against 2359.296 for the stock run, 300000 iterations of 8 samples: 3.90x fewer, with 1.85x the samples.'
        in said
    )
    assert (
        'Kernel launches on each GPU: 1302 million against 3426 of stock, 0.38 as many. At 5 us each they take at least '
        '1.8 h against 4.8 h. With train.cuda_graph launches do not bind.\n' in said
    )
    assert 'The paper stays at 32 or more: it lost quality with 16.' in said


def test_convert_with_the_plain_recipe_swaps_types_alone(tmp_path):
    (tmp_path / 'stock.yml').write_text(STOCK)
    main(['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / 'mg.yml'), '--recipe', 'plain'])
    assert changed_lines(STOCK, (tmp_path / 'mg.yml').read_text()) == CHANGED[: CHANGED.index('+# the shapes')].replace(
        'run_paper', 'run_plain'
    )


def test_recipe_of_the_paper_gives_edvr_half_the_rate_in_the_small_stage():
    length = {'train__total_iter': 150, 'train__scheduler__periods': [150]}
    opt = convert(options(Path('.'), **{**edvr(256), **length})).options
    schedule = schedule_from_options(opt)
    rates = CosineSchedule(schedule, cosine_options(opt['train']['scheduler'], schedule))
    # A ramp of 150/15 = 10 iterations, then 4e-4 / 2 x (1 + cos(pi 10/150)) / 2; from iteration 75 on the full rate.
    assert [rates.at(i, 4e-4) for i in (0, 10, 75)] == pytest.approx([2e-5, 1.97815e-4, 4e-4], rel=1e-4)


BAD = [
    ({'multigrid': {'gt_size': [64, 256]}}, 'multigrid: must not be there yet, or hold only lq_divisor, min_lq_size, min_num_frame, got a block. Change it'),
    ({'network_g': 'BasicVSR'}, 'network_g: must be a block of options, got BasicVSR. A training run needs it.'),
    ({'train__scheduler': None}, 'train.scheduler: must be a block of options, got nothing.'),
    ({'model_type': 'VideoRecurentModel'}, 'model_type: must be one of VideoRecurrentModel, VideoRecurrentGANModel, EDVRModel, VideoBaseModel, got VideoRecurentModel. Did you mean `VideoRecurrentModel`?'),
    ({'model_type': 'SRModel'}, "model_type: must be .*, got SRModel. It converts BasicSR's video training files."),
    ({'model_type': None}, 'model_type: must be one of .*, got nothing.'),
    ({'datasets__train__type': 'Vimeo90kDataset'}, 'datasets.train.type: must be one of REDSRecurrentDataset, .*, got Vimeo90kDataset. Did you mean `Vimeo90KDataset`?'),
    ({'datasets__train__gt_size': 250}, r'datasets.train.gt_size: must be a multiple of scale \(4\), got 250.'),
    ({'train__scheduler__eta_min': 'tiny'}, 'train.scheduler.eta_min: must be a number of at least 0, got tiny.'),
    ({'train__scheduler__last_epoch': 1}, 'train.scheduler.last_epoch: must be one of .*, got last_epoch.'),
    ({**network('EDVR'), 'datasets__train__gt_size': 200}, 'datasets.train.gt_size: must be a multiple of 16 for EDVR'),
    (gan(128, **VGG), 'datasets.train.gt_size: must be 256 throughout for a VGGStyleDiscriminator'),
    ({'datasets__train__gt_size': 4, 'datasets__train__num_frame': 2}, 'multigrid: must let gt_size or num_frame grow, got only gt_size 4 and num_frame 2. No smaller shape'),
    (network('DUF', scale=2), 'scale: must be 2 for DUF, which has it built in, got 4. Change it.'),
    ({'--recipe': 'plain', '--fill': None}, r'--fill: must stand beside a recipe with small shapes, got plain\. Leave it out'),
    ({**gan(256, **VGG), **LENGTH, '--recipe': 'fast'}, 'multigrid.stages: must have fewer pixels than the stock run, got 137% of them: crops are 256. Use --recipe paper'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), BAD)
def test_convert_of_a_run_that_it_cannot_convert_says_why(changes, line, tmp_path):
    asked = [word for key, value in changes.items() if key.startswith('--') for word in (key, value) if word]
    changed = {key: value for key, value in changes.items() if not key.startswith('--')}
    opt_file = write(tmp_path, options(Path('.'), **{**REDS, **changed}))
    with pytest.raises(SystemExit, match=line) as error:
        main(['convert', '-opt', str(opt_file), '-o', str(tmp_path / 'mg.yml'), *asked])
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['run.yml']


BAD_TEXTS = [
    ('a: !!python/object/apply:os.system [touch ran]', 'stock.yml: must be plain YAML, got the tag !!python/object'),
    (STOCK + 'scale: 4\nmodel_type: VideoRecurrentModel\n', 'stock.yml: must say an option once in a block, got scale'),
    (STOCK.replace('periods:', 'periods: &p') + '  other: *p\n', '-opt: must say each option in one place, got'),
    (
        STOCK.replace('    periods: [100000, 100000,\n              100000]', '    <<: {periods: [300000]}'),
        'stock.yml: must be without merge keys, which BasicSR does not merge, got `<<` in line',
    ),
]  # fmt: skip


@pytest.mark.parametrize(('text', 'line'), BAD_TEXTS)
def test_convert_of_a_text_that_it_cannot_edit_says_why(text, line, tmp_path):
    (tmp_path / 'stock.yml').write_text(text)
    with pytest.raises(SystemExit, match=line) as error:
        main(['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / 'mg.yml')])
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['stock.yml']


@pytest.mark.parametrize(
    ('out', 'line'),
    [
        ('stock.yml', '-o: must not exist yet, got .*stock.yml. Give another name.'),
        ('no/mg.yml', '-o: must lie in a folder that exists, got .*mg.yml. Make .*no first.'),
        ('x' * 300, r'-o: must be a file that can be written, got .* \(File name too long\). Correct the path.'),
    ],
)
def test_convert_to_a_file_that_it_cannot_write_says_why(out, line, tmp_path):
    (tmp_path / 'stock.yml').write_text(STOCK)
    with pytest.raises(SystemExit, match=line):
        main(['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / out)])
    assert [path.name for path in tmp_path.iterdir()] == ['stock.yml']
    assert (tmp_path / 'stock.yml').read_text() == STOCK


OURS = sorted((Path(__file__).parent.parent / 'options').glob('train_*.yml'))
BASICSRS = sorted(
    path
    for folder in ('BasicVSR', 'BasicVSRPP', 'EDVR', 'VideoRecurrentGAN')
    for path in (Path(os.environ.get('BASICSR_OPTIONS', os.devnull)) / folder).glob('*.yml')
)
CONVERTED = {
    'train_IconVSR_REDS.yml': 'train_iconvsr_mg.yml',
    'train_BasicVSR_Vimeo90K_BIx4.yml': 'train_basicvsr_vimeo90k_mg.yml',
    'train_IconVSR_Vimeo90K_BIx4.yml': 'train_iconvsr_vimeo90k_mg.yml',
    'train_BasicVSRPP_REDS.yml': 'train_basicvsrpp_mg.yml',
    'train_EDVR_M_x4_SR_REDS.yml': 'train_edvr_m_mg.yml',
    'train_VideoRecurrentGANModel_REDS.yml': 'train_basicvsr_gan_mg.yml',
}


@pytest.mark.parametrize('path', [*OURS, *BASICSRS], ids=lambda path: path.name)
def test_option_file_passes_every_check_and_is_plain_without_the_block(path, tmp_path):
    """BasicSR's own are converted first, where ``BASICSR_OPTIONS`` names its folder ``options/train``."""
    if path in BASICSRS:
        text = converted(tmp_path, path.read_text())
        if path.name in CONVERTED:
            committed = (OURS[0].parent / CONVERTED[path.name]).read_text()
            assert committed.partition('\n\n')[2] == text  # below the comment that says what it is
        path = tmp_path / 'mg.yml'
    opt = read_options(path)
    assert len(schedule_from_options(opt).segments) > 1
    for _ in range(2):
        schedule = schedule_from_options(opt)
        check_scheduler(opt, schedule)
        check_arch(opt, schedule)
        opt.pop('multigrid', None)
    assert [segment.shape for segment in schedule.segments] == [schedule.full_shape]
