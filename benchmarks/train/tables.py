"""The tables of the bench: what each variant reached in which time, and what follows for each claim."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.train.claims import CLAIMS, interval, paired, verdict
from benchmarks.train.results import Result, Times
from benchmarks.train.runs import VARIANTS, Run
from multigrid_vsr.core.plan import format_table

Results = Mapping[Run, Result]


def groups(results: Results) -> list[list[Run]]:
    """Runs that can be compared: of one network, full shape, rate, length and start, in the order of the variants."""

    def shared(run: Run) -> tuple[Any, ...]:
        return (*_setting(run), VARIANTS[run.variant].starts_trained)

    order = list(VARIANTS)
    runs = sorted(results, key=lambda run: (shared(run), order.index(run.variant), run.seed))
    return [list(group) for _, group in itertools.groupby(runs, key=shared)]


def _setting(run: Run) -> tuple[Any, ...]:
    """All of a run but its variant and its seed."""
    return (*run[1:-2], *([] if run.data == 'films' else [run.data]))


def baseline(runs: Sequence[Run]) -> str:
    """The variant that those of a group are compared with: the better baseline, by the matrix's first row."""
    return 'full' if VARIANTS[runs[0].variant].starts_trained else 'untrained_full'


def title(runs: Sequence[Run]) -> str:
    """What the runs of a group have in common."""
    run = runs[0]
    start = 'a trained' if VARIANTS[run.variant].starts_trained else 'an untrained'
    shape = f'{run.num_frame} frames, gt_size {run.gt_size}'
    clips = '' if run.data == 'films' else f', {run.data} clips'
    return f'{run.arch}, {shape}, rate {run.rate:g}, {run.iters} iterations, from {start} network{clips}'


def stem(runs: Sequence[Run]) -> str:
    """The name of a group's picture."""
    start = '' if VARIANTS[runs[0].variant].starts_trained else '_untrained'
    return '_'.join(map(str, _setting(runs[0]))) + start


def all_tables(results: Results, times: Times, runs: Sequence[Run]) -> str:
    """The tables of a group below its title, those left out for which there are too few runs."""
    parts = (
        f'{title(runs)}\n{variants_table(results, times, runs)}',
        claims_table(results, runs),
        noise_table(results, runs),
        loading_table(results, times, runs),
    )
    return '\n\n'.join(filter(None, parts))


def variants_table(results: Results, times: Times, runs: Sequence[Run]) -> str:
    """PSNR in dB and time in seconds of each variant of a group.

    ``time`` has the steps and the loading that they do not hide, ``steps`` only the steps; both are medians. ``to`` is
    the time to the first checkpoint that is not below the end of the baseline with the same seed. ``from`` is the
    difference to that end, with its 95 % interval.
    """
    against = baseline(runs)
    header = ('variant', 'seeds', 'iterations', 'steps', 'time', 'PSNR', 'deviation', f'from {against}', 'to its PSNR')
    return format_table(header, [_row(results, times, list(group), against) for _, group in _by_variant(runs)])


def _by_variant(runs: Sequence[Run]) -> Iterator[tuple[str, Iterator[Run]]]:
    return itertools.groupby(runs, key=lambda run: run.variant)


def _row(results: Results, times: Times, runs: list[Run], against: str) -> tuple[str, ...]:
    first = results[runs[0]]
    psnrs = [results[run].psnr() for run in runs]
    pairs = [(results[run], results[base]) for run in runs if (base := run._replace(variant=against)) in results]
    reached = [
        next((times.seconds(run, result, count) for count, psnr in result.history() if psnr >= base.psnr()), None)
        for run, (result, base) in zip(runs, pairs)
    ]
    found = [seconds for seconds in reached if seconds is not None]
    return (
        runs[0].variant,
        str(len(runs)),
        str(first.curve[-1][0]),
        _seconds(times.seconds(runs[0], first, loads='none')),
        _seconds(times.seconds(runs[0], first)),
        f'{statistics.mean(psnrs):.3f}',
        f'{statistics.stdev(psnrs):.3f}' if len(psnrs) > 1 else '-',
        _difference([result.psnr() - base.psnr() for result, base in pairs]),
        f'{_seconds(statistics.median(found))} ({len(found)} of {len(pairs)})' if found else '-',
    )


def noise_table(results: Results, runs: Sequence[Run]) -> str:
    """How much seeds differ: the deviation in dB of one clip (the mean over the clips) and of their mean."""
    rows = []
    for name, group in _by_variant(runs):
        found = [results[run] for run in group]
        if len(found) < 2:
            continue
        ends = [result.psnr_last for result in found], [result.curve[-1][1] for result in found]
        cells = []
        for psnrs in ends:
            cells.append(f'{statistics.mean(map(statistics.stdev, zip(*psnrs))):.3f}')
            cells.append(f'{statistics.stdev(map(statistics.mean, psnrs)):.3f}')
        rows.append((name, str(len(found)), *cells))
    header = ('variant', 'seeds', 'weights: one clip', 'all clips', 'averaged: one clip', 'all clips')
    return format_table(header, rows) if rows else ''


def loading_table(results: Results, times: Times, runs: Sequence[Run]) -> str:
    """Seconds of the same run by what loads it: BasicSR's parts, ours, and full samples cropped afterwards."""
    rows = []
    for name, loads in (('stock', 'own'), ('plain', 'own'), ('paper', 'own'), ('paper', 'full')):
        for run in (run for run in runs if run.variant == name and run.seed == runs[0].seed):
            whole, steps = (times.seconds(run, results[run], loads=which) for which in (loads, 'none'))
            loading = times.loading(run, results[run], loads)
            what = 'the shape' if loads == 'own' else 'the full shape'
            rows.append((name, what, _seconds(loading, 1), _seconds(steps), _seconds(whole)))
    return format_table(('variant', 'loads', 'loading', 'steps', 'time'), rows) if len(rows) > 1 else ''


def claims_table(results: Results, runs: Sequence[Run]) -> str:
    """The claims that the runs of a group decide, each with the paired differences in dB and its verdict."""
    rows = []
    for claim in CLAIMS:
        if differences := paired(claim, results, runs):
            compared = f'{claim.variant} - {claim.against}'
            decided = verdict(differences, claim.bound)
            rows.append((str(claim.row), claim.says, compared, f'> {claim.bound:g}', _difference(differences), decided))
    return format_table(('row', 'claim', 'variants', 'bound', 'difference', 'verdict'), rows) if rows else ''


def _difference(differences: Sequence[float]) -> str:
    if not differences:
        return '-'
    low, high = interval(differences)
    return f'{statistics.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}]'


def _seconds(value: float | None, digits: int = 0) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
