"""BasicSR's log line, with the shape of the batch and an estimate of the time left that knows the shapes to come."""

from __future__ import annotations

import datetime
import time
from typing import Any

from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import MessageLogger

from multigrid_vsr.core.plan import remaining_pixels
from multigrid_vsr.core.schedule import Schedule


class MultigridMessageLogger(MessageLogger):
    """Message logger for a run with a schedule; without one it is BasicSR's.

    The time left is the ground-truth pixels left times the time a pixel takes in the current segment. BasicSR's own
    figure, the iterations left times the mean time of those done, is far too low while the cheap stages last.

    Args:
        opt (dict): Config of the run.
        start_iter (int): Iterations done before. Default: 1.
        tb_logger (obj:`tb_logger`): Tensorboard logger. Default: None.
    """

    def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
        super().__init__(opt, start_iter, tb_logger)
        self.schedule: Schedule | None = opt['datasets']['train'].get('multigrid')
        self._since = (start_iter, self.start_time)  # iterations done and the time, where the current segment began

    def reset_start_time(self) -> None:
        super().reset_start_time()
        self._since = (1, self.start_time)

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Writes one line to the log, and its values to TensorBoard.

        Args:
            log_vars (dict): ``epoch``, ``iter``, ``lrs``, ``time`` and ``data_time`` in seconds, and what
                ``get_current_log`` gave.
        """
        if self.schedule is None:
            return super().__call__(log_vars)
        epoch, current_iter, lrs = (log_vars.pop(key) for key in ('epoch', 'iter', 'lrs'))
        iter_time, data_time = log_vars.pop('time'), log_vars.pop('data_time')
        shape = self.schedule.at_current_iter(current_iter).shape
        values = {key: getattr(shape, key) for key in ('gt_size', 'num_frame', 'batch_size_per_gpu')}
        eta = datetime.timedelta(seconds=round(self._seconds_left(current_iter, iter_time)))

        message = f'[{self.exp_name[:5]}..][epoch:{epoch:3d}, iter:{current_iter:8,d}, lr:('
        message += ''.join(f'{lr:.3e},' for lr in lrs) + ')] '
        message += f'[eta: {eta}, time (data): {iter_time:.3f} ({data_time:.3f})] '
        message += ''.join(f'{key}: {value} ' for key, value in values.items())
        message += ''.join(f'{key}: {value:.4e} ' for key, value in log_vars.items())
        self.logger.info(message)
        if self.use_tb_logger and 'debug' not in self.exp_name:
            for key, value in values.items():
                self.tb_logger.add_scalar(f'multigrid/{key}', value, current_iter)
            for place, lr in enumerate(lrs):
                self.tb_logger.add_scalar(f'lr/group_{place}', lr, current_iter)
            for key, value in log_vars.items():
                self.tb_logger.add_scalar(f'losses/{key}' if key.startswith('l_') else key, value, current_iter)

    def _seconds_left(self, current_iter: int, iter_time: float) -> float:
        """Pixels left, at the pace since the last log line of another segment."""
        assert self.schedule is not None
        since_iter, since_time = self._since
        now = time.time()
        left = remaining_pixels(self.schedule, current_iter)
        done = remaining_pixels(self.schedule, since_iter) - left
        segment = self.schedule.at_current_iter(current_iter)
        if since_iter < segment.start:
            self._since = (current_iter, now)
        if done == 0:  # the first iteration, after which BasicSR starts the clock
            return iter_time / segment.shape.pixels * left
        return (now - since_time) / done * left
