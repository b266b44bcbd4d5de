"""The variants of ``python -m benchmarks.train``: data alone, what differs from the paper's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from multigrid_vsr.options.conversion import HALF, QUARTER, RECIPES, THREE_QUARTERS

Stage = tuple[float | Fraction, float | Fraction, float | Fraction]


@dataclass(frozen=True)
class Variant:
    """What differs from the paper's recipe: two spatial stages of three frame counts, equation 1 of the rate, one ramp.

    Attributes:
        sides: Crops of the spatial stages, as shares of the full one.
        frames: Frame counts inside a stage, as shares of the full one.
        stage_shares: Lengths of the spatial stages; empty for equal ones.
        stages: Instead of these, each segment: its iterations as a share of ``--iters``, its crop and its frames.
        fill: Beside ``stages``, how many times the batch smaller shapes have, at equal samples.
        unfilled: Share of ``--iters`` that the first segment keeps the batch itself for, before it is filled.
        least_lq: LQ side in pixels that no crop is below.
        batch: How many times the batch; the iterations are divided by it.
        rate: How the rate follows ``batch``: ``none``, ``sqrt`` or ``linear``.
        ramp: Whether there is one.
        other_small_rate: Whether the small stages begin at the whole rate with EDVR and at half with other archs, the
            other way round than in the paper.
        multigrid: More options of ``multigrid``.
        scheduler: More options of ``train.scheduler``.
        train: More options of ``train``.
        network: Other values of options of ``network_g``, where a network has them.
        starts_trained: Whether it begins with the network that all begin with, see ``start.py``.
        setup: ``multigrid``; ``plain`` for this project's parts without the block, ``stock`` for BasicSR's.
    """

    sides: tuple[Fraction | int, ...] = (HALF, 1)
    frames: tuple[Fraction | int, ...] = (HALF, THREE_QUARTERS, 1)
    stage_shares: tuple[int, ...] = ()
    stages: tuple[Stage, ...] = ()
    fill: int = 1
    unfilled: float = 0
    least_lq: int = 0
    batch: int = 1
    rate: str = 'linear'
    ramp: bool = True
    other_small_rate: bool = False
    multigrid: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    starts_trained: bool = True
    setup: str = 'multigrid'


_VOLUME = {'batch_size_per_gpu': 'volume', 'max_batch_size_per_gpu': 8}
_CONSTANT = {'type': 'MultiStepLR', 'milestones': [10**9], 'gamma': 1}
_FAST = RECIPES['fast'].stages
_SQRT, _LINEAR = ({'batch_scaling': scaling} for scaling in ('sqrt', 'linear'))
_OPTIONS = {'channels_last': True, 'amp': 'bf16', 'fix_flow': 10**9}
_FULL = ((Fraction(1, 6), 1, 1),) * 6  # as many periods as the paper's, all of the full shape

VARIANTS = {
    # Baselines. `stock` is BasicSR's model, dataset and loader, and its one cosine without a ramp.
    'stock': Variant(setup='stock'),
    'plain': Variant(setup='plain'),
    'full': Variant(stages=_FULL),
    'paper': Variant(),
    # What makes seeds differ: the network that runs begin with, its flow network, and that it learns.
    'untrained_stock': Variant(starts_trained=False, setup='stock'),
    'untrained_full': Variant(starts_trained=False, stages=_FULL),
    'untrained_paper': Variant(starts_trained=False),
    'random_flow': Variant(starts_trained=False, network={'spynet_path': None}),
    'fixed_flow': Variant(train={'fix_flow': 10**9}),
    # 1: the rate
    'cosine': Variant(scheduler={'restart': 'none', 'anneal': 'each'}),
    'each_stage': Variant(scheduler={'restart': 'stage', 'anneal': 'each'}),
    'each_shape': Variant(scheduler={'anneal': 'each'}),
    'linear': Variant(scheduler={'anneal': 'linear'}),
    'other_small_rate': Variant(other_small_rate=True),
    # 2: a larger batch, at equal samples
    'batch2_none': Variant(batch=2, rate='none'),
    'batch2_sqrt': Variant(batch=2, rate='sqrt'),
    'batch2': Variant(batch=2),
    'batch2_no_ramp': Variant(batch=2, ramp=False),
    'batch4_none': Variant(batch=4, rate='none'),
    'batch4_sqrt': Variant(batch=4, rate='sqrt'),
    'batch4': Variant(batch=4),
    'batch4_no_ramp': Variant(batch=4, ramp=False),
    'no_ramp': Variant(ramp=False),
    # 3: what grows
    'space': Variant(frames=(1,)),
    'time': Variant(sides=(1,)),
    'at_once': Variant(stages=tuple((Fraction(1, 3), share, share) for share in (HALF, THREE_QUARTERS, 1))),
    'no_middle': Variant(frames=(HALF, 1)),
    # 4: how many sizes, and from which
    'sizes3': Variant(sides=(HALF, THREE_QUARTERS, 1)),
    'sizes4': Variant(sides=(HALF, Fraction(5, 8), THREE_QUARTERS, 1)),
    'from_quarter': Variant(sides=(QUARTER, 1)),
    'from_three_quarters': Variant(sides=(THREE_QUARTERS, 1)),
    'from_more_frames': Variant(frames=(THREE_QUARTERS, 1)),
    # 5: the share of the last stage
    'last_third': Variant(stage_shares=(2, 1)),
    'last_sixth': Variant(stage_shares=(5, 1)),
    'last_twelfth': Variant(stage_shares=(11, 1)),
    'constant': Variant(scheduler=_CONSTANT),
    'last_third_constant': Variant(stage_shares=(2, 1), scheduler=_CONSTANT),
    'last_sixth_constant': Variant(stage_shares=(5, 1), scheduler=_CONSTANT),
    'last_twelfth_constant': Variant(stage_shares=(11, 1), scheduler=_CONSTANT),
    # 6: small shapes with more samples at a time
    'volume': Variant(multigrid=_VOLUME, scheduler={'batch_scaling': 'sqrt'}),
    'volume_linear': Variant(multigrid=_VOLUME, scheduler={'batch_scaling': 'linear'}),
    'volume_samples': Variant(multigrid={**_VOLUME, 'share': 'samples'}, scheduler={'batch_scaling': 'sqrt'}),
    # 8: more small iterations, so that the time is about a half, a third, a quarter of `full`
    'half': Variant(stages=((0.5, HALF, THREE_QUARTERS), (0.3, HALF, 1), (Fraction(1, 6), 1, 1))),
    'third': Variant(stages=((0.2, HALF, HALF), (0.3, HALF, THREE_QUARTERS), (0.15, HALF, 1), (0.1, 1, 1))),
    'quarter': Variant(stages=((0.25, HALF, HALF), (0.2, HALF, THREE_QUARTERS), (0.1, HALF, 1), (0.075, 1, 1))),
    # 9: what pays, together: by the schedule alone, and with every option that makes an iteration faster
    'fast': Variant(stages=_FAST, least_lq=16),
    'fast_options': Variant(stages=_FAST, least_lq=16, train=_OPTIONS),
    'untrained_fast': Variant(starts_trained=False, stages=_FAST, least_lq=16),
    'untrained_fast_options': Variant(starts_trained=False, stages=_FAST, least_lq=16, train=_OPTIONS),
    # 10: the small shapes of `fast` with more samples at a time, at equal samples
    'fill4': Variant(stages=_FAST, fill=4, least_lq=16, scheduler=_SQRT),
    'fill4_linear': Variant(stages=_FAST, fill=4, least_lq=16, scheduler=_LINEAR),
    'fill4_none': Variant(stages=_FAST, fill=4, least_lq=16),
    'fill2': Variant(stages=_FAST, fill=2, least_lq=16, scheduler=_SQRT),
    'fill4_late': Variant(stages=_FAST, fill=4, unfilled=0.4, least_lq=16, scheduler=_SQRT),
    'untrained_fill4': Variant(starts_trained=False, stages=_FAST, fill=4, least_lq=16, scheduler=_SQRT),
    'untrained_fill4_linear': Variant(starts_trained=False, stages=_FAST, fill=4, least_lq=16, scheduler=_LINEAR),
    'untrained_fill4_none': Variant(starts_trained=False, stages=_FAST, fill=4, least_lq=16),
    'untrained_fill2': Variant(starts_trained=False, stages=_FAST, fill=2, least_lq=16, scheduler=_SQRT),
    'untrained_fill4_late': Variant(
        starts_trained=False, stages=_FAST, fill=4, unfilled=0.4, least_lq=16, scheduler=_SQRT
    ),
    'fill4_options': Variant(stages=_FAST, fill=4, least_lq=16, scheduler=_SQRT, train=_OPTIONS),
    'fill2_options': Variant(stages=_FAST, fill=2, least_lq=16, scheduler=_SQRT, train=_OPTIONS),
    'fill4_late_options': Variant(stages=_FAST, fill=4, unfilled=0.1, least_lq=16, scheduler=_SQRT, train=_OPTIONS),
    'untrained_fill4_options': Variant(
        starts_trained=False, stages=_FAST, fill=4, least_lq=16, scheduler=_SQRT, train=_OPTIONS
    ),
    'untrained_fill2_options': Variant(
        starts_trained=False, stages=_FAST, fill=2, least_lq=16, scheduler=_SQRT, train=_OPTIONS
    ),
    'untrained_fill4_late_options': Variant(
        starts_trained=False, stages=_FAST, fill=4, unfilled=0.1, least_lq=16, scheduler=_SQRT, train=_OPTIONS
    ),
}
