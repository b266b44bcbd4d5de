"""Everything that changes BasicSR from outside: the only module that does.

``before_import`` and ``after_import`` surround BasicSR's own import. Each patch says why it is there, and is left
out where the host does not need it. A run with stock types and no ``multigrid`` block trains as without this plugin.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from multigrid_vsr.core.errors import InputError, OptionError
from multigrid_vsr.options.arch_limits import target_of
from multigrid_vsr.options.checked import checked
from multigrid_vsr.options.multigrid_block import schedule_from_options, uses_multigrid
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.settle import settle
from multigrid_vsr.options.table import MODEL_TYPES
from multigrid_vsr.options.train_block import checked_schedule

_REGISTERING = (
    'data.multigrid_reds_dataset',
    'data.multigrid_vimeo90k_dataset',
    'models.multigrid_video_model',
    'models.multigrid_video_gan_model',
)
_replaced: dict[str, tuple[Any, Any]] = {}  # attribute of BasicSR: what it was, what it is now


def before_import() -> None:
    """Gives torchvision back the module that BasicSR imports.

    Why: torchvision 0.17 removed ``transforms.functional_tensor``, and ``basicsr.data.degradations`` asks it for
    ``rgb_to_grayscale``. Goes: when BasicSR imports it from ``transforms.functional``.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        if name in sys.modules or importlib.util.find_spec(name) is not None:
            return
        from torchvision.transforms.functional import rgb_to_grayscale
    except ImportError:
        return  # BasicSR's own import says what is missing
    module = types.ModuleType(name, 'Stands in for a module that torchvision removed.')
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module


def after_import() -> None:
    """Registers the dataset and the model, and replaces the functions below. Calling it again changes nothing."""
    if _replaced:
        return
    if not _is_under_way():
        _register()
    from multigrid_vsr.host.message_logger import MultigridMessageLogger

    for name, source, wrap in (
        ('parse_options', 'basicsr.utils.options', _parsing_options),
        ('build_dataloader', 'basicsr.data', _building_dataloader),
        ('MessageLogger', 'basicsr.utils.logger', lambda _: MultigridMessageLogger),
        ('load_resume_state', 'basicsr.train', _loading_resume_state),
    ):
        original = getattr(importlib.import_module(source), name)
        _replaced[name] = (original, wrap(original))
    for name, loaded in list(sys.modules.items()):
        if name == '__main__' or name.partition('.')[0] == 'basicsr':
            _replace_names(vars(loaded))
    _train_on_cpu_ranks()
    _start_small_flows_from_zero()
    _align_without_cuda()
    _take_small_frames()


def _is_under_way() -> bool:
    """Whether a module of this plugin is what imports BasicSR: as in a spawned worker, whose dataset comes first."""
    specs = [
        getattr(module, '__spec__', None)
        for name, module in sys.modules.items()
        if name.startswith('multigrid_vsr.') and not name.startswith('multigrid_vsr.host')
    ]
    return any(getattr(spec, '_initializing', False) for spec in specs)


def _register() -> None:
    for module in _REGISTERING:
        importlib.import_module(f'multigrid_vsr.{module}')


def _replace_names(names: dict[str, Any]) -> None:
    """BasicSR's modules import functions by name, so each module that has one needs the replacement."""
    for name, (original, replacement) in _replaced.items():
        if names.get(name) is original:
            names[name] = replacement


