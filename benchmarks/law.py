"""``python -m benchmarks.law``: one law of all runs of ``benchmarks.train``, what it predicts, and how that came out.

PSNR of a run = a level of its setting + a log2(pixels) + b log2(samples), as shares of the full shape's run. A setting
is all that runs share but their seed and their variant. Seeds and variants are random effects inside a setting, so that
an interval counts what the law lacks, not only noise.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.formula.api import mixedlm

from benchmarks import harness
from benchmarks.train import tables
from benchmarks.train.__main__ import add_setting, check_among
from benchmarks.train.results import read_runs
from benchmarks.train.runs import BATCH, NETWORKS, VARIANTS, Run, Variant, options
from multigrid_vsr.core.plan import format_table
from multigrid_vsr.core.schedule import BatchShape
from multigrid_vsr.options.multigrid_block import schedule_from_options

RESULTS = Path(__file__).parent / 'results'
FILES = [RESULTS / 'train.jsonl', RESULTS / 'fill.jsonl']
PREDICTIONS = RESULTS / 'predictions.jsonl'
ARCHS = ('basicvsr', 'basicvsr_48x10')  # the law is fitted to these, and asked about the others
TERMS = ('pixels', 'samples')
_TRIED = (('pixels',), TERMS, ('pixels', 'iterations'), (*TERMS, 'iterations'), (*TERMS, 'frames'))
_SETTING = ['file', *(name for name in Run._fields if name not in ('variant', 'seed')), 'start']
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Law:
    """What a fit gives; all in dB, the coefficients for each doubling.

    Attributes:
        coefficients: Of each term.
        covariance: Of the coefficients.
        variant, seed, rest: Standard deviations: of variants about the law, of seeds in a setting, of a run.
        likelihood: Logarithm of the largest likelihood.
    """

    coefficients: Mapping[str, float]
    covariance: np.ndarray
    variant: float
    seed: float
    rest: float
    likelihood: float

    def difference(self, spent: Mapping[str, float], seeds: int) -> tuple[float, float, float]:
        """PSNR minus that of the full shape's run, a mean over seeds, and its 95 % interval.

        Args:
            spent: Log2 of each term's share of the full shape's run.
            seeds: Number of seeds that both are trained with.
        """
        values = np.array([spent[name] for name in self.coefficients])
        mean = float(values @ np.array(list(self.coefficients.values())))
        variance = float(values @ self.covariance @ values) + 2 * self.variant**2 + 2 * self.rest**2 / seeds
        half = _NORMAL_95 * math.sqrt(variance)
        return mean, mean - half, mean + half


def spent(run: Run, segments: Iterable[tuple[int, BatchShape]]) -> dict[str, float]:
    """Log2 of what a run has of pixels, samples and iterations, as shares of those of the full shape's run."""
    segments = list(segments)
    samples = [iters * shape.batch_size_per_gpu for iters, shape in segments]
    frames = [count * shape.num_frame for count, (_, shape) in zip(samples, segments)]
    pixels = [count * shape.gt_size**2 for count, (_, shape) in zip(frames, segments)]
    full_frames = segments[-1][1].num_frame  # EDVR has its own number
    shares = {
        'pixels': sum(pixels) / (run.iters * BATCH * full_frames * run.gt_size**2),
        'samples': sum(samples) / (run.iters * BATCH),
        'iterations': sum(iters for iters, _ in segments) / run.iters,
        'frames': sum(frames) / (sum(samples) * full_frames),
    }
    return {name: math.log2(share) for name, share in shares.items()}


def follows(variant: Variant) -> bool:
    """Whether a variant differs from the recipes only in its shapes, its batch and the options of speed."""
    scaled = variant.scheduler.get('batch_scaling', 'sqrt' if variant.fill == 1 else None) == 'sqrt'
    same_rule = variant.ramp and variant.rate == 'linear' and not variant.other_small_rate
    is_fast = not variant.train or 'amp' in variant.train
    return (
        variant.setup == 'multigrid'
        and scaled
        and same_rule
        and is_fast
        and variant.optimizer == 'Adam'
        and not variant.network
        and variant.scheduler.keys() <= {'batch_scaling'}
    )


