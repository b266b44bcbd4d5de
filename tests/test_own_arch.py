"""Archs of the user's own: sizes that they refuse, and limits that the option file states."""

from __future__ import annotations

import own_parts  # noqa: F401  # registers
import pytest
from probe import NETWORK, refused, train_here
from runs import options
from test_archs import ARCHS, arch_options

from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models import preflight
from multigrid_vsr.options.archs import leaves_doubt


def test_arch_with_a_least_size_keeps_it_and_the_line_says_the_smallest(tmp_path, clips):
    """As BasicVSR++'s assertion of 64 LQ pixels in an arch of the user's own."""
    line = (
        r'gt_size 64 \(at least 24, got 16\). The smallest gt_size that it takes is 96: .*multigrid.min_lq_size: 24\).'
    )
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, options(clips, network_g={'type': 'WindowedArch'}))


LIMITS = [
    ({'min_lq_size': 24}, 'multigrid.gt_size: must be at least 96 for ShapeProbe, got 64. Leave smaller ones out.'),
    ({'lq_divisor': 24}, 'multigrid.gt_size: must be a multiple of 96 for ShapeProbe, got 64.'),
    ({'min_num_frame': 3}, 'multigrid.num_frame: must be at least 3 for ShapeProbe, got 2.'),
    ({'min_lq_size': 0}, 'multigrid.min_lq_size: must be a whole number of at least 1, got 0.'),
]


@pytest.mark.parametrize(('limits', 'line'), LIMITS, ids=str)
def test_limit_that_the_file_states_holds_before_anything_is_written(limits, line, tmp_path, clips):
    opt = options(clips, network_g=NETWORK)
    opt['multigrid'].update(limits)
    refused(tmp_path, opt, line)


def test_limits_may_stand_beside_stages_and_a_known_arch(tmp_path, clips):
    stages = [{'iter': 2, 'gt_size': 64, 'num_frame': 3}, {'iter': 11}]
    opt = options(clips, multigrid={'stages': stages, 'min_lq_size': 20, 'min_num_frame': 3})
    refused(tmp_path, opt, 'multigrid.gt_size: must be at least 80 for BasicVSR, got 64.')


@pytest.mark.parametrize(
    ('network', 'doubtful'),
    [
        ({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}, False),
        ({'type': 'EDVR', 'num_feat': 8, 'hr_in': True}, False),
        ({'type': 'EDVR', 'num_feat': 8, 'with_predeblur': True}, True),
        ({'type': 'MyArch'}, True),
    ],
)
def test_unusual_option_of_a_known_arch_leaves_doubt(network, doubtful):
    assert leaves_doubt(network) is doubtful


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('unusual', 'tried'), [({}, []), ({'center_frame_idx': 1}, [(5, 64), (5, 128)])])
def test_known_arch_is_tried_where_its_options_leave_doubt(unusual, tried, tmp_path, stock_clips, monkeypatch):
    shapes, failure = [], preflight._failure
    monkeypatch.setattr(preflight, '_failure', lambda model, *shape: shapes.append(shape) or failure(model, *shape))
    edvr, *shapes_of_edvr = ARCHS[2]
    opt = arch_options(stock_clips, {**edvr, **unusual}, *shapes_of_edvr, train__total_iter=2)
    train_here(tmp_path, opt)
    assert sorted(shapes) == tried
