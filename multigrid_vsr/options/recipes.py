"""The recipes of ``multigrid-vsr convert``: data alone, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

QUARTER, HALF, THREE_QUARTERS = Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)
MOST_WARMUP, WARMUP_PART = 5000, 15  # the paper's ramp: 5000 iterations of 75,000; a shorter run has as large a part
Stage = tuple[Fraction | int, Fraction | int, Fraction | int]


@dataclass(frozen=True)
class Recipe:
    """What a converted run does with its shapes and its rate.

    Attributes:
        source: Where it is from.
        sides: Sides of the spatial stages before the last, as shares of the full one.
        least_lq: LQ side that none of them is below, in pixels.
        frames: Frame counts inside a stage before the last, as shares of the full one.
        least_frames: Frame count that none of them is below.
        stages: Instead of ``sides`` and ``frames``, each segment: its iterations as a share of the stock run's, its
            side and its frames.
        scheduler: Options of ``MultigridCosineLR``.
        small_rates: By the name of an arch, the share of the rate that a spatial stage before the last begins with.
        is_filled: Whether small shapes have more samples at a time, where the user does not say.
        train: More options of ``train``, each with what to say beside it in the file.
    """

    source: str
    sides: tuple[Fraction, ...] = ()
    least_lq: int = 32
    frames: tuple[Fraction, ...] = ()
    least_frames: int = 6
    stages: tuple[Stage, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    small_rates: Mapping[str, float] = field(default_factory=dict)
    is_filled: bool = False
    train: Mapping[str, tuple[Any, str]] = field(default_factory=dict)


_RULE = {'restart': 'shape', 'anneal': 'last'}
_SMALL_RATES = {'EDVR': 0.5}  # a larger rate at LQ 32 "may cause severe performance drop" there
_GRAPH = {'cuda_graph': (True, 'one launch an iteration on a GPU, the same bits; not measured on a GPU yet')}
RECIPES = {
    'paper': Recipe(
        source='arXiv 2205.05069: two spatial stages, three frame counts inside each, equation 1 of the rate, one ramp',
        sides=(HALF,),
        frames=(HALF, THREE_QUARTERS),
        scheduler=_RULE,
        small_rates=_SMALL_RATES,
        train=_GRAPH,
    ),
    'fast': Recipe(
        source="this project's own, measured on a small network in short runs only (benchmarks/): nearly twice the "
        'samples, nearly all of them small, and more of them at a time',
        least_lq=16,
        least_frames=5,
        stages=(
            (Fraction(9, 10), QUARTER, THREE_QUARTERS),
            (Fraction(9, 10), HALF, THREE_QUARTERS),
            (Fraction(1, 20), 1, 1),
        ),
        scheduler=_RULE,
        small_rates=_SMALL_RATES,
        is_filled=True,
        train={
            **_GRAPH,
            'channels_last': (True, 'the layout that convolutions are fastest in'),
            'amp': ('auto', 'bf16 where the device has it; the flow network and the last sum stay in float32'),
        },
    ),
    'plain': Recipe(source="the stock run as it is, with this project's model and loading"),
}
