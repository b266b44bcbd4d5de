"""What an option file asks for happens, or one line says that it does not, before anything is written."""

from __future__ import annotations

import ast
from pathlib import Path

import basicsr
import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from probe import NETWORK, ShapeProbe, refused, refused_by_plan_too, train_here
from runs import options, write

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import InputError
from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel
from multigrid_vsr.options.archs import STOCK_TEST_SETS
from multigrid_vsr.options.checked import unread

OWN = 'docs/your_own_parts.md'
LOSS = {'type': 'L1Loss'}
VAL = {'name': 'v', 'type': 'MultigridVideoTestDataset', 'dataroot_gt': 'gt', 'crop': 3}
UNREAD = [
    ({'train__use_grad_clip': True}, 'Here it is train.grad_clip_norm.'),
    ({'train__clip_grad': 0.1}, 'Here it is train.grad_clip_norm.'),
    ({'train__use_amp': False}, 'Here it is train.amp.'),
    ({'use_amp': True}, 'Here it is train.amp.'),
    ({'amp': 'bf16'}, 'Here it is train.amp.'),
    ({'fast_matmul': True}, OWN),
    ({'train__accum_iter': 4}, 'Here it is multigrid.micro_batch_size_per_gpu.'),
    ({'train__ema': 0.999}, 'Here it is train.ema_decay.'),
    ({'train__fft_opt': LOSS}, 'A loss more is a model of your own with MultigridMixin'),
    ({'train__pixel_opt2': LOSS}, 'A loss more is a model of your own with MultigridMixin'),
    ({'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla'}}, 'Set model_type: MultigridVideoGANModel'),
    ({'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3}}, 'Set model_type: MultigridVideoGANModel'),
    ({'train__seed': 3}, 'Here it is manual_seed.'),
    ({'train__manual_seed': 3}, 'Here it is manual_seed.'),
    ({'train__lr': 1e-4}, 'Here it is train.optim_g.lr.'),
    ({'logger__val_freq': 100}, 'Here it is val.val_freq.'),
    ({'logger__keep_checkpoint': 3}, 'Did you mean `keep_checkpoints`?'),
    ({'logger__wandb__entity': 'us'}, OWN),
    ({'val': {'val_freq': 4, 'save_img': False, 'crop_border': 4}}, OWN),
    ({'datasets__val': VAL}, 'Remove it.'),
    ({'dist_params': {'backend': 'nccl', 'timeout': 3}}, OWN),
    ({'compile': True}, 'Here it is train.compile.'),
    ({'path__pretrain_model_g': 'w.pth'}, 'Here it is path.pretrain_network_g.'),
    ({'path__models': 'models'}, OWN),
    ({'train__scheduler_g': {'type': 'MultiStepLR'}}, 'Here it is train.scheduler.'),
]


VGG = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}
BEFORE = [
    ({'manual_seed': 20261130123456}, 'manual_seed: must be a whole number from 0 to 4294967295, got 20261130123456.'),
    ({'name': 'my_debug', 'val': {}}, 'val: must be left out, or a block, in a run with debug in its name, got nothing.'),
    ({'train__pixel_opt': {'type': 'GANLoss', 'gan_type': 'lsgan'}}, 'train.pixel_opt.type: must be a loss of two images, got GANLoss'),
    ({'train__pixel_opt': {'type': 'WeightedTVLoss'}}, 'train.pixel_opt.type: must be a loss of two images, got WeightedTVLoss'),
    ({'train__pixel_opt': VGG}, 'train.pixel_opt.type: must be another loss, got PerceptualLoss. That one is train.perceptual_opt.'),
    ({'train__perceptual_opt': LOSS}, 'train.perceptual_opt.type: must be a loss of features, got L1Loss'),
]  # fmt: skip
NOTHING_READS = r'(\.\w+)?: must be an option that something reads, got .*'
REFUSED = [(changes, next(iter(changes)).replace('__', '.') + NOTHING_READS + fix) for changes, fix in UNREAD] + BEFORE


