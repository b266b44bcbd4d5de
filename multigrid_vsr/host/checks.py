"""The checks of a run that need BasicSR, torch or this machine, for ``plan`` and ``train``.

They build what can be built. Every check raises an ``InputError`` of one line before anything is written.
"""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torchvision
from basicsr.archs import vgg_arch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.models.video_recurrent_gan_model import VideoRecurrentGANModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from multigrid_vsr.core.errors import InputError, OptionError, one_line
from multigrid_vsr.core.schedule import Schedule
from multigrid_vsr.data.check import check_test_set
from multigrid_vsr.host.patch import try_to_register
from multigrid_vsr.models import checkpoints
from multigrid_vsr.models.acceleration import has_bf16, has_deformable, matching
from multigrid_vsr.models.checkpoints import check_own, check_pretrained
from multigrid_vsr.models.degradation import DEGRADATION_REGISTRY, build_degradation, degrade, name_and_arguments
from multigrid_vsr.models.multigrid_video_model import (
    OWN_STEP,
    MultigridMixin,
    MultigridVideoGANModel,
    MultigridVideoModel,
    check_frozen_names,
    not_one_tensor,
)
from multigrid_vsr.models.optimizers import known_names, optimizer_class
from multigrid_vsr.models.wrapping import of_all_ranks
from multigrid_vsr.options.archs import MODEL_TYPES, is_gan, wrong_model
from multigrid_vsr.options.checked import lookup
from multigrid_vsr.options.kinds import BLOCK, choice, did_you_mean, is_number, whole
from multigrid_vsr.options.multigrid_block import asked_for
from multigrid_vsr.options.run_options import check_host_options, check_test_options, missing_paths, test_sets
from multigrid_vsr.options.table import SCHEDULER_TYPE

_SCHEDULERS = ('MultiStepLR', 'MultiStepRestartLR', 'CosineAnnealingRestartLR', SCHEDULER_TYPE)
_PIECES = ('val.max_frames', 'val.tile')
_OF_OUR_STEP = (
    *('train.amp', 'train.compile', 'train.cuda_graph', 'train.channels_last', 'train.fix_modules'),
    *('multigrid.micro_batch_size_per_gpu', *_PIECES),
)
_OWN = ' One of your own has to be imported first: see docs/your_own_parts.md.'


def check_run(opt: dict[str, Any], schedule: Schedule, may_miss: bool = False) -> list[OptionError]:
    """Tries what a run will look up, build and read, except its training set.

    Returns:
        With ``may_miss`` a line for each path that is not on this machine; what needs that path is not checked.
    """
    missing = missing_paths(opt)
    if missing and not may_miss:
        raise missing[0]
    check_host_options(opt)
    _check_names_and_arguments(opt, schedule)
    absent = {error.option for error in missing}
    for label in 'gd' if is_gan(opt) else 'g':
        block = f'network_{label}'
        network = build_on_meta(
            block, {key: None if f'{block}.{key}' in absent else value for key, value in opt[block].items()}
        )
        if label == 'g':
            _check_on_device(opt, network)
            check_frozen_names(opt['train'].get('fix_modules') or (), network)
            if opt['model_type'] in MODEL_TYPES and not type(network).__module__.startswith('basicsr.archs.'):
                _check_forward(opt, network)
            matching(network, opt['train'].get('checkpoint_modules') or ())
        if f'path.pretrain_{block}' not in absent:
            check_pretrained(opt, label, network)
    _check_test_sets(opt, absent)
    return missing


def check_test(opt: dict[str, Any]) -> None:
    """Tries what a test will look up, build and read."""
    check_test_options(opt)
    missing = missing_paths(opt)
    if missing:
        raise missing[0]
    model = _registered('model_type', opt['model_type'], MODEL_REGISTRY, _OWN)
    if not issubclass(model, MultigridVideoModel):
        _refuse_ours(opt, model, _PIECES)
    _check_test_names(opt)
    check_pretrained(opt, 'g', build_on_meta('network_g', opt['network_g']))
    _check_test_sets(opt)


