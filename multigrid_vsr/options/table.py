"""The table of all options of this project, BasicSR's own in its blocks among them.

A row is all that is said about an option: the checks, docs/options.md and the JSON Schema come from here. What one
option asks of another stands in words as ``rule`` and is checked where both are at hand.
"""

from __future__ import annotations

from multigrid_vsr.core.lr import ANNEALS, BATCH_SCALINGS, RESTARTS, WARMUP_PLACES, CosineOptions
from multigrid_vsr.options.kinds import (
    BLOCK,
    PATH,
    SWITCH,
    TEXT,
    WHOLE,
    Option,
    as_yaml,
    block,
    choice,
    list_of,
    number,
    number_above,
    one_or_list_of,
    or_text,
    or_word,
    whole,
)

SCHEDULER_TYPE = 'MultigridCosineLR'
SHARES = ('iter', 'samples')
IO_BACKENDS = ('disk', 'lmdb', 'packed')
AMP_MODES = ('bf16', 'fp16', 'auto')
COMPILE_MODES = (True, False, 'default', 'max-autotune-no-cudagraphs')  # the others keep gradients in freed memory
WARMUP_PART, MOST_WARMUP = 24, 5000  # without `warmup_iter`: docs/method.md has the ablation that the first is from


_ENTRY = block('{iter, gt_size, num_frame, batch_size_per_gpu}', 'Name each value.')
_DATASET, _BLOCK, _ENTRIES, _SCHEDULER = 'datasets.train', 'multigrid', 'multigrid.stages[]', 'train.scheduler'

