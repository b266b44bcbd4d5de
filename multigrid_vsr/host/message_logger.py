"""BasicSR's log line, with the shape of the batch, what it takes, and a time left that knows the shapes to come."""

from __future__ import annotations

from typing import Any

from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import MessageLogger

from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.core.timing import span
from multigrid_vsr.models import run_clock  # by name: it may be what imports BasicSR, and this module with it


class MultigridMessageLogger(MessageLogger):
    """Message logger for a run with a schedule; without one it is BasicSR's.

    BasicSR's own time left, the iterations left times the mean time of those done, is far too low while the cheap
    stages last.

    Args:
        opt (dict): Config of the run.
        start_iter (int): Iterations done before. Default: 1.
        tb_logger (obj:`tb_logger`): Tensorboard logger. Default: None.
    """

    def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
        super().__init__(opt, start_iter, tb_logger)
        self.schedule: Schedule | None = opt['datasets']['train'].get('multigrid')

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Writes one line to the log, and its values to TensorBoard.

        Args:
            log_vars (dict): ``epoch``, ``iter``, ``lrs``, ``time`` and ``data_time`` in seconds, and what
                ``get_current_log`` gave.
        """
        clock = run_clock.RunClock.current
        if self.schedule is None or clock is None or not clock.is_running:
            return super().__call__(log_vars)
        epoch, current_iter, lrs = (log_vars.pop(key) for key in ('epoch', 'iter', 'lrs'))
        iter_time, data_time = log_vars.pop('time'), log_vars.pop('data_time')
        shape = self.schedule.at_current_iter(current_iter).shape
        values = {key: getattr(shape, key) for key in ('gt_size', 'num_frame', 'batch_size_per_gpu')}
        figures = clock.line(current_iter)

        message = f'[{self.exp_name[:5]}..][epoch:{epoch:3d}, iter:{current_iter:8,d}, lr:('
        message += ''.join(f'{lr:.3e},' for lr in lrs) + ')] '
        message += f'[eta: {span(figures["seconds_left"])}, time (data): {iter_time:.3f} ({data_time:.3f})] '
        message += ''.join(f'{key}: {value} ' for key, value in values.items())
        message += ''.join(f'{key}: {value:.4e} ' for key, value in log_vars.items())
        message += f'samples/s: {figures["samples_per_s"]:.4g} Mpixels/s: {figures["megapixels_per_s"]:.4g} '
        message += f'waiting: {figures["waiting"]:.1%} peak_memory: {figures["peak_memory"]:.2f} '
        self.logger.info(message)
        if self.use_tb_logger and 'debug' not in self.exp_name:
            for key, value in (values | figures).items():
                self.tb_logger.add_scalar(f'multigrid/{key}', value, current_iter)
            for place, lr in enumerate(lrs):
                self.tb_logger.add_scalar(f'lr/group_{place}', lr, current_iter)
            for key, value in log_vars.items():
                self.tb_logger.add_scalar(f'losses/{key}' if key.startswith('l_') else key, value, current_iter)