def _parsing_options(original: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the options before BasicSR writes anything, and hands the schedule to dataset and model.

    Why: it is the first thing that every entry calls, and nothing is written before it returns.
    """

    @functools.wraps(original)
    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        from multigrid_vsr.host.run_check import check_run

        _register()  # what could not be imported together with BasicSR
        _replace_in_caller(sys._getframe(1).f_globals)
        _print_input_errors_as_one_line()
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument('-opt')
        parser.add_argument('--force_yml', nargs='+', default=[])
        known, _ = parser.parse_known_args()
        if known.opt is None:  # BasicSR says how it is used
            return original(root_path, is_train)
        written = read_options(known.opt, known.force_yml)
        notes = settle(written)
        follows_schedule = is_train and uses_multigrid(written)
        if follows_schedule:
            checked_schedule(written)
            check_run(written)
            if os.environ.get('RANK', '0') == '0':
                print(*notes, sep='\n', end='\n' if notes else '')
        opt, args = original(root_path, is_train)
        _honour_roots(written.get('path') or {}, opt)
        if follows_schedule:
            settle(opt)
            opt['datasets']['train'].update(checked('datasets.train', written['datasets']['train']))
            _check_data(opt)
            opt['manual_seed'] = _same_on_all_ranks(opt['manual_seed'])
            opt['datasets']['train']['target'] = target_of(opt)
            opt['seed_is_given'] = written.get('manual_seed') is not None
            opt['datasets']['train']['multigrid'] = schedule_from_options(opt)
        return opt, args

    return parse_options


def _replace_in_caller(names: dict[str, Any]) -> None:
    """Reaches what ``python basicsr/train.py`` defines after importing BasicSR: a second ``load_resume_state``."""
    _replace_names(names)
    own, (original, replacement) = names.get('load_resume_state'), _replaced['load_resume_state']
    if isinstance(own, types.FunctionType) and own.__code__.co_code == original.__code__.co_code:
        names['load_resume_state'] = replacement


def _check_data(opt: Mapping[str, Any]) -> None:
    from multigrid_vsr.data.check import check_clips
    from multigrid_vsr.frames.clips import training_clips
    from multigrid_vsr.models.checkpoint import ranks

    dataset_opt = opt['datasets']['train']
    check_clips(training_clips(dataset_opt), schedule_from_options(opt), dataset_opt, ranks(opt))


def _honour_roots(written: Mapping[str, Any], opt: dict[str, Any]) -> None:
    """Puts a run where ``path.experiments_root`` or ``path.results_root`` says.

    Why: BasicSR 1.4.2 overwrites both with folders below the root path. Goes: with its next release; git master
    honours them.
    """
    key = 'experiments_root' if opt['is_train'] else 'results_root'
    if written.get(key) is None:
        return
    path, wrong = opt['path'], opt['path'][key]
    root = os.path.join(written[key], opt['name'])
    for name in (key, 'models', 'training_states', 'log', 'visualization'):
        if isinstance(path.get(name), str) and (path[name] + os.sep).startswith(wrong + os.sep):
            path[name] = root + path[name][len(wrong) :]


def _same_on_all_ranks(seed: int) -> int:
    """Rank 0's seed: where the file gives none, each rank has drawn its own, and they would not share the samples."""
    from torch import distributed

    seeds = [seed]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(seeds, src=0)
    return seeds[0]


def _print_input_errors_as_one_line() -> None:
    """Ends the process with the line alone where an option or a frame cannot be used."""
    previous = sys.excepthook
    if getattr(previous, 'prints_input_errors', False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        if not isinstance(error, InputError):
            previous(kind, error, traceback)
        elif not isinstance(error, OptionError) or os.environ.get('RANK', '0') == '0':  # all ranks have one file
            print(error, file=sys.stderr)

    excepthook.prints_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook


def _building_dataloader(original: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the training set that follows a schedule a loader of its own.

    Why: BasicSR's has one batch size and ends with an epoch. The dispatch is by ``datasets.train.multigrid``, which
    only a schedule sets.
    """

    @functools.wraps(original)
    def build_dataloader(dataset: Any, dataset_opt: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if dataset_opt.get('multigrid') is None:
            return original(dataset, dataset_opt, *args, **kwargs)
        from multigrid_vsr.data.build_loader import build_multigrid_loader

        return build_multigrid_loader(dataset, dataset_opt, *args, **kwargs)

    return build_dataloader


def _loading_resume_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Resumes on any device, from the newest whole checkpoint where the run writes, at the next iteration.

    Why: BasicSR's loads onto a CUDA device only, runs what code a state holds, fails on a damaged one, and looks for
    ``--auto_resume`` below the current folder.
    """

    @functools.wraps(original)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        if opt['model_type'] not in MODEL_TYPES:
            return original(opt)
        from basicsr.utils import check_resume

        from multigrid_vsr.models import checkpoint

        path = opt['path'].get('resume_state')
        if opt['auto_resume']:
            path, state, warnings = checkpoint.newest_good(opt)
            if opt['rank'] == 0:
                print(*warnings, sep='\n', end='\n' if warnings else '')
            opt['path']['resume_state'] = path and str(path)
        else:
            state = checkpoint.load_state(path) if path else None
        if state is None:
            return None
        schedule = opt['datasets']['train'].get('multigrid')
        if schedule is not None:
            seed = opt['manual_seed'] if opt['seed_is_given'] else None
            may_differ = bool(opt['path'].get('resume_changed_schedule'))
            rows = checkpoint.schedule_rows(schedule, checkpoint.ranks(opt))
            checkpoint.check_same_run(state, rows, seed, may_differ)
            if not opt['seed_is_given']:
                opt['manual_seed'] = state.get('seed', opt['manual_seed'])
        check_resume(opt, state['iter'])
        checkpoint.find_weights(opt, state['iter'])
        state['epoch'] = 0  # the whole run is one virtual epoch
        opt['datasets']['train']['start_iter'] = state['iter']
        return state

    return load_resume_state


def _train_on_cpu_ranks() -> None:
    """Lets a launcher start ranks on machines without a GPU, over gloo.

    Why: BasicSR takes the rank modulo the number of GPUs, and its backend is NCCL. With a GPU its own code runs.
    """
    from basicsr.utils import dist_util

    def on_any_device(original: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(original)
        def init_dist(backend: str, **kwargs: Any) -> None:
            import torch

            if torch.cuda.is_available():
                return original(backend, **kwargs)
            from unittest.mock import patch

            with patch.multiple(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                original('gloo', **kwargs)

        return init_dist

    for name in ('_init_dist_pytorch', '_init_dist_slurm'):
        setattr(dist_util, name, on_any_device(getattr(dist_util, name)))


def _start_small_flows_from_zero() -> None:
    """Lets SPyNet, and so BasicVSR and IconVSR, take LQ frames of 32 pixels and below.

    Why: its start flow has half the size of the coarsest level, which is 0 where a side is below 64 after padding.
    That flow is zero everywhere, and so is its upsampling: starting the coarsest level from zeros gives the same bits
    where the host works, and works below. The host's code runs wherever it can.
    """
    import torch
    from basicsr.archs.arch_util import flow_warp
    from basicsr.archs.spynet_arch import SpyNet
    from torch.nn.functional import avg_pool2d, interpolate

    original = SpyNet.process
    halve = functools.partial(avg_pool2d, kernel_size=2, count_include_pad=False)

    @functools.wraps(original)
    def process(self: Any, ref: torch.Tensor, supp: torch.Tensor) -> torch.Tensor:
        if min(ref.shape[-2:]) >= 64:
            return original(self, ref, supp)
        levels = [(self.preprocess(ref), self.preprocess(supp))]  # coarsest first
        for _ in self.basic_module[1:]:
            ref, supp = levels[0]
            levels.insert(0, (halve(ref), halve(supp)))
        flow = torch.zeros_like(levels[0][0][:, :2])
        for number, (ref, supp) in enumerate(levels):
            if number > 0:
                flow = interpolate(flow, scale_factor=2, mode='bilinear', align_corners=True) * 2.0
            warped = flow_warp(supp, flow.permute(0, 2, 3, 1), interp_mode='bilinear', padding_mode='border')
            flow = self.basic_module[number](torch.cat([ref, warped, flow], 1)) + flow
        return flow

    SpyNet.process = process


def _align_without_cuda() -> None:
    """Builds BasicVSR++ with its alignment on a machine without a GPU too.

    Why: BasicSR leaves the alignment out there, with a warning, and trains another network. Its deformable convolution
    is torchvision's, which runs on a CPU. Goes: with a GPU nothing is changed.
    """
    import torch
    from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus

    original = BasicVSRPlusPlus.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from unittest.mock import patch

        with patch.object(torch.cuda, 'is_available', lambda: True):  # all that it asks of CUDA
            original(self, *args, **kwargs)

    BasicVSRPlusPlus.__init__ = __init__


def _take_small_frames() -> None:
    """Lets BasicVSR++ take frames of less than 64 pixels.

    Why: it asserts 64 for SPyNet's sake, which takes less through the patch above; nothing else in it needs a size.
    From 64 pixels on the host's own code runs; below, the same code without the assertion.
    """
    import ast
    import inspect
    import textwrap

    import torch
    from basicsr.archs import basicvsrpp_arch

    original = basicvsrpp_arch.BasicVSRPlusPlus.forward
    tree = ast.parse(textwrap.dedent(inspect.getsource(original)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = [statement for statement in function.body if not isinstance(statement, ast.Assert)]
    ast.increment_lineno(tree, original.__code__.co_firstlineno - 1)  # so that a traceback shows the right lines
    defined: dict[str, Any] = {}
    exec(compile(tree, original.__code__.co_filename, 'exec'), vars(basicvsrpp_arch), defined)

    @functools.wraps(original)
    def forward(self: Any, lqs: torch.Tensor) -> torch.Tensor:
        least = 64 if self.is_low_res_input else 256
        return (original if min(lqs.shape[-2:]) >= least else defined['forward'])(self, lqs)

    forward.without_assertion = defined['forward']  # type: ignore[attr-defined]
    basicvsrpp_arch.BasicVSRPlusPlus.forward = forward