@pytest.mark.parametrize(('changes', 'line'), REFUSED, ids=[next(iter(changes)) for changes, _ in REFUSED])
def test_option_that_nothing_reads_or_that_fails_late_is_refused_by_train_and_plan(changes, line, tmp_path, clips):
    opt = options(clips, network_g=NETWORK, **changes)
    if opt.get('val') == {}:
        opt['val'] = None
    refused_by_plan_too(tmp_path, opt, line)


def test_model_of_the_users_own_may_have_options_of_its_own(tmp_path, clips):
    from basicsr.utils.registry import MODEL_REGISTRY

    if 'ModelWithOptions' not in MODEL_REGISTRY:

        @MODEL_REGISTRY.register()
        class ModelWithOptions(MultigridVideoModel):
            pass

    opt = options(clips, network_g=NETWORK, model_type='ModelWithOptions', train__fft_opt=LOSS, train__total_iter=6)
    opt['path']['pretrain_network_of_the_teacher'] = None
    assert len(train_here(tmp_path, opt)) == 6
    opt['path']['my_vgg'] = str(tmp_path / 'vgg.pth')
    with pytest.raises(InputError, match=r'path\.my_vgg: must be .* got .*BasicSR would make a folder of it\.'):
        train_here(tmp_path, opt)
    assert not (tmp_path / 'vgg.pth').exists()


_SETTINGS = {'is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path'}  # BasicSR writes these itself
_SETTINGS |= {f'path.{key}' for key in ('models', 'training_states', 'log', 'visualization')}
_FILES = ('train', 'test', 'utils/options', 'utils/misc', 'utils/logger', 'models/base_model', 'models/sr_model')
_FILES += ('models/edvr_model', 'models/video_base_model', 'models/video_recurrent_model')
_FILES += ('models/video_recurrent_gan_model',)
_BLOCKS = {'opt': '', 'self.opt': '', 'train_opt': 'train.', 'path_opt': 'path.', 'logger_opt': 'logger.'}


def read_by_basicsr(file: str, blocks: dict[str, str]) -> set[str]:
    """The dotted names of the options that a file of BasicSR reads."""

    def name_of(node: ast.expr) -> str | None:
        if isinstance(node, ast.Subscript):
            block, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ('get', 'pop'):
            block, key = node.func.value, node.args[0]
        else:
            return None
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            return None
        prefix = blocks.get(ast.unparse(block))
        if prefix is None:
            outer = name_of(block)
            prefix = None if outer is None else f'{outer}.'
        return None if prefix is None else f'{prefix}{key.value}'

    tree = ast.parse(Path(basicsr.__file__).with_name(file.split('/')[0]).parent.joinpath(f'{file}.py').read_text())
    names = {name_of(node) for node in ast.walk(tree) if isinstance(node, ast.expr)}
    return {name for name in names if name is not None}


def test_option_that_basicsr_reads_is_never_refused():
    names = set().union(*(read_by_basicsr(file, _BLOCKS) for file in _FILES)) - _SETTINGS
    assert {
        'train.optim_d',
        'val.flip_seq',
        'logger.wandb.resume_id',
        'path.param_key_d',
        'find_unused_parameters',
    } <= names
    assert len(names) > 40
    refused = []
    for name in sorted(names):
        *blocks, key = name.split('.')
        found = []
        for model in ('MultigridVideoModel', 'MultigridVideoGANModel'):
            opt: dict = {'model_type': model}
            block = opt
            for outer in blocks:
                block = block.setdefault(outer, {})
            block.setdefault(key, 2)
            found.append([entry for entry in unread(opt) if entry[0] == name])
        refused += [name] if all(found) else []
    assert refused == []


