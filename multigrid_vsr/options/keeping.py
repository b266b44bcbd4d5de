"""``logger.keep_best``: a metric of a test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.kinds import did_you_mean


def best_metric(opt: Mapping[str, Any]) -> tuple[str, str] | None:
    """The test set and the metric of ``logger.keep_best``; without a set the first one.

    Args:
        opt: Options of a training run.

    Raises:
        OptionError: If the run does not measure it.
    """
    asked = opt['logger'].get('keep_best')
    if asked is None:
        return None
    block = asked if isinstance(asked, Mapping) else {'metric': asked}
    name = 'logger.keep_best'
    metrics = (opt.get('val') or {}).get('metrics') or {}
    sets = [values['name'] for phase, values in opt['datasets'].items() if phase != 'train']
    if not sets or block['metric'] not in metrics:
        measured = ', '.join(metrics) if sets and metrics else 'none is measured'
        fix = did_you_mean(block['metric'], metrics, 'Add it to val.metrics, beside a test set in datasets.val.')
        raise OptionError(name, f'be a metric of val.metrics ({measured})', block['metric'], fix)
    dataset = block.get('dataset', sets[0])
    if dataset not in sets:
        raise OptionError(f'{name}.dataset', f'be the name of a test set ({", ".join(sets)})', dataset, 'Correct it.')
    return dataset, block['metric']
