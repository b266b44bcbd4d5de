"""The ``stock_run`` block: what run of BasicSR a file was made from, so that comparisons are with that run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.core.plan import StockRun
from multigrid_vsr.options.checked import checked

COMMENTS = {
    'stock_run': 'the run that this file was made from: plan, log and report compare with it',
    'stock_run.total_iter': 'its iterations',
    'stock_run.batch_size': 'its samples an iteration, on all GPUs',
}


def gpus_of(opt: Mapping[str, Any]) -> int:
    """``num_gpu`` of the file; 1 where it is ``auto``, or 0 for the CPU."""
    num_gpu = opt.get('num_gpu')
    return (num_gpu if isinstance(num_gpu, int) else 1) or 1


def stock_run_of(opt: Mapping[str, Any], world_size: int) -> StockRun | None:
    """The stock run on as many GPUs for each of its own as this run has for each of the file's.

    Args:
        opt: The options.
        world_size: GPUs that the run is on; a launcher may start more or fewer than ``num_gpu``.

    Raises:
        OptionError: If the block does not hold both numbers.
    """
    block = opt.get('stock_run')
    if block is None:
        return None
    if not isinstance(block, Mapping):
        raise OptionError('stock_run', 'be a block of total_iter and batch_size', block, 'Correct or delete it.')
    values = checked('stock_run', block)
    for key in ('total_iter', 'batch_size'):
        if key not in values:
            raise OptionError(f'stock_run.{key}', 'be given', None, 'Add it, or delete the block.')
    return StockRun(values['total_iter'], values['batch_size'] * world_size / gpus_of(opt))


def with_stock_run(opt: Mapping[str, Any], total_iter: int, batch_size: int) -> dict[str, Any]:
    """The options with the block behind the training set and its shapes; one that is there already stays."""
    if opt.get('stock_run') is not None:
        return dict(opt)
    items = [item for item in opt.items() if item[0] != 'stock_run']
    keys = [key for key, _ in items]
    place = keys.index('multigrid' if 'multigrid' in keys else 'datasets') + 1
    block = {'total_iter': total_iter, 'batch_size': batch_size}
    return dict([*items[:place], ('stock_run', block), *items[place:]])
