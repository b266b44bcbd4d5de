"""A dataset in BasicSR's manner, one sample an index, driven by requests; and its trial before a run."""

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
    """Gives batches of a dataset whose crop and frames follow ``opt['gt_size']`` and ``opt['num_frame']``.

    The shape is set for the item alone, in the dataset's ``opt`` and in attributes of these names. What is drawn from
    Python's, NumPy's and torch's random states follows from the request, and so does the sample.

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
        """Loads a batch; ``empty`` is for datasets that fill memory which they are given."""
        return default_collate([self.sample(request) for request in requests])

    def sample(self, request: SampleRequest) -> dict[str, Any]:
        """Loads a sample.

        Raises:
            InputError: If the dataset fails.
            OptionError: If the sample is not of the shape of the request.
        """
        try:
            with seeded(request.seed), self._shaped(request):
                sample = self.dataset[request.index]
        except Exception as error:  # whatever a dataset raises
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = one_line(f'{type(error).__name__}: {error}', 300)
            raise InputError(
                f'datasets.train: must give sample {request.index} of {self.name}, got {words} '
                f'({Path(where.filename).name}, line {where.lineno}). Mend the data or the dataset.'
            ) from error
        self._check(sample, request)
        # A stack of tensors in another order of memory would have that order, but not in the shared memory of a worker.
        return {key: value.contiguous() if torch.is_tensor(value) else value for key, value in sample.items()}

    @contextmanager
    def _shaped(self, request: SampleRequest) -> Iterator[None]:
        """Sets the shape, and afterwards everything as it was."""
        attributes = vars(self.dataset)
        # BasicSR's Vimeo90K datasets reverse a list of theirs in place: later samples would depend on earlier ones.
        lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
        holders = [
            (holder, key, holder[key]) for holder in (attributes.get('opt', {}), attributes) for key in _SHAPE
            if key in holder
        ]  # fmt: skip
        for holder, key, _ in holders:
            holder[key] = getattr(request, key)
        try:
            yield
        finally:
            for holder, key, value in holders:
                holder[key] = value
            for value, before in lists:
                value[:] = before

    def _check(self, sample: Mapping[str, Any], request: SampleRequest) -> None:
        """Compares a sample with the shape of its request, channels aside."""
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
            if not torch.is_tensor(value):
                raise self._wrong(request, f'{key}, a tensor', type(value).__name__, 'See docs/your_own_parts.md.')
            shape = tuple(value.shape)
            if (*shape[:-3], *shape[-2:]) == asked:
                continue
            fix = "Its crop has to be opt['gt_size'] / scale and opt['gt_size'], as they are when an item is read."
            if len(shape) != len(asked) + 1:
                fix = f'Set datasets.train.target: {"sequence" if self._centers else "center"}.'
            elif shape[-2:] == asked[-2:]:
                fix = "Its frames have to be opt['num_frame'] when an item is read; else leave multigrid.num_frame out."
            raise self._wrong(request, f'{key} of {(*asked[:-2], "c", *asked[-2:])}', str(shape), fix)

    def _wrong(self, request: SampleRequest, what: str, got: str, fix: str) -> OptionError:
        rule = f'give {what} at num_frame {request.num_frame} and gt_size {request.gt_size}'
        return OptionError('datasets.train.type', rule, f'{got} of {self.name}', fix)


def layout_of(dataset_type: str) -> str | None:
    """The dataset of this project that a registered one is, or is derived from; ``None`` for another one."""
    kind = DATASET_REGISTRY.get(dataset_type)
    return kind.layout if issubclass(kind, MultigridREDSDataset) else None


def try_dataset(dataset_opt: Mapping[str, Any], schedule: Schedule) -> int:
    """Builds a training set for once, as the run will, and loads a sample of every shape out of it.

    Args:
        dataset_opt: ``datasets.train``, with ``scale``, ``target`` and ``degraded``.
        schedule: Shapes of the run.

    Returns:
        The number of its samples.

    Raises:
        MissingData: If it fails, and one of its paths is not on this machine.
        InputError: If it fails, gives another shape than it is asked for, or not the same sample for the same request.
    """
    try:
        with seeded(0), mock.patch.dict(initialized_logger, basicsr=True):  # the run's log is not there yet
            dataset, num_samples = _built(dataset_opt)
            if not isinstance(dataset, BatchLoader):
                _try_samples(DatasetAdapter(dataset, dataset_opt), schedule)
            return num_samples
    except InputError as error:
        for name, path in paths({'datasets': {'train': dict(dataset_opt)}}):
            if not Path(path).exists():
                raise MissingData(name, 'be a path that exists', path, 'Correct the path.') from error
        raise


def _built(dataset_opt: Mapping[str, Any]) -> tuple[Any, int]:
    """The dataset, and how many samples it has."""
    kind = DATASET_REGISTRY.get(dataset_opt['type'])
    try:
        dataset = kind(copy.deepcopy(dict(dataset_opt)))
        return dataset, len(dataset)
    except InputError:
        raise
    except Exception as error:  # whatever a constructor raises
        words = one_line(f'{type(error).__name__}: {error}', 300)
        raise OptionError(
            'datasets.train', f'hold what {kind.__name__} can be built with', words, 'Correct the options.'
        ) from error


def _try_samples(dataset: DatasetAdapter, schedule: Schedule) -> None:
    shapes = dict.fromkeys((s.shape.num_frame, s.shape.gt_size) for s in schedule.segments)
    requests = [SampleRequest(number % len(dataset), *shape, seed=number) for number, shape in enumerate(shapes)]
    first, *_ = [dataset.sample(request) for request in requests]
    again = dataset.sample(requests[0])
    for key, value in first.items():
        if torch.is_tensor(value) and not torch.equal(value, again[key]):
            raise OptionError(
                'datasets.train.type',
                "give the same sample for the same state of Python's, NumPy's and torch's global random numbers",
                f'another {key} of {dataset.name}',
                'Draw from these, or seed what it draws from with them when an item is read; keep nothing from one '
                'item to the next.',
            )