def check_state(
    opt: dict[str, Any], schedule: Schedule | None, world_size: int, models: str, seed: int | None
) -> tuple[dict[str, Any], dict[str, str], dict[str, str | None]]:
    """Reads ``path.resume_state`` and compares it with the run.

    Args:
        opt: The options, settled.
        schedule: Shapes of the run.
        world_size: GPUs that share a batch.
        models: The run's folder of weights.
        seed: ``manual_seed`` of the option file.

    Returns:
        The state, and for each network the file of its weights and their key in that file.
    """
    state = checkpoints.load_state(opt['path']['resume_state'])
    if schedule is not None:
        rows = checkpoints.schedule_rows(schedule, world_size)
        checkpoints.check_same_run(state, rows, seed, bool(opt['path'].get('resume_changed_schedule')))
    if opt['model_type'] in MODEL_TYPES:
        checkpoints.check_optimizers(len(state['optimizers']), 2 if is_gan(opt) else 1, opt['path']['resume_state'])
    weights = checkpoints.find_weights(opt, state['iter'], models)
    keys = {block: check_own(opt, block[-1], path, build_on_meta(block, opt[block])) for block, path in weights.items()}
    return state, weights, keys


def counted(opt: dict[str, Any]) -> dict[str, Any]:
    """The options, in which ``num_gpu: auto`` is replaced by the number of GPUs of this machine."""
    return {**opt, 'num_gpu': torch.cuda.device_count()} if opt.get('num_gpu') == 'auto' else opt


def check_num_gpu(opt: dict[str, Any], has_launcher: bool = False) -> None:
    """Compares ``num_gpu`` with this machine. With a launcher each process takes one GPU: any number is fine."""
    num_gpu, found = opt['num_gpu'], torch.cuda.device_count()
    if num_gpu != 'auto' and num_gpu > found and not (has_launcher and found):
        raise OptionError('num_gpu', f'be at most the {found} GPUs of this machine', num_gpu, 'Set num_gpu: auto.')


def check_machine(opt: dict[str, Any], has_launcher: bool) -> list[str]:
    """Checks that this machine and its launcher have what a training run needs.

    Returns:
        A line if one process trains on several GPUs, by torch's ``DataParallel``.
    """
    check_num_gpu(opt, has_launcher)
    ranks = int(os.environ.get('WORLD_SIZE') or os.environ.get('SLURM_NTASKS') or 1)
    seed = opt.get('manual_seed') or 0
    if seed + ranks > 2**32:  # BasicSR adds the rank, and NumPy takes 32 bits
        raise OptionError('manual_seed', f'be at most {2**32 - ranks} with {ranks} ranks', seed, 'Lower it.')
    missing = missing_vgg(opt)
    if missing is not None:
        try:
            vgg_type = opt['train']['perceptual_opt'].get('vgg_type', 'vgg19')
            getattr(torchvision.models, vgg_type)(weights='IMAGENET1K_V1')
        except (OSError, RuntimeError):  # no network, a full disk, or a file with a wrong hash
            raise missing from None
    gpus, train_opt = opt['num_gpu'], opt['train']
    if has_launcher or gpus < 2:
        return []
    start = f'torchrun --nproc_per_node={gpus} ... --launcher pytorch'
    for key in ('compile', 'cuda_graph', 'amp'):  # DataParallel's copies would use GPU 0's weights
        if train_opt.get(key) not in (None, False, 'fp16', 'auto'):  # and fp16 in place of bf16, without a scaler
            rule = f'be left out where one process has {gpus} GPUs'
            raise OptionError(f'train.{key}', rule, train_opt[key], f'Start a process for each: {start}.')
    return [f'num_gpu: {gpus} GPUs in one process, several times slower than a process for each: {start}']