def test_option_that_basicsrs_test_sets_and_loaders_read_is_never_refused():
    names = read_by_basicsr('data/video_test_dataset', {'opt': '', 'self.opt': ''})
    names |= read_by_basicsr('data/__init__', {'dataset_opt': ''}) - {'batch_size_per_gpu', 'num_worker_per_gpu'}
    assert {'padding', 'use_duf_downsampling', 'pin_memory'} <= names
    for kind in STOCK_TEST_SETS:
        block = {**dict.fromkeys(name.split('.')[0] for name in names), 'type': kind}
        for key in ('phase', 'scale'):  # BasicSR writes these itself
            block.pop(key, None)
        assert list(unread({'model_type': 'MultigridVideoModel', 'datasets': {'val': block}})) == []


def shown(self, lq):
    return ShapeProbe.forward(self, lq)


PROBES = {
    'TupleProbe': lambda self, lq: (shown(self, lq), lq.mean()),
    'DictProbe': lambda self, lq: {'out': shown(self, lq)},
    'ListInTrainingProbe': lambda self, lq: [shown(self, lq)] * 2 if self.training else shown(self, lq),
    'MaskProbe': lambda self, lq, mask: shown(self, lq) * mask,
    # looks at a value, which a tensor without values has not
    'ValueProbe': lambda self, lq: (shown(self, lq),) if float(lq.mean()) < 2 else lq,
}
for _name, _forward in PROBES.items():
    if _name not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(type(_name, (ShapeProbe,), {'forward': _forward}))


@pytest.fixture
def quiet_probe(monkeypatch):
    """The probe without its notes, which ask for values."""

    def forward(self, lq):
        return torch.pixel_shuffle(self.conv(lq.flatten(0, 1)), 4).unflatten(0, lq.shape[:2])

    monkeypatch.setattr(ShapeProbe, 'forward', forward)


@pytest.mark.parametrize(
    ('arch', 'line'),
    [
        ('TupleProbe', r'give its frames as one tensor, got TupleProbe \(tuple\)'),
        ('DictProbe', r'give its frames as one tensor, got DictProbe \(dict\)'),
        ('ListInTrainingProbe', r'give its frames as one tensor, got ListInTrainingProbe \(list\)'),
        ('MaskProbe', r"take only the LQ frames, got MaskProbe \(missing a required argument: 'mask'\)"),
    ],
)
def test_arch_of_another_signature_is_refused_before_anything_is_written(arch, line, tmp_path, clips, quiet_probe):
    line = f'network_g.type: must {line}. .*{OWN}'
    refused_by_plan_too(tmp_path, options(clips, network_g={'type': arch}), line)


def test_arch_that_shows_its_signature_with_values_alone_is_refused_in_one_line(tmp_path, clips, quiet_probe):
    with pytest.raises(
        InputError, match=r'multigrid: must have shapes that ValueProbe takes.*output tuple in place of'
    ):
        train_here(tmp_path, options(clips, network_g={'type': 'ValueProbe'}))


def test_debug_on_the_command_line_is_debug_in_the_name(tmp_path, clips):
    opt = {**options(clips, network_g=NETWORK), 'val': None}
    refused(tmp_path, opt, 'val: must be left out, or a block', '--debug')


