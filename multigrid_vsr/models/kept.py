"""``logger.keep_checkpoints`` and ``keep_best``: which checkpoints of a run stay on the disk."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.utils import get_root_logger

from multigrid_vsr.core.keeping import removable
from multigrid_vsr.core.whole_file import whole_file
from multigrid_vsr.models.checkpoint import weight_names
from multigrid_vsr.options.keeping import best_metric

_NUMBERED = re.compile(r'net_\w+_(\d+)\.pth|(\d+)\.state')


class KeptCheckpoints:
    """Removes checkpoints that nothing needs, in the folder of the run alone; called on rank 0.

    Args:
        opt: Options of the run.

    Attributes:
        best: ``iter`` and ``value`` of the best validation of ``keep_best``, by any process of the run.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self._opt = opt
        self._models, self._states = Path(opt['path']['models']), Path(opt['path']['training_states'])
        self._asked = best_metric(opt)
        self._file = self._models / 'best.json'
        self.best: dict[str, Any] | None = self._read()

    def after_validation(self, model: Any, dataset: str, current_iter: int | str) -> bool:
        """Looks at a validation.

        Args:
            model: BasicSR's model: its ``best_metric_results`` have ``val``, ``iter`` and ``better`` of the best one in
                this process, by test set and metric.
            dataset: Name of the test set.
            current_iter: Iteration of the weights.

        Returns:
            Whether it is the best of the run.
        """
        if self._asked is None or dataset != self._asked[0]:
            return False
        found = getattr(model, 'best_metric_results', {}).get(dataset, {}).get(self._asked[1])
        if found is None:  # a model with a validation of its own
            return False
        sign = -1 if found['better'] == 'lower' else 1
        if found['iter'] != current_iter or (self.best and sign * found['val'] < sign * self.best['value']):
            return False
        self.best = {'dataset': dataset, 'metric': self._asked[1], 'value': found['val'], 'iter': current_iter}
        return True

    def save_best(self) -> None:
        """Writes which one is the best; its weights are there."""
        with whole_file(self._file) as file:
            file.write(f'{json.dumps(self.best)}\n'.encode())

    def prune(self, current_iter: int) -> None:
        """Removes what is not kept. The state goes first: without its weights it would look damaged."""
        keep = self._opt['logger'].get('keep_checkpoints')
        if keep is None:
            return
        files: dict[int, list[Path]] = {}
        for path in (*self._states.glob('*.state'), *self._models.glob('net_*.pth')):
            if found := _NUMBERED.fullmatch(path.name):
                files.setdefault(int(found[1] or found[2]), []).append(path)
        whole = [i for i, paths in files.items() if self._names(i) <= {path.name for path in paths}]
        needed = [i for i, paths in files.items() if any(self._is_asked_for(path) for path in paths)]
        if self.best:
            needed.append(self.best['iter'])
        try:
            for iteration in removable(files, whole, current_iter, keep, needed):
                for path in files[iteration]:
                    path.unlink(missing_ok=True)
        except OSError as error:
            get_root_logger().warning(f'A checkpoint that is not kept cannot be removed ({error}).')

    def _names(self, iteration: int) -> set[str]:
        return {f'{iteration}.state', *weight_names(self._opt, iteration)}

    def _is_asked_for(self, path: Path) -> bool:
        """Whether the option file starts from it. What ``--auto_resume`` has found is in the options too."""
        if self._opt['auto_resume']:
            return False
        named = [value for key, value in self._opt['path'].items() if key.startswith(('pretrain_', 'resume_state'))]
        return any(isinstance(value, str) and os.path.abspath(value) == os.path.abspath(path) for value in named)

    def _read(self) -> dict[str, Any] | None:
        if self._asked is None or not self._file.is_file():
            return None
        best = json.loads(self._file.read_text())
        is_number = math.isfinite(best['value'])  # an older one may be infinite: the PSNR of equal frames
        return best if is_number and (best['dataset'], best['metric']) == self._asked else None