def check_bf16(opt: dict[str, Any]) -> None:
    """Refuses bf16 if a GPU of the run only emulates it. Every rank has to call it."""
    if opt['train'].get('amp') != 'bf16' or opt['num_gpu'] == 0 or not torch.cuda.is_available():
        return
    lacking = None if has_bf16(torch.device('cuda')) else torch.cuda.get_device_name()
    names = [name for name in of_all_ranks(lacking) if name is not None]
    if names:
        rule = f'be fp16 or left out on {names[0]}, which has no bf16'
        raise OptionError('train.amp', rule, 'bf16', 'Or set auto, which takes what the GPU has.')


def missing_vgg(opt: Mapping[str, Any]) -> OptionError | None:
    """The line for a perceptual loss whose VGG weights are not on this machine, so that BasicSR would fetch them."""
    loss_opt = opt['train'].get('perceptual_opt') or {}
    if loss_opt.get('type') != 'PerceptualLoss':
        return None
    vgg_type = loss_opt.get('vgg_type', 'vgg19')
    name = os.path.basename(torchvision.models.get_model_weights(vgg_type).IMAGENET1K_V1.url)
    kept = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
    if os.path.exists(vgg_arch.VGG_PRETRAIN_PATH) or os.path.exists(kept):
        return None
    fix = f'Put {name} there, or start where it can be fetched.'
    return OptionError('train.perceptual_opt.vgg_type', f'have its weights in {kept}', vgg_type, fix)


def build_on_meta(option: str, network_opt: Mapping[str, Any]) -> torch.nn.Module:
    """Builds a network without memory for its weights. Weights that it loads itself are compared with it."""
    arch = _registered(f'{option}.type', network_opt.get('type'), ARCH_REGISTRY, _OWN)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.device('meta'):
        warnings.simplefilter('ignore')
        return _built(option, arch, _arguments(network_opt), rule=f'hold what {arch.__name__} can be built with')


def _check_names_and_arguments(opt: Mapping[str, Any], schedule: Schedule) -> None:
    """Tries everything that BasicSR will build from options, except networks and data."""
    train_opt = opt['train']
    model = _check_model(opt)
    _registered('datasets.train.type', opt['datasets']['train']['type'], DATASET_REGISTRY, _OWN)
    of_gan = is_gan(opt)
    for key in ('optim_g', 'optim_d')[: 1 + of_gan]:
        if train_opt.get(key):  # another check says whether it is needed
            _check_optimizer(f'train.{key}', train_opt[key], model)
    _check_scheduler(train_opt['scheduler'])
    for key in ('pixel_opt', 'perceptual_opt', 'gan_opt')[: 2 + of_gan]:
        if train_opt.get(key):
            _check_loss(f'train.{key}', train_opt[key])
    if train_opt.get('degradation') is not None:
        _check_degradation(train_opt['degradation'], schedule, opt.get('scale', 1))
    _check_test_names(opt)
    for option, package in (('use_tb_logger', 'tensorboard'), ('wandb.project', 'wandb')):
        if lookup(opt, f'logger.{option}') and find_spec(package) is None:
            rule, fix = f'be left out without {package}', f'Or run: pip install {package}'
            raise OptionError(f'logger.{option}', rule, True, fix)


def _check_model(opt: Mapping[str, Any]) -> type[BaseModel]:
    """The class of the model; one of the user's own follows the schedule if it is derived from ours."""
    model = _registered('model_type', opt['model_type'], MODEL_REGISTRY, _OWN)
    if not issubclass(model, MultigridMixin):
        raise wrong_model(opt['model_type'])
    losses_of = (SRModel, VideoRecurrentGANModel)  # any other model sets up losses of its own
    needs_loss = model.init_training_settings in [kind.init_training_settings for kind in losses_of]
    if needs_loss and not opt['train'].get('pixel_opt') and not opt['train'].get('perceptual_opt'):
        raise OptionError('train.pixel_opt', 'be given, or train.perceptual_opt', None, 'A run needs a loss.')
    if not issubclass(model, MultigridVideoModel):
        _refuse_ours(opt, model, _OF_OUR_STEP)
    elif issubclass(model, MultigridVideoGANModel) and opt['train'].get('amp'):
        raise OptionError('train.amp', 'be left out of a GAN run', opt['train']['amp'], 'It trains in float32.')
    return model


