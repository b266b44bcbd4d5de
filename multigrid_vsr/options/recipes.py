"""The recipes of ``multigrid-vsr convert``: data alone, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

HALF, THREE_QUARTERS = Fraction(1, 2), Fraction(3, 4)
MOST_WARMUP, WARMUP_PART = 5000, 15  # the paper's ramp: 5000 iterations of 75,000; a shorter run has as large a part


@dataclass(frozen=True)
class Recipe:
    """What a converted run does with its shapes and its rate.

    Attributes:
        source: Where it is from.
        sides: Sides of the spatial stages before the last, as shares of the full one.
        least_lq: LQ side that none of them is below, in pixels.
        frames: Frame counts inside a stage before the last, as shares of the full one.
        least_frames: Frame count that none of them is below.
        stage_shares: Lengths of two spatial stages; empty for equal ones.
        batch: More options of ``multigrid``; with ``share: samples`` the samples of the stock run are kept.
        most_growth: Bound of an early batch beside ``batch_size_per_gpu: volume``, in full ones.
        scheduler: Options of ``MultigridCosineLR``.
        weights: ``restart_weights`` of an arch, one for each of two spatial stages.
    """

    source: str
    sides: tuple[Fraction, ...] = ()
    least_lq: int = 32
    frames: tuple[Fraction, ...] = ()
    least_frames: int = 6
    stage_shares: tuple[int, ...] = ()
    batch: Mapping[str, str] = field(default_factory=dict)
    most_growth: int = 1
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


RECIPES = {
    'paper': Recipe(
        source='arXiv 2205.05069: two spatial stages, three frame counts inside each, equation 1 of the rate, one ramp',
        sides=(HALF,),
        frames=(HALF, THREE_QUARTERS),
        scheduler={'restart': 'shape', 'anneal': 'last'},
        weights={'EDVR': (0.5, 1)},  # a larger rate at LQ 32 "may cause severe performance drop" there
    ),
    'fast': Recipe(
        source="this project's own, not measured at full scale: the paper's shapes and rule, twice as many samples in "
        'the small stage, up to four times as many at a time, and the rate by the square root of the batch',
        sides=(HALF,),
        frames=(HALF, THREE_QUARTERS),
        stage_shares=(2, 1),
        batch={'share': 'samples', 'batch_size_per_gpu': 'volume'},
        most_growth=4,
        scheduler={'restart': 'shape', 'anneal': 'last', 'batch_scaling': 'sqrt'},
        weights={'EDVR': (0.5, 1)},
    ),
    'plain': Recipe(source="the stock run as it is, with this project's model and loading"),
}
