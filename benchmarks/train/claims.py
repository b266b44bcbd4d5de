"""What the bench decides: each claim of the paper or of this project, and its verdict.

A claim compares two variants inside a seed. It is *supported* where the 95 % interval of the differences (Student's t)
lies above its bound, *refuted* where it lies below, and else nobody can tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.train.results import Result
from benchmarks.train.runs import Run

SAME = -0.05  # dB that "not below" allows


@dataclass(frozen=True)
class Claim:
    """That a variant is more than ``bound`` dB above another; with a bound below 0, not below it by more.

    Attributes:
        row: Row of the matrix.
        says: The claim in words, with the paper's figure where it has one.
        variant, against: The two variants.
        bound: In dB.
        averaged: Whether PSNR is that of the averaged weights (EMA) of both, or of the weights themselves.
    """

    row: int
    says: str
    variant: str
    against: str
    bound: float = 0.0
    averaged: bool = True


CLAIMS = (
    Claim(1, "the paper's rule is better than one cosine", 'paper', 'cosine'),
    Claim(1, 'and than annealing each period', 'paper', 'each_shape'),
    Claim(1, 'starting again at each frame count is better than at each stage', 'each_shape', 'each_stage'),
    Claim(1, 'constant, then linear, is as good as the paper', 'linear', 'paper', SAME),
    Claim(1, 'small stages at half the rate with EDVR alone are better', 'paper', 'other_small_rate'),
    Claim(1, "the rate's rule alone: the full shape under it is better than stock", 'full', 'stock'),
    Claim(1, "the paper's recipe is not below the full shape under the same rule", 'paper', 'full', SAME),
    Claim(1, 'so it is from an untrained network, as the demo begins', 'untrained_full', 'untrained_stock'),
    Claim(1, "and the paper's recipe is not below it there", 'untrained_paper', 'untrained_full', SAME),
    Claim(2, 'twice the batch, linear rate, is as good (paper: +0.01)', 'batch2', 'paper', SAME),
    Claim(2, 'four times the batch, linear rate, is as good (paper: +0.02)', 'batch4', 'paper', SAME),
    Claim(2, 'at four times the batch linear is better than none (paper: +0.29)', 'batch4', 'batch4_none'),
    Claim(2, 'and better than sqrt', 'batch4', 'batch4_sqrt'),
    Claim(2, 'at twice the batch linear is better than none', 'batch2', 'batch2_none'),
    Claim(2, 'and better than sqrt', 'batch2', 'batch2_sqrt'),
    Claim(2, 'a ramp is better than none at four times the batch (paper: +0.12)', 'batch4', 'batch4_no_ramp'),
    Claim(2, 'at twice', 'batch2', 'batch2_no_ramp'),
    Claim(2, 'at the batch itself', 'paper', 'no_ramp'),
    Claim(3, 'growing space alone is as good as the full shape (paper: -0.03)', 'space', 'full', SAME),
    Claim(3, 'growing time alone too (paper: 0.00)', 'time', 'full', SAME),
    Claim(3, 'nested is better than both at once (paper: +0.07 to +0.09)', 'paper', 'at_once'),
    Claim(3, 'the middle frame count helps (paper: +0.04)', 'paper', 'no_middle'),
    Claim(4, 'three sizes are as good as two (paper: -0.01)', 'sizes3', 'paper', SAME),
    Claim(4, 'four too (paper: -0.01)', 'sizes4', 'paper', SAME),
    Claim(4, 'starting at a quarter of the side loses', 'paper', 'from_quarter'),
    Claim(4, 'starting at half the side loses against three quarters', 'from_three_quarters', 'paper'),
    Claim(4, 'starting with 3 frames loses against 5 (the paper saw losses)', 'from_more_frames', 'paper'),
    Claim(5, 'a last stage of a third is as good as one of a half', 'last_third', 'paper', SAME),
    Claim(5, 'one of a sixth', 'last_sixth', 'paper', SAME),
    Claim(5, 'one of a twelfth', 'last_twelfth', 'paper', SAME),
    Claim(5, 'annealing at the end is better than a constant rate', 'paper', 'constant', averaged=False),
    Claim(5, 'and where the weights are averaged', 'paper', 'constant'),
    Claim(5, 'with a last stage of a third', 'last_third', 'last_third_constant', averaged=False),
    Claim(5, 'and where the weights are averaged', 'last_third', 'last_third_constant'),
    Claim(5, 'with a last stage of a sixth', 'last_sixth', 'last_sixth_constant', averaged=False),
    Claim(5, 'and where the weights are averaged', 'last_sixth', 'last_sixth_constant'),
    Claim(5, 'with a last stage of a twelfth', 'last_twelfth', 'last_twelfth_constant', averaged=False),
    Claim(5, 'and where the weights are averaged', 'last_twelfth', 'last_twelfth_constant'),
    Claim(6, '`volume` at equal samples is as good as the constant batch', 'volume_samples', 'paper', SAME),
    Claim(6, '`volume` at equal iterations is better than at equal samples', 'volume', 'volume_samples'),
    Claim(
        6, 'with the rate by the square root of the batch it is better than in proportion', 'volume', 'volume_linear'
    ),
    Claim(7, "this project's model and loading, without the block, are as good as stock", 'plain', 'stock', SAME),
    Claim(8, 'half the time is as good as the full shape', 'half', 'full', SAME),
    Claim(8, 'a third of it', 'third', 'full', SAME),
    Claim(8, 'a quarter of it', 'quarter', 'full', SAME),
    Claim(9, 'what pays, together, is as good as the full shape', 'fast', 'full', SAME),
    Claim(9, 'and with every option', 'fast_options', 'full', SAME),
    Claim(9, 'and as good as stock', 'fast_options', 'stock', SAME),
    Claim(
        9, 'from an untrained network, what pays is as good as the full shape', 'untrained_fast', 'untrained_full', SAME
    ),
    Claim(9, 'and with every option', 'untrained_fast_options', 'untrained_full', SAME),
    Claim(9, 'and better than stock', 'untrained_fast_options', 'untrained_stock'),
    Claim(9, 'a flow network that is held is as good as one that learns slowly', 'fixed_flow', 'paper', SAME),
)


def paired(claim: Claim, results: Mapping[Run, Result], runs: Sequence[Run]) -> list[float]:
    """The differences that decide a claim, in dB, one for each seed that both variants have been trained with."""
    pairs = [
        (results[run], results[other])
        for run in runs
        if run.variant == claim.variant and (other := run._replace(variant=claim.against)) in results
    ]
    return [one.psnr(claim.averaged) - other.psnr(claim.averaged) for one, other in pairs]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by Student's t; infinite for fewer than two."""
    if len(differences) < 2:
        return -math.inf, math.inf
    from scipy.stats import t

    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(t.ppf(0.975, len(differences) - 1)) * error
    return mean - half, mean + half


def verdict(differences: Sequence[float], bound: float) -> str:
    """``supported``, ``refuted`` or ``cannot tell``, by the interval and nothing else."""
    low, high = interval(differences)
    return 'supported' if low > bound else 'refuted' if high < bound else 'cannot tell'
