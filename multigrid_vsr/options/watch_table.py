"""The table of options of what is shown of a run, what is kept of it, and when it is given up."""

from __future__ import annotations

from multigrid_vsr.options.kinds import WHOLE, Option, choice, number_above, text_or_block, whole

MOST_NAN = 100  # iterations without `stop_on_nan`

WATCH_OPTIONS = (
    Option(
        'train.grad_clip_norm',
        number_above(0),
        'Bound of the norm of the gradient, which the log then has as `grad_norm`.',
        default='no bound',
    ),
    Option(
        'train.stop_on_nan',
        whole(0),
        'Ends the run when the loss has been NaN or infinite for so long; 0 for never.',
        'iterations',
        MOST_NAN,
    ),
    Option(
        'logger.progress',
        choice('auto', True, False),
        'A progress bar below the lines; `auto`: on a terminal.',
        default='auto',
    ),
    Option('logger.keep_checkpoints', WHOLE, 'Checkpoints to keep, the last; others are removed.', default='all'),
    Option(
        'logger.keep_best',
        text_or_block('metric', 'dataset'),
        'Keeps the weights of the best validation too; without `dataset` of the first test set.',
        default='none',
        rule='a metric of `val.metrics`',
    ),
    Option(
        'val.tb_images',
        WHOLE,
        'Clips of each test set of which TensorBoard gets a frame: LQ, result and ground truth.',
        'clips',
        'none',
        'beside `logger.use_tb_logger: true`',
    ),
)