def _refuse_ours(opt: Mapping[str, Any], model: type, options: Iterable[str]) -> None:
    """Refuses options that a model with its own step ignores."""
    for option in options:
        if lookup(opt, option):
            rule = f'be left out for {model.__name__}, which has a step and a validation of its own'
            raise OptionError(option, rule, lookup(opt, option), 'Remove it.')


def _check_on_device(opt: dict[str, Any], network: torch.nn.Module) -> None:
    """Refuses options that need a GPU in a run on a CPU."""
    if opt['num_gpu'] != 0:
        return
    if opt['datasets']['train'].get('prefetch_mode') == 'cuda':
        raise OptionError('datasets.train.prefetch_mode', 'be cpu or left out on a CPU', 'cuda', 'Change it.')
    amp = opt['train'].get('amp')
    if amp not in (None, 'auto') and has_deformable(network):
        arch = opt['network_g']['type']
        rule = f'be left out on a CPU for {arch}, whose deformable convolutions are in float32 only there'
        raise OptionError('train.amp', rule, amp, 'Leave it out, or train on a GPU.')


def _check_forward(opt: Mapping[str, Any], network: torch.nn.Module) -> None:
    """Refuses an arch of the user's own that takes more than the frames, or does not return one tensor."""
    arch = opt['network_g']['type']
    try:
        inspect.signature(network.forward).bind(None)
    except TypeError as error:
        raise OptionError('network_g.type', 'take only the LQ frames', f'{arch} ({error})', OWN_STEP) from None
    dataset_opt = opt['datasets']['train']
    size = dataset_opt['gt_size'] // opt.get('scale', 1)
    try:
        with torch.no_grad():
            output = network(torch.zeros(1, dataset_opt['num_frame'], 3, size, size, device='meta'))
    except Exception:  # an operation that needs values; the trial of shapes before iteration 1 has them
        return
    if not isinstance(output, torch.Tensor):
        raise not_one_tensor(arch, output)


def _check_optimizer(option: str, optim_opt: Mapping[str, Any], model: type[BaseModel]) -> None:
    name = optim_opt['type']
    try:
        optimizer = optimizer_class(name)
    except LookupError as error:
        if any('get_optimizer' in vars(kind) for kind in model.__mro__ if kind not in (MultigridMixin, BaseModel)):
            return  # this model knows other optimizers
        if not str(error):
            _check_known(f'{option}.type', name, known_names())
        rule = 'be an optimizer of torch, a registered one or module.Class of an installed library'
        raise OptionError(f'{option}.type', rule, f'{name} ({error})', 'Install the library, or correct it.') from None
    groups = [{'params': [torch.nn.Parameter(torch.zeros(shape))]} for shape in ((1,), (1, 1, 3, 3))]
    _built(option, optimizer, _arguments(optim_opt), groups, given=('params',), rule=f'hold arguments of {name}')
    closure = inspect.signature(optimizer.step).parameters.get('closure')
    if closure is not None and closure.default is closure.empty:
        rule = 'be an optimizer whose step needs no closure'
        raise OptionError(f'{option}.type', rule, name, 'A step has one gradient.')