OPTIONS = (
    Option('model_type', TEXT, 'What trains: a model of this project, or one derived from it.'),
    # The training set; what is BasicSR's means the same.
    Option(f'{_DATASET}.name', TEXT, 'For the log alone.'),
    Option(f'{_DATASET}.type', TEXT, "The layout of the frames; also one of BasicSR's, or your own."),
    Option(f'{_DATASET}.dataroot_gt', PATH, "Folder of clips, BasicSR's LMDB, or `STORE/gt`."),
    Option(
        f'{_DATASET}.dataroot_lq',
        PATH,
        'The same clips at 1/`scale`: folder, LMDB, or `STORE/lq`. Not read beside `train.degradation`.',
        default='has to be given, unless `train.degradation` makes LQ frames',
    ),
    Option(f'{_DATASET}.io_backend', BLOCK, '`{type: disk}`, `{type: lmdb}` or `{type: packed}`.'),
    Option(
        f'{_DATASET}.io_backend.type',
        choice(*IO_BACKENDS, fix='Set io_backend: {type: disk}.', suggests_near_miss=True),
        "PNG files, BasicSR's LMDB, or a frame store of `multigrid-vsr prepare`.",
    ),
    Option(f'{_DATASET}.num_frame', WHOLE, 'Frames of the full shape, which ends the run.', 'frames'),
    Option(
        f'{_DATASET}.gt_size', WHOLE, 'Ground truth side of the full shape.', 'pixels', rule='a multiple of `scale`'
    ),
    Option(f'{_DATASET}.batch_size_per_gpu', WHOLE, 'Samples of each GPU at the full shape.', 'samples'),
    Option(
        f'{_DATASET}.meta_info_file',
        PATH,
        'The clips to train on, in lines `000 100 (720,1280,3)`.',
        default='every clip found, or what the LMDB or the store lists',
    ),
    Option(
        f'{_DATASET}.val_partition',
        choice('REDS4', 'official'),
        'The clips of REDS to leave out: those that it is usually tested on.',
        default='none is left out',
    ),
    Option(f'{_DATASET}.test_mode', SWITCH, 'Uses the clips of `val_partition` alone.', default=False),
    Option(
        f'{_DATASET}.skip_short_clips',
        SWITCH,
        'Whether clips with fewer frames than the longest sample needs are left out; else they are an error.',
        default=False,
    ),
    Option(f'{_DATASET}.interval_list', list_of(WHOLE), 'Steps between frames to draw from.', 'frames', [1]),
    Option(f'{_DATASET}.random_reverse', SWITCH, 'Whether half of the samples run backwards.', default=False),
    Option(f'{_DATASET}.use_hflip', SWITCH, 'Whether half of the samples are mirrored.'),
    Option(f'{_DATASET}.use_rot', SWITCH, 'Whether samples are turned.'),
    Option(
        f'{_DATASET}.flip_sequence',
        SWITCH,
        'Septuplets: a sample of t frames is t / 2 of a clip and the same backwards.',
        default=False,
        rule='every `num_frame` even',
    ),
    Option(
        f'{_DATASET}.target',
        choice('sequence', 'center', fix='Leave it out for what the arch needs.'),
        "Ground truth of every frame, or of the one in the middle alone, as in BasicSR's `REDSDataset`.",
        default='what the arch gives',
    ),
    Option(f'{_DATASET}.num_worker_per_gpu', whole(0), 'Processes that cut samples; 0 for none.', 'processes'),
    Option(
        f'{_DATASET}.prefetch_mode',
        choice('cpu', 'cuda'),
        '`cpu`: a thread keeps batches ready; `cuda`: the next batch is copied ahead.',
        default='neither',
    ),
    Option(
        f'{_DATASET}.num_prefetch_queue',
        WHOLE,
        'Batches of the full shape that `prefetch_mode: cpu` keeps, or as many more as are smaller.',
        'batches',
        1,
    ),
    Option(f'{_DATASET}.pin_memory', SWITCH, 'Faster copies to the GPU.', default=False),
    Option(f'{_DATASET}.persistent_workers', SWITCH, 'Workers stay from one epoch to the next.', default=False),
    Option(
        f'{_DATASET}.dataset_enlarge_ratio',
        number_above(0),
        'Has no effect: the run is one virtual epoch.',
        default='1',
    ),
    Option(f'{_DATASET}.dataroot_flow', PATH, 'Has no effect.', default='none'),
    Option(f'{_DATASET}.use_shuffle', SWITCH, 'Has no effect: samples are always shuffled.', default=True),
    # The shapes of the run.
    Option(
        f'{_BLOCK}.gt_size',
        list_of(WHOLE),
        'Ground truth side of each spatial stage.',
        'pixels',
        'the full value only',
        'strictly growing, multiples of `scale`, the last is `datasets.train.gt_size`',
    ),
    Option(
        f'{_BLOCK}.num_frame',
        list_of(WHOLE),
        'Frame counts, used inside every stage.',
        'frames',
        'the full value only',
        'strictly growing, the last is `datasets.train.num_frame`',
    ),
    Option(
        f'{_BLOCK}.stage_iter',
        list_of(WHOLE),
        'Length of each stage; with `share: samples` in iterations of the batch of `datasets.train`.',
        'iterations',
        'equal shares: boundary k of K at floor(total_iter·k/K)',
        'the sum is `train.total_iter`, unless `share: samples`',
    ),
    Option(
        f'{_BLOCK}.frame_ratio',
        list_of(number_above(0, 'Leave a frame count out of num_frame to skip it.')),
        'Share of a stage at each `num_frame`.',
        default='equal shares',
        rule='one for each `num_frame`',
    ),
    Option(
        f'{_BLOCK}.share',
        choice(*SHARES),
        'What the lengths are shares of; with `samples` a larger batch gets fewer iterations.',
        default='iter',
        rule='with `samples`, `train.total_iter` is the number of iterations that come out',
    ),
    Option(
        f'{_BLOCK}.batch_size_per_gpu',
        or_word(list_of(one_or_list_of(WHOLE)), 'volume', "a list or the word 'volume'"),
        'Batch of each stage, or a list of them for each `num_frame`; `volume` is explained below.',
        'samples',
        'that of `datasets.train`',
        'the global batch is at most the samples of the data',
    ),
    Option(
        f'{_BLOCK}.max_batch_size_per_gpu',
        WHOLE,
        'Beside `volume` the bound of the batch, else samples of the full shape that go through the network at a time.',
        'samples',
        'no bound',
        'beside `volume` at least `datasets.train.batch_size_per_gpu`',
    ),
    Option(
        f'{_BLOCK}.lq_multiple', WHOLE, 'What the LQ side has to be a multiple of for the arch.', 'pixels', 'as known'
    ),
    Option(f'{_BLOCK}.lq_least', WHOLE, 'The smallest LQ side that the arch takes.', 'pixels', 'as known'),
    Option(f'{_BLOCK}.num_frame_least', WHOLE, 'The fewest frames that the arch takes.', 'frames', 'as known'),
    Option(
        f'{_BLOCK}.stages',
        list_of(_ENTRY, 'a list of {iter, gt_size, num_frame, batch_size_per_gpu}', fix='Give at least one entry.'),
        'Instead of all other keys but `max_batch_size_per_gpu` and the three above: any sequence of shapes.',
        default='the keys above',
        rule='the last entry has the full size',
    ),
    Option(f'{_ENTRIES}.iter', WHOLE, 'How long the entry lasts.', 'iterations', rule='the sum is `train.total_iter`'),
    Option(f'{_ENTRIES}.gt_size', WHOLE, 'Ground truth side.', 'pixels', 'the full value', 'a multiple of `scale`'),
    Option(f'{_ENTRIES}.num_frame', WHOLE, 'Frames of a sample.', 'frames', 'the full value'),
    Option(f'{_ENTRIES}.batch_size_per_gpu', WHOLE, 'Samples of each GPU.', 'samples', 'that of `datasets.train`'),
    # What it is compared with.
    Option(
        'stock_run',
        BLOCK,
        'The run that this file was made from, as `convert` and `fit` write it: what comparisons are with.',
        default='comparisons are with as many iterations of the full shape',
    ),
    Option('stock_run.total_iter', WHOLE, 'Its iterations.', 'iterations'),
    Option('stock_run.batch_size', WHOLE, 'Its samples in an iteration, on all GPUs of the file.', 'samples'),
    # How it trains.
    Option(
        'train.amp',
        choice(*AMP_MODES, fix='Leave it out for float32.'),
        'Precision of the network; the losses stay in float32. `auto`: bf16 where the device has it.',
        default='float32',
        rule='not in a GAN run',
    ),
    Option(
        'train.compile',
        choice(
            *COMPILE_MODES,
            words=f'one of {", ".join(map(as_yaml, COMPILE_MODES))}',
            fix='Leave it out for no compiling; CUDA graphs are train.cuda_graph.',
        ),
        'Compiles the modules of the network, with a mode of `torch.compile`.',
        default=False,
        rule='one GPU for each process',
    ),
    Option(
        'train.cuda_graph',
        SWITCH,
        'Launches forward, losses and backward of an iteration as one CUDA graph; nothing without a GPU.',
        default=False,
        rule='one GPU for each process, not in a GAN run',
    ),
    Option(
        'train.arch_checks',
        SWITCH,
        'Whether archs look at values on the GPU, and wait for each: EDVR and IconVSR to warn of large offsets, '
        'BasicVSR++ for mirrored sequences, which `flip_sequence` says too.',
        default='true; false with `cuda_graph`',
    ),
    Option(
        'train.channels_last', SWITCH, 'Lays the weights of convolutions out with the channels last.', default=False
    ),
    Option(
        'train.degradation',
        or_text(BLOCK),
        'What makes the LQ frames on the device: a name that is registered in `DEGRADATION_REGISTRY`, or a block of '
        '`type` and its arguments.',
        default='they are read',
    ),
    Option(f'{_SCHEDULER}.type', choice(SCHEDULER_TYPE), 'Or a scheduler of BasicSR, with its own options.'),
    Option(
        f'{_SCHEDULER}.eta_min',
        number(0, 'Write it as !!float 1e-7.'),
        'Rate that an annealed period ends with.',
        default=CosineOptions.eta_min,
    ),
    Option(
        f'{_SCHEDULER}.restart',
        choice(*RESTARTS),
        'Where the cosine starts again: never, at each spatial stage, at each shape.',
        default=CosineOptions.restart,
    ),
    Option(
        f'{_SCHEDULER}.anneal',
        choice(*ANNEALS),
        'Which periods anneal: the last alone, as in the paper, or each; `linear`: the rate is constant, then a line.',
        default=CosineOptions.anneal,
    ),
    Option(
        f'{_SCHEDULER}.restart_weights',
        list_of(number(0)),
        'Factors of the rate.',
        default='1',
        rule='one for each period, or one for each spatial stage; a run of one shape takes the last',
    ),
    Option(
        f'{_SCHEDULER}.warmup_iter',
        whole(-1, 'a whole number, or -1 for none'),
        'Length of a linear ramp; -1 for none.',
        'iterations',
        f'`total_iter` / {WARMUP_PART}, at most {MOST_WARMUP}',
    ),
    Option(
        f'{_SCHEDULER}.warmup_at',
        choice(*WARMUP_PLACES),
        'Where it ramps: at the start of the run, or also at boundaries where the rate jumps up, from the rate before.',
        default=CosineOptions.warmup_at,
    ),
    Option(
        f'{_SCHEDULER}.batch_scaling',
        choice(*BATCH_SCALINGS),
        "Scales the rate with the batch against that of `datasets.train`; beside BasicSR's schedulers too.",
        default=CosineOptions.batch_scaling,
    ),
    # Where it goes, and how it goes on.
    Option('path.experiments_root', PATH, 'Folder of the runs.', default='`experiments`, as BasicSR says'),
    Option('path.results_root', PATH, 'Folder of the results of tests.', default='`results`, as BasicSR says'),
    Option(
        'path.resume_changed_schedule',
        SWITCH,
        'Lets a run go on with a schedule, batch or seed other than those its state was saved with.',
        default=False,
    ),
)
LOADER_KEYS = (  # of `datasets.train`, whatever the dataset
    *('name', 'type', 'num_frame', 'gt_size', 'batch_size_per_gpu', 'target', 'num_worker_per_gpu', 'prefetch_mode'),
    *('num_prefetch_queue', 'pin_memory', 'persistent_workers', 'dataset_enlarge_ratio'),
)
OF_TRAINING = ('train', 'logger', 'val_freq')  # what a test has no use for
TEST_SET_KEYS = ('name', 'type', 'dataroot_gt')  # that a MultigridVideoTestDataset cannot do without
# Blocks that hold nothing else.
STRICT = (_BLOCK, _ENTRIES, _DATASET, f'{_DATASET}.io_backend', 'stock_run', _SCHEDULER)
