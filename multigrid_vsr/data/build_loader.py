"""BasicSR's ``build_dataloader``, for a training set that follows a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from basicsr.utils.dist_util import get_dist_info
from torch.utils.data import Dataset, Sampler

from multigrid_vsr.data.dataset_adapter import DatasetAdapter
from multigrid_vsr.data.loader import BatchRequests, MultigridLoader
from multigrid_vsr.data.shared_slots import BatchLoader
from multigrid_vsr.data.workers import init_worker


def build_multigrid_loader(
    dataset: Dataset,
    dataset_opt: Mapping[str, Any],
    num_gpu: int = 1,
    dist: bool = False,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> MultigridLoader:
    """Builds the loader of a run from the arguments that BasicSR gives to ``build_dataloader``.

    Without a launcher one process feeds all its GPUs (``DataParallel``), so it loads the shares of all of them.

    Args:
        dataset: The training set: a :class:`BatchLoader`, or any dataset of BasicSR's manner.
        dataset_opt: ``datasets.train``, with the :class:`Schedule` as ``multigrid`` and, in a resumed run, the
            iterations already done as ``start_iter``.
        num_gpu: Number of GPUs of this process, where there is no launcher.
        dist: Whether there is a launcher.
        sampler: BasicSR's sampler, which knows the epoch.
        seed: Seed of the run, the same on all ranks.
    """
    rank, world_size = get_dist_info()
    processes_gpus = 1 if dist else max(num_gpu, 1)
    num_workers = dataset_opt['num_worker_per_gpu'] * processes_gpus
    requests = BatchRequests(
        dataset_opt['multigrid'],
        len(dataset),  # type: ignore[arg-type]
        seed,
        world_size=world_size * processes_gpus,
        ranks=range(rank * processes_gpus, (rank + 1) * processes_gpus),
        start_iter=dataset_opt.get('start_iter', 0),
    )
    return MultigridLoader(
        dataset if isinstance(dataset, BatchLoader) else DatasetAdapter(dataset, dataset_opt),
        requests,
        sampler,
        num_prefetch_queue=dataset_opt.get('num_prefetch_queue', 1) if dataset_opt.get('prefetch_mode') == 'cpu' else 0,
        num_workers=num_workers,
        worker_init_fn=partial(init_worker, num_workers=num_workers, rank=rank, seed=seed),
        pin_memory=dataset_opt.get('pin_memory', False),
        persistent_workers=dataset_opt.get('persistent_workers', False) and num_workers > 0,
    )