def observations(paths: Sequence[Path]) -> pd.DataFrame:
    """A row for each run that follows the recipes: its setting, variant and seed, what it spent, and its PSNR."""
    rows = []
    for path in paths:
        for run, result in read_runs(path).items():
            variant = VARIANTS[run.variant]
            if follows(variant):
                start = 'trained' if variant.starts_trained else 'untrained'
                named = {**run._asdict(), 'variant': run.variant.removeprefix('untrained_'), 'start': start}
                of_run = {**named, **spent(run, result.segments), 'psnr': result.psnr()}
                rows.append({'file': path.stem, **of_run})
    frame = pd.DataFrame(rows)
    frame['setting'] = frame[_SETTING].astype(str).agg(' '.join, axis=1)
    return frame


def fit(frame: pd.DataFrame, terms: Sequence[str] = TERMS) -> Law:
    """The law of these rows, by the largest likelihood."""
    level = 'C(setting)' if frame['setting'].nunique() > 1 else '1'
    effects = {'seed': '0 + C(seed)', 'variant': '0 + C(variant)'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # a deviation of 0 lies on the edge of what is allowed
        model = mixedlm(
            f'psnr ~ {level} + {" + ".join(terms)}', frame, groups='setting', re_formula='0', vc_formula=effects
        )
        found = model.fit(reml=False)
    deviations = dict(zip(model.exog_vc.names, np.sqrt(found.vcomp)))
    return Law(
        {name: float(found.fe_params[name]) for name in terms},
        found.cov_params().loc[list(terms), list(terms)].to_numpy(),
        float(deviations['variant']),
        float(deviations['seed']),
        math.sqrt(found.scale),
        float(found.llf),
    )


def of_law(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that the law is fitted to: from a trained network, with the archs that it holds for."""
    return frame[(frame['start'] == 'trained') & frame['arch'].isin(ARCHS)]


def means(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], float]]:
    """Each variant that the full shape was trained beside: its first row, and the mean difference over common seeds."""
    for _, setting in frame.groupby('setting', sort=False):
        full = setting[setting['variant'] == 'full'].set_index('seed')['psnr']
        for name, of_variant in setting.groupby('variant', sort=False):
            differences = (of_variant.set_index('seed')['psnr'] - full).dropna()
            if name != 'full' and len(differences):
                yield {**of_variant.iloc[0].to_dict(), 'seeds': len(differences)}, float(differences.mean())


def terms_table(frame: pd.DataFrame) -> str:
    """What each choice of terms explains: coefficients with 95 % intervals, deviations, and what leaving out gives."""
    rows = []
    for terms in _TRIED:
        law = fit(frame, terms)
        errors = np.sqrt(np.diag(law.covariance)) * _NORMAL_95
        cells = (f'{name} {value:+.3f} ± {error:.3f}' for (name, value), error in zip(law.coefficients.items(), errors))
        information = 2 * (len(terms) - law.likelihood)
        rows.append(
            (', '.join(cells), f'{law.variant:.3f}', f'{law.rest:.3f}', f'{information:.1f}', _left_out(frame, terms))
        )
    return format_table(('terms, dB a doubling', 'variants / dB', 'runs / dB', 'AIC', 'left out / dB'), rows)


def _left_out(frame: pd.DataFrame, terms: Sequence[str]) -> str:
    """The root mean square error of the law for each setting that it was not fitted to."""
    errors = []
    for name in frame['setting'].unique():
        found = list(means(frame[frame['setting'] == name]))
        if found:
            law = fit(frame[frame['setting'] != name], terms)
            errors += [seen - law.difference(row, row['seeds'])[0] for row, seen in found]
    return f'{math.sqrt(np.mean(np.square(errors))):.3f}'


def residuals_table(frame: pd.DataFrame, law: Law) -> str:
    """Each variant's difference from the full shape, by the law and as seen; a star outside the interval."""
    rows = []
    for row, seen in means(frame):
        mean, low, high = law.difference(row, row['seeds'])
        outside = '' if low <= seen <= high else '*'
        rows.append(
            (
                _setting(row),
                row['start'],
                row['variant'],
                str(row['seeds']),
                *_dB(mean, low, high),
                f'{seen:+.3f}',
                outside,
            )
        )
    return format_table(('setting', 'start', 'variant', 'seeds', 'law', '95 %', 'seen', ''), rows)


def _setting(row: Mapping[str, Any]) -> str:
    return f'{row["arch"]} {row["gt_size"]}, {row["iters"]}, {row["rate"]:g}, {row["data"]}'


def _dB(mean: float, low: float, high: float) -> tuple[str, str]:
    return f'{mean:+.3f}', f'[{low:+.3f}, {high:+.3f}]'


def predict(law: Law, run: Run, seeds: int) -> dict[str, Any]:
    """A line of predictions: the mean difference of a run from the full shape's, over so many seeds."""
    segments = [(segment.num_iter, segment.shape) for segment in schedule_from_options(options(run)).segments]
    mean, low, high = (round(value, 4) for value in law.difference(spent(run, segments), seeds))
    named = {name: value for name, value in run._asdict().items() if name != 'seed'}
    return {**named, 'seeds': seeds, 'expected': mean, 'low': low, 'high': high}


def predictions_table(lines: Iterable[Mapping[str, Any]], paths: Sequence[Path]) -> str:
    """What was predicted before the runs, and what came out as far as they are done."""
    done = [read_runs(path) for path in paths]
    rows = []
    for line in lines:
        seen = []
        for seed in range(line['seeds']):
            run = Run(**{name: line[name] for name in Run._fields if name in line}, seed=seed)
            base = run._replace(variant=tables.baseline([run]))
            for runs in done:
                if run in runs and base in runs:
                    seen.append(runs[run].psnr() - runs[base].psnr())
        mean = np.mean(seen) if seen else math.nan
        verdict = 'hit' if line['low'] <= mean <= line['high'] else 'miss'
        rows.append(
            (
                _setting(line),
                line['variant'],
                *_dB(line['expected'], line['low'], line['high']),
                f'{mean:+.3f}' if seen else '-',
                f'{verdict} ({len(seen)} of {line["seeds"]} seeds)' if seen else 'not run',
            )
        )
    return format_table(('setting', 'variant', 'law', '95 %', 'seen', ''), rows)


def draw(path: Path, frame: pd.DataFrame, law: Law) -> None:
    """Draws what was seen over what the law says, for the runs of the law and for the others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.4), dpi=150, layout='constrained')
    axes = figure.subplots()
    fitted = set(of_law(frame)['setting'])
    for label, colour, inside in (
        ('fitted', '#0072B2', True),
        ('other archs, from a trained network', '#D55E00', False),
    ):
        points = [
            (law.difference(row, 1)[0], seen)
            for row, seen in means(frame[frame['start'] == 'trained'])
            if (row['setting'] in fitted) is inside
        ]
        axes.plot(*zip(*points), marker='o', markersize=4, linestyle='', color=colour, label=label)
    low = axes.get_xlim()[0]
    axes.plot((low, 0.05), (low, 0.05), color='#222222', linewidth=1)
    axes.set_xlabel('difference from the full shape by the law / dB')
    axes.set_ylabel('seen / dB, means over seeds')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def run(args: argparse.Namespace) -> None:
    """Prints the predictions asked for, or the law with its residuals and how predictions came out."""
    check_among('--arch', [args.arch], NETWORKS)
    check_among('--predict', args.predict or [], VARIANTS)
    frame = observations(args.results)
    fitted = of_law(frame)
    law = fit(fitted)
    if args.predict:
        for name in args.predict:
            wanted = Run(name, args.arch, args.gt_size, args.num_frame, args.rate, args.iters, 0, args.clips)
            print(json.dumps(predict(law, wanted, args.seeds)))
        return
    print(terms_table(fitted), residuals_table(fitted, law), sep='\n\n')
    others = frame[~frame['setting'].isin(fitted['setting'])]
    print('\nNot fitted:', residuals_table(others, law), sep='\n')
    if PREDICTIONS.exists():
        lines = map(json.loads, PREDICTIONS.read_text().splitlines())
        print('\nPredicted before they were run:', predictions_table(lines, args.results), sep='\n')
    if args.plot:
        draw(args.plot, frame, law)


def main(argv: Sequence[str] | None = None) -> None:
    commands = harness.parser('law', __doc__, '', '--plot law.png', '--predict fast --gt_size 256 --clips mixed')
    commands.add_argument(
        '--results', type=Path, nargs='+', default=FILES, help='JSONL of runs (default: all committed)'
    )
    commands.add_argument('--predict', nargs='+', metavar='VARIANT', help='print a line of predictions for each')
    commands.add_argument('--seeds', type=int, default=3, help='of a prediction (default: 3)')
    commands.add_argument('--rate', type=float, default=2e-3, help='to begin with (default: 2e-3)')
    commands.add_argument('--plot', type=Path, metavar='FILE', help='draw what was seen over what the law says')
    add_setting(commands)
    harness.run(commands, run, argv)


if __name__ == '__main__':
    main()
