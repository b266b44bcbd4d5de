"""The table of all options: this project's own, and BasicSR's as far as it looks at them late or not at all.

A row is all that is said about an option: the checks, docs/options.md and the JSON Schema come from here. What one
option asks of another stands in words as ``rule`` and is checked where both are at hand.
"""

from __future__ import annotations

from multigrid_vsr.core.lr import ANNEALS, BATCH_SCALINGS, RESTARTS, WARMUP_PLACES, CosineOptions
from multigrid_vsr.core.overlap import FRAMES_OVERLAP, TILE_OVERLAP
from multigrid_vsr.options.kinds import (
    BLOCK,
    FRACTION,
    NAME_OR_BLOCK,
    PATH,
    SEED,
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
    or_word,
    text_or_block,
    whole,
)

SCHEDULER_TYPE = 'MultigridCosineLR'
SHARES = ('iter', 'samples')
IO_BACKENDS = ('disk', 'lmdb', 'packed')
AMP_MODES = ('bf16', 'fp16', 'auto')
COMPILE_MODES = (True, False, 'default', 'max-autotune-no-cudagraphs')  # the others keep gradients in freed memory
MOST_WARMUP = 5000  # the paper's ramp
DEFAULT_WARMUP_PART = 24  # of a run without `warmup_iter`, by the ablation in docs/method.md


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
        'The largest batch that `volume` may give.',
        'samples',
        'no bound',
        'only beside `batch_size_per_gpu: volume`, at least `datasets.train.batch_size_per_gpu`',
    ),
    Option(
        f'{_BLOCK}.micro_batch_size_per_gpu',
        WHOLE,
        'Micro-batch for gradient accumulation, in samples of the full shape; of smaller samples as many as have its '
        'pixels.',
        'samples',
        'no accumulation',
    ),
    Option(
        f'{_BLOCK}.lq_divisor', WHOLE, 'What the LQ side has to be a multiple of for the arch.', 'pixels', 'as known'
    ),
    Option(f'{_BLOCK}.min_lq_size', WHOLE, 'The smallest LQ side that the arch takes.', 'pixels', 'as known'),
    Option(f'{_BLOCK}.min_num_frame', WHOLE, 'The fewest frames that the arch takes.', 'frames', 'as known'),
    Option(
        f'{_BLOCK}.stages',
        list_of(_ENTRY, 'a list of {iter, gt_size, num_frame, batch_size_per_gpu}', fix='Give at least one entry.'),
        'Instead of all other keys but `micro_batch_size_per_gpu` and the three above: any sequence of shapes.',
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
        NAME_OR_BLOCK,
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
        f'`total_iter` / {DEFAULT_WARMUP_PART}, at most {MOST_WARMUP}',
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


_NUM_GPU, _AUTO = 'a whole number or auto', 'Set num_gpu: auto.'
_FIXED = whole(0, fix='Write 0 for none. BasicSR takes -1 for all of the run: it waits for that iteration.')

BASICSR_OPTIONS = (
    Option('name', TEXT, 'Of the run, and of its folder.'),
    Option('scale', WHOLE, 'Ground truth side / LQ side.', default=1),
    Option(
        'num_gpu',
        or_word(whole(0, _NUM_GPU, _AUTO), 'auto', _NUM_GPU, _AUTO),
        'GPUs of a run without a launcher; 0 is the CPU.',
    ),
    Option('manual_seed', SEED, 'Seed of the weights, and of which sample comes when.', default='drawn'),
    Option('find_unused_parameters', SWITCH, 'For parameters without a gradient, beside a launcher.', default=False),
    Option('use_static_graph', SWITCH, 'Beside a launcher: what has a gradient stays the same.', default=False),
    Option('network_g', BLOCK, 'The network: `type` and the arguments of that arch.'),
    Option('network_g.type', TEXT, 'An arch of BasicSR, or one that is registered there.'),
    Option('network_d', BLOCK, 'The discriminator of a GAN run.', default='none'),
    Option('path', BLOCK, 'Where the run starts from.'),
    Option('path.pretrain_network_g', PATH, 'Weights to start from.', default='random ones'),
    Option('path.param_key_g', TEXT, 'Their key in that file.', default='params'),
    Option('path.strict_load_g', SWITCH, 'Whether names and shapes of the weights must match.', default=True),
    Option('path.pretrain_network_d', PATH, 'Weights of the discriminator to start from.', default='random ones'),
    Option('path.param_key_d', TEXT, 'Their key in that file.', default='params'),
    Option('path.strict_load_d', SWITCH, 'Whether names and shapes of the weights must match.', default=True),
    Option('path.resume_state', PATH, 'State to go on from.', default='none'),
    Option('path.ignore_resume_networks', list_of(TEXT), 'Networks not to load when going on.', default='none'),
    Option('train', BLOCK, 'How it trains.'),
    Option('train.total_iter', WHOLE, 'Length of the run.', 'iterations'),
    Option('train.warmup_iter', whole(-1), "BasicSR's warm-up; -1 for none.", 'iterations', -1),
    Option('train.ema_decay', FRACTION, 'Decay of the average of the weights; 0 for none.', default=0),
    Option('train.fix_flow', _FIXED, 'How long the flow network stays as it was loaded.', 'iterations', 0),
    Option('train.flow_lr_mul', number(0), "Rate of the flow network against the others'.", default=1),
    Option('train.dcn_lr_mul', number(0), "Rate of EDVR's deformable convolutions against the others'.", default=1),
    Option('train.tsa_iter', whole(0), "How long EDVR's TSA module trains alone.", 'iterations', 0),
    Option('train.lr_flow', number(0), 'Rate of the flow network in a GAN run with `fix_flow`.', default='none'),
    Option('train.net_d_iters', WHOLE, 'The generator trains at every so many iterations.', 'iterations', 1),
    Option('train.net_d_init_iters', whole(0), 'How long the discriminator trains alone.', 'iterations', 0),
    Option('train.optim_g', BLOCK, 'The optimizer: `type` and its arguments.'),
    Option('train.optim_g.type', TEXT, 'An optimizer of torch, a registered one, or `module.Class` of a library.'),
    Option('train.optim_g.lr', number_above(0), 'Learning rate that the scheduler starts from.'),
    Option('train.optim_d', BLOCK, 'The optimizer of the discriminator.', default='none'),
    Option('train.optim_d.type', TEXT, 'The same for the discriminator.'),
    Option('train.optim_d.lr', number_above(0), 'Its learning rate.'),
    Option('train.pixel_opt', BLOCK, 'The loss: `type` and its arguments.', default='none', rule='or `perceptual_opt`'),
    Option('train.perceptual_opt', BLOCK, 'Another loss, on features.', default='none'),
    Option('train.gan_opt', BLOCK, 'The loss of a GAN run.', default='none'),
    Option('logger', BLOCK, 'What is written, and when.'),
    Option('logger.print_freq', WHOLE, 'Between lines of the log.', 'iterations'),
    Option('logger.save_checkpoint_freq', WHOLE, 'Between checkpoints.', 'iterations'),
    Option('logger.use_tb_logger', SWITCH, 'TensorBoard.', default=False),
    Option('logger.wandb', BLOCK, 'Weights & Biases.', default='none'),
    Option('logger.wandb.project', TEXT, 'Its project.', default='none', rule='beside `use_tb_logger: true`'),
    Option('logger.wandb.resume_id', TEXT, 'A run there to go on with.', default='none'),
    Option('val', BLOCK, 'Validation.', default='none'),
    Option('val.val_freq', WHOLE, 'Between validations.', 'iterations'),
    Option('val.save_img', SWITCH, 'Whether to write the frames.'),
    Option('val.metrics', BLOCK, 'Blocks of `type` and the arguments of that metric, under any names.', default='none'),
    Option('val.suffix', TEXT, 'In the names of the frames.', default='none'),
    Option('val.center_frame_only', SWITCH, 'Measures the frame in the middle alone.', default=False),
    Option('val.pbar', SWITCH, 'Has no effect.', default=False),
    Option('val.flip_seq', SWITCH, 'Whether clips are mirrored in time.', default=False),
    Option(
        'datasets.val',
        BLOCK,
        'A test set; others are `val_2` and so on, in a file for `multigrid-vsr test` also `test`, `test_2`.',
        default='none',
    ),
    Option(
        'datasets.val.name',
        TEXT,
        'Any for a `MultigridVideoTestDataset`; Vid4, REDS4 or REDSofficial for most types of BasicSR.',
    ),
    Option(
        'datasets.val.type', TEXT, '`MultigridVideoTestDataset` for clips of any kind, one of BasicSR, or your own.'
    ),
    Option(
        'datasets.val.dataroot_gt',
        PATH,
        'Folder of clips; LMDB, `STORE/gt` or videos too for a `MultigridVideoTestDataset`.',
    ),
    Option('datasets.val.dataroot_lq', PATH, 'The same clips at 1/`scale`.'),
    Option('datasets.val.meta_info_file', PATH, 'The clips to use, one a line.', default='every one'),
    Option(
        'datasets.val.io_backend',
        BLOCK,
        '`{type: disk}`; lmdb or packed for a `MultigridVideoTestDataset`, which finds out itself without it.',
    ),
    Option('datasets.val.cache_data', SWITCH, 'Whether all of it is kept in memory.'),
    Option('datasets.val.num_frame', whole(-1), 'Frames that a sliding window takes; -1 for whole clips.', 'frames'),
    Option('datasets.val.use_duf_downsampling', SWITCH, 'Makes LQ frames as DUF does.', default=False),
    Option('datasets.val.padding', TEXT, 'How windows go on past the ends of a clip.', default='none'),
    Option('dist_params', BLOCK, 'How ranks talk.', default='none'),
    Option('dist_params.backend', TEXT, 'Of torch.distributed.', default='nccl'),
    Option('dist_params.port', WHOLE, 'Of rank 0, with SLURM.', default='29500'),
)


MODULE_OPTIONS = (
    Option(
        'train.fix_modules',
        list_of(TEXT),
        'Parameters, by a part of their name, that `fix_flow` holds fixed and whose rate `flow_lr_mul` multiplies.',
        default="BasicSR's: `spynet` and `edvr` are held fixed, the rate is that of `spynet`",
        rule='beside `fix_flow` or `flow_lr_mul`; each is in the name of a parameter',
    ),
    Option(
        'train.checkpoint_modules',
        list_of(TEXT),
        'Modules, by name or a pattern such as `trunk.*`, that keep their input alone and are computed again for the '
        'gradient: less memory, more time, the same gradient.',
        default='none',
        rule='each names a module of `network_g`; not beside `compile`',
    ),
)


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


VALIDATION_OPTIONS = (
    Option(
        'val.max_frames',
        WHOLE,
        'Frames of a clip that go through the network together; longer clips go in windows that overlap.',
        'frames',
        'whole clips',
        'above twice the overlap',
    ),
    Option(
        'val.overlap',
        whole(0),
        'Frames of context on each side of a window of a recurrent arch, computed and left out.',
        'frames',
        FRAMES_OVERLAP,
        'beside `max_frames`',
    ),
    Option(
        'val.tile',
        WHOLE,
        'LQ side of the tiles that larger frames go through the network in.',
        'LQ pixels',
        'whole frames',
        'above twice `tile_overlap`',
    ),
    Option(
        'val.tile_overlap',
        whole(0),
        'Context on each side of a tile, computed and left out.',
        'LQ pixels',
        TILE_OVERLAP,
        'beside `tile`',
    ),
)