def _check_scheduler(scheduler_opt: Mapping[str, Any]) -> None:
    name = scheduler_opt.get('type')
    if name == SCHEDULER_TYPE:
        return
    _check_known('train.scheduler.type', name, _SCHEDULERS)
    arguments = {key: copy.deepcopy(value) for key, value in scheduler_opt.items() if key != 'batch_scaling'}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    model = SimpleNamespace(opt={'train': {'scheduler': arguments}}, optimizers=[optimizer], schedulers=[])
    with _as_one_line('train.scheduler', f'hold arguments of {name}', dict(scheduler_opt)):
        BaseModel.setup_schedulers(model)


def _check_loss(option: str, loss_opt: Mapping[str, Any]) -> None:
    """Builds a loss and calls it as BasicSR's models do, which tells a GAN loss from a loss of two images."""
    loss, arguments = _registered(f'{option}.type', loss_opt.get('type'), LOSS_REGISTRY), _arguments(loss_opt)
    if loss.__name__ == 'PerceptualLoss' and option != 'train.perceptual_opt':
        raise OptionError(f'{option}.type', 'be another loss', loss.__name__, 'That one is train.perceptual_opt.')
    with mock.patch.multiple(vgg_arch, vgg=_Untrained(), VGG_PRETRAIN_PATH=''), torch.random.fork_rng(devices=[]):
        built = _built(option, loss, arguments)
    for key, value in arguments.items():
        if isinstance(inspect.signature(loss).parameters[key].default, float) and not is_number(value):
            raise OptionError(f'{option}.{key}', 'be a number', value, 'Correct the value.')
    if not loss.__module__.startswith('basicsr.') or loss.__name__ == 'PerceptualLoss':
        return
    image = torch.zeros(1, 3, 8, 8)
    try:
        if option == 'train.gan_opt':
            built(image, True, is_disc=False)
        elif option == 'train.perceptual_opt' or list(inspect.signature(built.forward).parameters)[1] == 'weight':
            raise TypeError
        else:
            built(image, image)
    except Exception:  # whatever the loss raises
        uses = {'train.pixel_opt': 'two images', 'train.gan_opt': "a discriminator's verdicts"}
        rule = f'be a loss of {uses.get(option, "features")}'
        raise OptionError(f'{option}.type', rule, loss.__name__, 'Choose another.') from None


class _Untrained:
    """Torchvision's VGGs on the meta device, without the weights that BasicSR would fetch."""

    def __getattr__(self, name: str) -> Callable[..., torch.nn.Module]:
        def build(pretrained: bool) -> torch.nn.Module:
            with torch.device('meta'):
                return getattr(torchvision.models, name)()

        return build


def _check_degradation(degradation_opt: Any, schedule: Schedule, scale: int) -> None:
    option = 'train.degradation'
    name, arguments = name_and_arguments(degradation_opt)
    degradation = _registered(option, name, DEGRADATION_REGISTRY, _OWN, 'DEGRADATION_REGISTRY')
    _check_signature(option, degradation, arguments, () if inspect.isclass(degradation) else ('gt', 'seeds', 'scale'))
    with _as_one_line(option, f'hold arguments of {degradation.__name__}', arguments):
        built = build_degradation(degradation_opt, 'cpu')
    shape = min((segment.shape for segment in schedule.segments), key=lambda shape: shape.gt_size)
    gt = torch.zeros(1, shape.num_frame, 3, shape.gt_size, shape.gt_size)
    with _as_one_line(option, f'take frames of {shape.gt_size} pixels, the smallest gt_size', name):
        degrade(built, gt, [0], scale)


def _check_test_names(opt: Mapping[str, Any]) -> None:
    """Looks up the test sets and metrics of a training run or a test."""
    for name in test_sets(opt):
        _registered(f'{name}.type', lookup(opt, name)['type'], DATASET_REGISTRY, _OWN)
    for name, metric_opt in (lookup(opt, 'val.metrics') or {}).items():
        option = f'val.metrics.{name}'
        BLOCK.check(option, metric_opt)
        metric = _registered(f'{option}.type', metric_opt.get('type'), METRIC_REGISTRY)
        arguments = {key: value for key, value in metric_opt.items() if key not in ('type', 'better')}
        _check_signature(option, metric, arguments, given=('img', 'img2'))
        choice('higher', 'lower').check(f'{option}.better', metric_opt.get('better', 'higher'))
        whole(0).check(f'{option}.crop_border', metric_opt.get('crop_border', 0))