@pytest.mark.parametrize('ranks', [1, 2])
def test_seed_leaves_room_for_the_ranks(ranks, tmp_path, clips, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', str(ranks))
    opt = options(clips, network_g=NETWORK, manual_seed=2**32 - 1, train__total_iter=6)
    if ranks == 1:
        assert len(train_here(tmp_path, opt)) == 6
        return
    refused(tmp_path, opt, 'manual_seed: must be at most 4294967294 with 2 ranks, got 4294967295.')


def test_perceptual_loss_without_its_network_is_a_note_of_plan_and_refused_by_train(
    tmp_path, clips, monkeypatch, capsys
):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.chdir(tmp_path)

    def unreachable(*_, **__):
        raise OSError('Name or service not known')

    monkeypatch.setattr('torch.hub.download_url_to_file', unreachable)
    opt = options(clips, network_g=NETWORK, train__perceptual_opt=VGG)
    line = r'train.perceptual_opt.vgg_type: must have its weights in \S+/vgg19-dcbb9e9d.pth, got vgg19. Put'
    with pytest.raises(InputError, match=line):
        train_here(tmp_path, opt)
    assert not (tmp_path / 'experiments').exists()
    main(['plan', '-opt', str(write(tmp_path, opt))])
    assert 'Not for this machine. train.perceptual_opt.vgg_type: must have its weights in' in capsys.readouterr().out


def test_run_without_a_scale_is_of_scale_1(tmp_path, clips):
    if 'PlainProbe' not in ARCH_REGISTRY:

        @ARCH_REGISTRY.register()
        class PlainProbe(torch.nn.Conv2d):
            def __init__(self):
                super().__init__(3, 3, 1)

            def forward(self, lq):
                return super().forward(lq.flatten(0, 1)).unflatten(0, lq.shape[:2])

    opt = options(clips, network_g={'type': 'PlainProbe'}, scale=None, train__total_iter=6)
    opt['datasets']['train']['dataroot_lq'] = opt['datasets']['train']['dataroot_gt']
    train_here(tmp_path, opt)
    assert (tmp_path / 'experiments/run/models/net_g_latest.pth').is_file()


EDVR = {
    'model_type': 'EDVRModel', 'datasets__train__type': 'REDSDataset', 'datasets__train__num_frame': 5,
    'datasets__train__gt_size': 256, 'network_g': {'ema_decay': 0.999, 'type': 'EDVR', 'num_frame': 5},
    'train__scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [13], 'restart_weights': [1], 'eta_min': 1e-7},
}  # fmt: skip
GAN_KEYS = {
    'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 64}, 'train__net_d_iters': 1,
    'train__optim_d': {'type': 'Adam', 'lr': 1e-4}, 'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla'},
}  # fmt: skip
GAN = {
    'model_type': 'VideoRecurrentGANModel',
    'train__perceptual_opt': VGG,
    'train__lr_flow': 0.0,
    'train__fix_flow': None,
}


@pytest.mark.parametrize(
    ('changes', 'commented'),
    [
        ({}, []),
        (EDVR, ['network_g.ema_decay']),
        ({**EDVR, **GAN_KEYS}, ['network_d', 'train.optim_d', 'train.gan_opt', 'train.net_d_iters', 'network_g.ema_decay']),
        ({**GAN_KEYS, **GAN}, []),
    ],
    ids=['recurrent', 'EDVR', 'EDVR with keys of a GAN', 'GAN'],
)  # fmt: skip
def test_file_as_basicsr_has_them_converts_and_plans_without_its_gpus_and_data(
    changes, commented, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    monkeypatch.chdir(tmp_path)
    values = {'model_type': 'VideoRecurrentModel', 'datasets__train__type': 'REDSRecurrentDataset', 'num_gpu': 8}
    values |= {'multigrid': None, 'datasets__train__num_frame': 15, 'datasets__train__gt_size': 256}
    values['train__scheduler'] = {'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.5}
    stock = options(Path('nowhere'), **{**values, **changes})
    (tmp_path / 'stock.yml').write_text(yaml.safe_dump(stock, sort_keys=False))
    main(['convert', '-opt', 'stock.yml', '-o', 'mg.yml'])
    printed = capsys.readouterr().out
    assert [
        line.split(':')[0] for line in printed.splitlines() if 'commented out, since nothing reads it' in line
    ] == commented
    main(['plan', '-opt', 'mg.yml'])
    printed = capsys.readouterr().out
    assert 'Not for this machine. num_gpu: must be at most the 0 GPUs of this machine, got 8.' in printed
    assert 'Data not checked. datasets.train.dataroot_gt: must be a folder that exists, got nowhere/gt.' in printed
    with pytest.raises(SystemExit, match=r'num_gpu: must be at most the 0 GPUs|must be a path that exists'):
        main(['train', '-opt', 'mg.yml'])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['mg.yml', 'stock.yml']
