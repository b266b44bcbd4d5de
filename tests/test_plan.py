"""What ``multigrid-vsr plan`` says of a run beside its stock run: pixels and kernel launches, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.utils.registry import ARCH_REGISTRY
from runs import TRAIN, options, run, write
from test_arch_speed import can_count
from test_convert import REDS, network

from multigrid_vsr import launches
from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.core.plan import StockRun, fewer_pixels, total_samples
from multigrid_vsr.core.schedule import BatchShape, Schedule
from multigrid_vsr.measure import Prediction
from multigrid_vsr.models.clock import Pace
from multigrid_vsr.options.conversion import convert
from multigrid_vsr.options.launches import known_launches, known_run_launches
from multigrid_vsr.options.run_options import checked_schedule

LENGTH = {'train__total_iter': 300000, 'train__scheduler__periods': [300000], 'datasets__train__batch_size_per_gpu': 4}
BASICVSR = {**REDS, **LENGTH, 'num_gpu': 2, **network('BasicVSR', num_feat=64, num_block=30)}
STOCK = {'stock_run': {'total_iter': 300000, 'batch_size': 8}}


def planned(folder: Path, capsys: pytest.CaptureFixture[str], opt: dict, *arguments: str) -> str:
    (folder / 'run.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    capsys.readouterr()
    main(['plan', '-opt', str(folder / 'run.yml'), *arguments])
    printed = capsys.readouterr().out
    assert 'Not for this machine. num_gpu: must be at most the 0 GPUs of this machine, got' in printed
    return printed


def test_plan_of_a_converted_file_compares_with_the_stock_run_as_convert_does(tmp_path, capsys):
    (tmp_path / 'stock.yml').write_text(yaml.safe_dump(options(Path('.'), **BASICVSR), sort_keys=False))
    for recipe in ('paper', 'fast'):
        main(
            ['convert', '-opt', str(tmp_path / 'stock.yml'), '-o', str(tmp_path / f'{recipe}.yml'), '--recipe', recipe]
        )
        said = [line for line in capsys.readouterr().out.splitlines() if ' against ' in line]
        assert len(said) == 2
        opt = yaml.safe_load((tmp_path / f'{recipe}.yml').read_text())
        assert [line for line in planned(tmp_path, capsys, opt).splitlines() if ' against ' in line] == said


def test_plan_compares_pixels_samples_and_launches_with_the_stock_run(tmp_path, capsys):
    opt = convert(options(Path('.'), **BASICVSR), 'fast', fill=False).options
    del opt['train']['cuda_graph']
    printed = planned(tmp_path, capsys, opt)
    # By hand: 2 GPUs x 4 x (270000 x 11 x (64^2 + 128^2) + 15000 x 15 x 256^2) = 604.570 Gpixels of 2359.296;
    # 540000 x (560 + 11 x 1190) + 15000 x (560 + 15 x 1190) = 7647 of 300000 x (560 + 15 x 1316) = 6090 million launches.
    assert (
        '604.570 Gpixels against 2359.296 for the stock run, 300000 iterations of 8 samples: 3.90x fewer, with 1.85x the '
        'samples. ' in printed
    )
    assert (
        'Kernel launches on each GPU: 7647 million against 6090 of stock, 1.26 as many. At 5 us each they take at least '
        '10.6 h against 8.5 h.\n'
        'Warning: the run launches 1.26 times the kernels of stock: on a fast GPU it may take longer. Set '
        'train.cuda_graph: true, or fill the small shapes (convert --fill).\n' in printed
    )
    row = [line.split() for line in printed.splitlines()[2:6]]
    assert [cells[9] for cells in row[:3]] == ['3685.500', '3685.500', '276.150']  # millions
    assert row[3][-1] == '7647.150'
    opt['train']['cuda_graph'] = True
    assert 'With train.cuda_graph launches do not bind.\n' in planned(tmp_path, capsys, opt)


def test_plan_without_a_stock_run_says_that_it_compares_at_equal_iterations(tmp_path, capsys):
    opt = convert(options(Path('.'), **BASICVSR), 'fast', fill=False).options
    del opt['stock_run']
    printed = planned(tmp_path, capsys, opt)
    # 555000 iterations of the full shape are 4364.698 Gpixels: 2 x 4 x 15 x 256^2 each.
    assert (
        '604.570 Gpixels against 4364.698 for 555000 iterations of the full shape: 7.22x fewer at equal iterations. '
        in printed
    )
    assert 'Kernel launches on each GPU: 7647 million against 11266 for the same, 0.68 as many.' in printed


def test_plan_on_other_gpus_takes_the_stock_run_there_too(tmp_path, capsys):
    opt = convert(options(Path('.'), **BASICVSR)).options
    (tmp_path / 'run.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    main(['plan', '-opt', str(tmp_path / 'run.yml'), '--gpus', '8', '--json'])
    data = json.loads(capsys.readouterr().out)
    assert data['stock'] == {
        'total_iter': 300000,
        'samples': 300000 * 32,
        'pixels': 300000 * 32 * 15 * 256**2,
        'launches': 300000 * 20300,
    }
    assert data['samples'] == 300000 * 32
    assert data['launches'] == 100000 * (8890 + 13650 + 18410)
    assert [segment['launches'] for segment in data['segments'][:2]] == [50000 * 8890, 50000 * 13650]


def test_measured_hours_of_stock_are_those_of_the_stock_run():
    full = BatchShape(4, 15, 256)
    schedule = Schedule.from_shapes([(1000, BatchShape(16, 11, 64)), (100, full)], full)
    costs = {segment.shape: Pace(step=0.5) for segment in schedule.segments}
    unknown = Prediction(schedule, costs, None, stock_step=2.0)
    assert unknown.stock_iterations == 4100  # 16000 + 400 samples
    assert '4100 iterations of the full shape (the same samples) at 2 s' in str(unknown)
    known = Prediction(schedule, costs, StockRun(3000, 4), stock_step=2.0)
    assert (known.stock_iterations, known.stock_seconds, known.seconds) == (3000, 6000.0, 550.0)
    assert '3000 iterations of the full shape (the samples of the stock run) at 2 s' in str(known)
    assert '10.91 times as long.' in str(known)


def test_log_of_a_run_compares_with_the_stock_run(tmp_path, clips):
    opt = options(clips, multigrid={'gt_size': [64, 128]}, stock_run={'total_iter': 26, 'batch_size': 2})
    log = run(*TRAIN, write(tmp_path, opt), cwd=tmp_path).stdout
    assert 'for the stock run, 26 iterations of 2 samples: 6.12x fewer, with 0.25x the samples.' in log


def test_plan_counts_the_launches_of_every_micro_batch(tmp_path, capsys):
    opt = convert(options(Path('.'), **BASICVSR)).options
    opt['multigrid']['micro_batch_size_per_gpu'] = 2
    printed = planned(tmp_path, capsys, opt)
    # 4 samples of 15 x 256 go through in two parts, of 15 x 128 at once: 8 of them have the pixels of 2 full ones.
    assert [line.split()[9] for line in printed.splitlines()[2:8]] == [
        '444.500', '682.500', '920.500', '444.500', '1365.000', '1841.000',
    ]  # fmt: skip


class RenamedBasicVSR(BasicVSR):
    """An arch that the table of launches does not have."""


ARCH_REGISTRY.register(RenamedBasicVSR)


@can_count
def test_launches_of_an_arch_that_is_not_in_the_table_are_counted(tmp_path, capsys):
    opt = convert(options(Path('.'), **{**BASICVSR, **network('BasicVSR', num_feat=8, num_block=1)}), 'paper').options
    columns = []
    for opt['network_g']['type'] in ('BasicVSR', 'RenamedBasicVSR'):
        lines = planned(tmp_path, capsys, opt).splitlines()
        columns.append([float(line.split()[9]) for line in lines[2:8]])
    assert columns[1] == pytest.approx(columns[0], rel=0.02)


def test_plan_for_the_cpu_says_nothing_of_launches(tmp_path, clips, capsys):
    main(['plan', '-opt', str(write(tmp_path, options(clips, multigrid={'gt_size': [64, 128]})))])
    assert 'aunches' not in capsys.readouterr().out


def test_page_of_recipes_has_the_launches_that_plan_prints():
    stock = options(Path('.'), **{**BASICVSR, 'num_gpu': 1})
    lines = []
    for name, fill in (('paper', None), ('paper --fill', True), ('fast --no-fill', False), ('fast', None)):
        new = convert(stock, name.split()[0], fill)
        launches = known_run_launches(new.options, new.schedule)
        total, samples = launches.total(new.schedule), total_samples(new.schedule) / 1_200_000
        pixels = 1 / fewer_pixels(new.schedule, 1, StockRun(300000, 4))
        hours = f'{total * 5e-6 / 3600:.1f} h'
        lines.append(f'| `{name}` | {pixels:.2f} | {samples:.3g} | {total / (300000 * 20300):.2f} | {hours} |')
    page = (Path(__file__).parents[1] / 'docs/recipes.md').read_text()
    assert '\n'.join(lines) in page


@pytest.mark.parametrize(
    ('block', 'line'),
    [
        (8, r'stock_run: must be a block of total_iter and batch_size, got 8\. Correct or delete it\.'),
        ({'total_iter': 9}, r'stock_run.batch_size: must be given, got nothing\. Add it, or delete the block\.'),
        ({'total_iter': 0, 'batch_size': 1}, r'stock_run.total_iter: must be a whole number of at least 1, got 0\.'),
        ({'total_iters': 9, 'batch_size': 1}, r'stock_run.total_iters: must be one of .* Did you mean `total_iter`\?'),
    ],
)
def test_stock_run_of_another_form_is_refused(block, line):
    with pytest.raises(InputError, match=line):
        checked_schedule(options(Path('.'), stock_run=block))


COUNTED = [  # small enough to be counted in seconds; launches are linear in frames, blocks and keyframes
    ({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}, 2),
    ({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 3}, 3),
    ({'type': 'IconVSR', 'num_feat': 8, 'num_block': 1}, 7),
    ({'type': 'IconVSR', 'num_feat': 8, 'num_block': 2, 'keyframe_stride': 3, 'temporal_padding': 3}, 7),
    ({'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}, 2),
    ({'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 2}, 3),
    ({'type': 'EDVR', 'num_feat': 8, 'deformable_groups': 2, 'num_frame': 3, 'num_extract_block': 1}, 3),
    ({'type': 'EDVR', 'num_feat': 8, 'deformable_groups': 2, 'num_reconstruct_block': 2, 'with_tsa': False}, 5),
    ({'type': 'DUF', 'num_layer': 16}, 7),
    ({'type': 'TOFlow'}, 7),
]


@can_count
@pytest.mark.parametrize(('network_opt', 'num_frame'), COUNTED, ids=str)
def test_table_of_launches_is_what_is_counted(network_opt, num_frame):
    ((*_, stock, _, _, here, _),) = launches.compare(network_opt, [(num_frame, 64)])
    assert known_launches(network_opt, num_frame) == pytest.approx((stock, here), rel=0.02)  # torch versions differ


def test_table_of_launches_knows_the_full_networks_of_basicsr_and_no_other():
    # As `benchmarks.launches` counted them with torch 2.14.
    counted = {
        ('BasicVSR', 'num_block', 30, 15): (20300, 18410),
        ('IconVSR', 'num_block', 30, 15): (25876, 23702),
        ('BasicVSRPlusPlus', 'num_blocks', 7, 30): (39896, 36876),
        ('EDVR', 'num_reconstruct_block', 10, 5): (1534, 1444),
    }
    for (arch, key, blocks, num_frame), expected in counted.items():
        assert known_launches({'type': arch, key: blocks, 'spynet_path': 'x.pth'}, num_frame) == expected
    assert known_launches({'type': 'Own'}, 7) is None
    assert known_launches({'type': 'EDVR', 'hr_in': True}, 5) is None
    assert known_launches({'type': 'BasicVSRPlusPlus', 'is_low_res_input': False}, 7) is None
    assert known_launches({'type': 'BasicVSR', 'more': 1}, 7) is None
