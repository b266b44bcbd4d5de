"""Requests for datasets in BasicSR's manner, which give one sample for an index; and their trial before a run."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, default_collate

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import SampleRequest, Schedule
from multigrid_vsr.data.batches import BatchLoader, Empty, seeded
from multigrid_vsr.data.multigrid_dataset import MultigridREDSDataset
from multigrid_vsr.frames.training import MissingData
from multigrid_vsr.options.option_file import paths

_SHAPE = ('num_frame', 'gt_size')


class DatasetAdapter(Dataset):
    """Gives batches of a dataset whose samples follow its ``opt['gt_size']`` and ``opt['num_frame']``.

    For each sample these are set to those of the request, and so are attributes of the same names. The random states of
    Python, NumPy and torch are seeded from the request.

    Args:
        dataset: Gives a dict for an int: ``lq`` (t, c, h, w) and ``gt`` (t, c, scale*h, scale*w), or without t for one
            target frame, and whatever else torch's ``default_collate`` takes.
        opt: ``datasets.train``, with ``scale``, ``target`` and ``degraded``.
    """

    def __init__(self, dataset: Any, opt: Mapping[str, Any]) -> None:
        self.dataset = dataset
        self.name = type(dataset).__name__
        self._scale: int = opt['scale']
        self._is_degraded: bool = opt.get('degraded', False)
        self._centers = opt.get('target') == 'center' and not self._is_degraded

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, requests: Sequence[SampleRequest], empty: Empty) -> dict[str, Any]:
        """Loads a batch into memory of its own."""
        return default_collate([self.sample(request) for request in requests])

    def sample(self, request: SampleRequest) -> dict[str, Any]:
        """Loads a sample.

        Raises:
            InputError: If the dataset fails.
            OptionError: If the sample has another shape than the request.
        """
        try:
            with seeded(request.seed), self._shaped(request):
                sample = self.dataset[request.index]
        except Exception as error:  # whatever a dataset raises
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(  # no OptionError, because perhaps only one rank meets it
                f'datasets.train: must give sample {request.index} of {self.name}, got {_words(error)} '
                f'({Path(where.filename).name}, line {where.lineno}). Mend the data or the dataset.'
            ) from error
        self._check(sample, request)
        # `stack` keeps an unusual memory order, but not in a worker, where results would differ.
        return {key: value.contiguous() if torch.is_tensor(value) else value for key, value in sample.items()}

    @contextmanager
    def _shaped(self, request: SampleRequest) -> Iterator[None]:
        """Sets the shape, and restores everything afterwards."""
        attributes = vars(self.dataset)
        # BasicSR's Vimeo90K datasets reverse one of their lists in place, on which later samples would depend.
        lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
        holders = (attributes.get('opt', {}), attributes)
        before = [{key: holder[key] for key in _SHAPE if key in holder} for holder in holders]
        for holder, values in zip(holders, before):
            holder.update({key: getattr(request, key) for key in values})
        try:
            yield
        finally:
            for holder, values in zip(holders, before):
                holder.update(values)
            for value, entries in lists:
                value[:] = entries

    def _check(self, sample: Mapping[str, Any], request: SampleRequest) -> None:
        """Compares the shape of a sample, except for its channels, with that of the request."""
        num_frame, gt_size = request.num_frame, request.gt_size
        lq_size = gt_size // self._scale
        expected: dict[str, tuple[int, ...]] = {
            'lq': (num_frame, lq_size, lq_size),
            'gt': (gt_size, gt_size) if self._centers else (num_frame, gt_size, gt_size),
        }
        if self._is_degraded:
            del expected['lq']
        for key, asked in expected.items():
            value = sample.get(key)
            shape = tuple(value.shape) if torch.is_tensor(value) else ()
            if shape and (*shape[:-3], *shape[-2:]) == asked:
                continue
            if not shape:
                fix = 'See docs/your_own_parts.md.'
            elif len(shape) != len(asked) + 1:
                fix = f'Set datasets.train.target: {"sequence" if self._centers else "center"}.'
            elif shape[-2:] == asked[-2:]:
                fix = "Its frames have to be opt['num_frame'] when an item is read; else leave multigrid.num_frame out."
            else:
                fix = "Its crop has to be opt['gt_size'] / scale and opt['gt_size'], as they are when an item is read."
            what = f'{key} of {(*asked[:-2], "c", *asked[-2:])}'
            rule = f'give {what} at num_frame {num_frame} and gt_size {gt_size}'
            got = shape or type(value).__name__
            raise OptionError('datasets.train.type', rule, f'{got} of {self.name}', fix)


def _words(error: Exception) -> str:
    return one_line(f'{type(error).__name__}: {error}', 300)


def layout_of(dataset_type: str) -> str | None:
    """The dataset of this project that a registered one is, or is derived from; ``None`` for any other."""
    kind = DATASET_REGISTRY.get(dataset_type)
    return kind.layout if issubclass(kind, MultigridREDSDataset) else None


def try_dataset(dataset_opt: Mapping[str, Any], schedule: Schedule) -> int:
    """Builds a training set as the run will, and loads a sample of every shape.

    Returns:
        The number of its samples.

    Raises:
        MissingData: If it fails, and one of its paths is not on this machine.
        InputError: If it fails, gives a wrong shape, or gives two samples for one request.
    """
    kind = DATASET_REGISTRY.get(dataset_opt['type'])
    try:
        with seeded(0), mock.patch.dict(initialized_logger, basicsr=True):  # else it would set up a logger
            try:
                dataset = kind(copy.deepcopy(dict(dataset_opt)))
                num_samples = len(dataset)
            except InputError:
                raise
            except Exception as error:  # whatever a constructor raises
                rule = f'hold what {kind.__name__} can be built with'
                raise OptionError('datasets.train', rule, _words(error), 'Correct the options.') from error
            if not isinstance(dataset, BatchLoader):
                _try_samples(DatasetAdapter(dataset, dataset_opt), schedule)
            return num_samples
    except InputError as error:
        for name, path in paths({'datasets': {'train': dict(dataset_opt)}}):
            if not Path(path).exists():
                raise MissingData(name, 'be a path that exists', path, 'Correct the path.') from error
        raise


def _try_samples(dataset: DatasetAdapter, schedule: Schedule) -> None:
    shapes = dict.fromkeys((s.shape.num_frame, s.shape.gt_size) for s in schedule.segments)
    requests = [SampleRequest(number % len(dataset), *shape, seed=number) for number, shape in enumerate(shapes)]
    first, *_ = [dataset.sample(request) for request in requests]
    again = dataset.sample(requests[0])
    for key, value in first.items():
        if torch.is_tensor(value) and not torch.equal(value, again[key]):
            rule = "give the same sample for the same state of Python's, NumPy's and torch's global random numbers"
            fix = (
                'Draw from these, or seed what it draws from with them when an item is read; keep nothing from one '
                'item to the next.'
            )
            raise OptionError('datasets.train.type', rule, f'another {key} of {dataset.name}', fix)
