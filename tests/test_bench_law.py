"""The law of the bench: it finds what made literal runs, and says of a prediction whether it came out."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from runs import refusal

from benchmarks import law
from benchmarks.train.runs import VARIANTS, Run

A_PIXEL, A_SAMPLE, NOISE = 0.05, 0.03, 0.002
SHAPES = {  # iterations, batch, frames, gt_size of each segment; the full shape is 2 x 7 x 128
    'full': [(360, 2, 7, 128)],
    'space': [(180, 2, 7, 64), (180, 2, 7, 128)],
    'fast': [(600, 2, 5, 64), (20, 2, 7, 128)],
    'half': [(480, 2, 5, 64), (60, 2, 7, 128)],
    'batch2': [(90, 4, 5, 64), (90, 4, 7, 128)],
}


def lines():
    """Runs of two settings with three seeds, made by the law with a little noise."""
    noise = np.random.default_rng(0)
    for rate, level in ((0.002, 28.0), (0.0005, 27.5)):
        for seed in range(3):
            of_seed = noise.normal(0, 0.01)
            for name, segments in SHAPES.items():
                run = Run(name, 'basicvsr', 128, 7, rate, 360, seed)
                pixels = sum(n * b * f * side**2 for n, b, f, side in segments) / (360 * 2 * 7 * 128**2)
                samples = sum(n * b for n, b, *_ in segments) / 720
                psnr = level + of_seed + A_PIXEL * math.log2(pixels) + A_SAMPLE * math.log2(samples)
                psnr += noise.normal(0, NOISE)
                shared = {'kind': 'run', **run._asdict(), 'segments': segments, 'wall': None}
                yield {**shared, 'curve': [[360, [psnr]]], 'psnr_last': [psnr]}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / 'results.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines())))
    return path


def test_law_finds_the_coefficients_that_made_the_runs(results):
    found = law.fit(law.observations([results]))
    assert found.coefficients == pytest.approx({'pixels': A_PIXEL, 'samples': A_SAMPLE}, abs=3 * NOISE)
    assert found.rest == pytest.approx(NOISE, rel=0.6)
    mean, low, high = found.difference({'pixels': -2, 'samples': 1}, seeds=3)
    assert low < -2 * A_PIXEL + A_SAMPLE < high
    assert mean == pytest.approx(-2 * A_PIXEL + A_SAMPLE, abs=0.01)


def test_only_runs_that_differ_in_shapes_and_options_of_speed_count():
    counted = {name for name, variant in VARIANTS.items() if law.follows(variant)}
    assert {'full', 'paper', 'fast', 'fast_options', 'fill4', 'fill2_options', 'volume', 'batch4'} <= counted
    others = {'stock', 'plain', 'cosine', 'constant', 'no_ramp', 'batch4_none', 'batch4_sqrt', 'fill4_none'}
    assert counted.isdisjoint(
        {*others, 'full_muon', 'fast_muon_options', 'fill4_linear', 'volume_linear', 'fixed_flow', 'random_flow'}
    )


def test_shares_are_of_the_run_of_the_full_shape():
    shapes = [(n, law.BatchShape(*shape)) for n, *shape in SHAPES['fast']]
    shares = law.spent(Run('fast', 'basicvsr', 128, 7, 0.002, 360, 0), shapes)
    assert 2 ** shares['samples'] == pytest.approx(620 / 360)
    assert 2 ** shares['pixels'] == pytest.approx((600 * 5 / 4 + 20 * 7) / (360 * 7))


def test_predictions_are_compared_with_what_came_out(results, capsys, monkeypatch, tmp_path):
    law.main(['--results', str(results), '--predict', 'space', 'quarter', '--gt_size', '128'])
    space, quarter = map(json.loads, capsys.readouterr().out.splitlines())
    assert space['expected'] == pytest.approx(A_PIXEL * math.log2(5 / 8), abs=0.01)
    assert space['low'] < space['expected'] < space['high']
    wrong = {**space, 'low': 0.1, 'expected': 0.2, 'high': 0.3}
    monkeypatch.setattr(law, 'PREDICTIONS', tmp_path / 'predictions.jsonl')
    law.PREDICTIONS.write_text('\n'.join(map(json.dumps, (space, quarter, wrong))))
    law.main(['--results', str(results)])
    verdicts = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split('  ')[-1].strip() for line in verdicts] == [
        'hit (3 of 3 seeds)',
        'not run',
        'miss (3 of 3 seeds)',
    ]
    assert refusal('--predict', 'nothing', main=law.main).startswith('--predict: must be of stock, plain, full')


def test_page_has_the_law_of_the_committed_runs():
    frame = law.of_law(law.observations(law.FILES))
    page = (Path(law.__file__).parent / 'law.md').read_text()
    assert f'{len(frame)} runs of' in page
    quoted = [line for line in page.splitlines() if line.startswith('| pixels')]
    printed = law.terms_table(frame).splitlines()[2:]
    assert len(quoted) == len(printed)
    for on_page, line in zip(quoted, printed):  # another library of linear algebra may round otherwise
        assert numbers(on_page) == pytest.approx(numbers(line), rel=0.001, abs=0.0015)


def numbers(text):
    return [float(number) for number in re.findall(r'[-+]?\d+\.\d+', text)]
