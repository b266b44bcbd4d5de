"""A training set of BasicSR or of the user's own, tried before a run: one sample of every shape."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import DATASET_REGISTRY

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.shapes import SampleRequest
from multigrid_vsr.data.dataset_adapter import DatasetAdapter
from multigrid_vsr.data.multigrid_reds_dataset import MultigridREDSDataset
from multigrid_vsr.data.seeded import seeded
from multigrid_vsr.data.shared_slots import BatchLoader
from multigrid_vsr.frames.clips import MissingData
from multigrid_vsr.options.settle import paths


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