def _check_test_sets(opt: Mapping[str, Any], absent: Iterable[str] = ()) -> None:
    for name in test_sets(opt):
        if not any(option.startswith(f'{name}.') for option in absent):
            check_test_set(name, opt)


def _registered(option: str, name: Any, registry: Any, more: str = '', where: str = 'BasicSR') -> Any:
    """The entry of a registry under a name, or under the name with BasicSR's suffix."""
    try_to_register()
    for known in (name, f'{name}_basicsr'):
        if known in registry:
            return registry.get(known)
    fix = did_you_mean(str(name), registry.keys(), 'Correct the name.')
    raise OptionError(option, f'be registered in {where}', name, f'{fix}{more}')


def _check_known(option: str, name: object, known: Iterable[str]) -> None:
    names = list(known)
    choice(*names, words=f'one of {", ".join(names)}', fix='Correct the name.', suggests_near_miss=True).check(
        option, name
    )


def _arguments(block: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a block of options: a copy, because a constructor may change it."""
    return {key: copy.deepcopy(value) for key, value in block.items() if key != 'type'}


def _built(
    option: str, called: Any, arguments: dict[str, Any], *first: Any, given: Iterable[str] = (), rule: str = ''
) -> Any:
    """Calls a class or a function with arguments, after positional ones, whose names are ``given``."""
    _check_signature(option, called, arguments, given)
    with _as_one_line(option, rule or f'hold arguments of {called.__name__}', arguments):
        return called(*first, **arguments)


def _check_signature(
    option: str, called: Callable[..., Any], arguments: Mapping[str, Any], given: Iterable[str] = ()
) -> None:
    """Refuses arguments that a class or a function does not take, and a lack of those that it needs.

    If it takes any keyword, only a near miss of one of its names is refused.
    """
    parameters = dict(inspect.signature(called).parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    own = [name for name in named if name not in given]
    for key in arguments:
        if key not in own:
            near = did_you_mean(str(key), [name for name in own if name not in arguments])
            if not takes_any or near != 'Remove it.':
                rule = f'be one of {", ".join(own)}' if own else f'be left out for {called.__name__}'
                raise OptionError(f'{option}.{key}', rule, key, near)
    for name in own:
        if named[name].default is inspect.Parameter.empty and name not in arguments:
            raise OptionError(f'{option}.{name}', 'be given', None, f'{called.__name__} needs it.')


@contextmanager
def _as_one_line(option: str, rule: str, value: object) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever a constructor raises
        words = one_line(f'{type(error).__name__}: {error}', 300)
        raise OptionError(option, rule, f'{value} ({words})', 'Correct the values.') from error


def run_test(root: str, opt: dict[str, Any]) -> dict[str, Any]:
    """Runs ``basicsr/test.py`` with the command line of this process, whose options are ``opt``.

    Returns:
        The :func:`~multigrid_vsr.models.validation.figures` of each test set, complete only on rank 0.
    """
    from basicsr import test as script

    from multigrid_vsr.models.validation import figures

    if asked_for(opt) is None:  # else `parse_options` does
        check_test(opt)
    found: dict[str, Any] = {}
    build_model = script.build_model

    def building(model_opt: dict[str, Any]) -> Any:
        model = build_model(model_opt)
        validation = model.validation

        def measuring(loader: Any, *args: Any, **kwargs: Any) -> None:
            validation(loader, *args, **kwargs)
            found[loader.dataset.opt['name']] = figures(model)

        model.validation = measuring
        return model

    with mock.patch.object(script, 'build_model', building):
        script.test_pipeline(root)
    return found
