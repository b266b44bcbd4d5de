"""What a user registers beside BasicSR's: datasets, degradations, models and archs of other projects."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from probe import ShapeProbe

from multigrid_vsr import DEGRADATION_REGISTRY, MultigridMixin, MultigridVideoModel, MultigridVimeo90KDataset


@DATASET_REGISTRY.register()
class BlurredDataset(torch.utils.data.Dataset):
    """Ground truth alone on the disk; LQ is blurred, shrunk and noisy, drawn anew for each sample."""

    def __init__(self, opt):
        self.opt = opt
        self.num_frame = opt['num_frame']
        self.files = sorted(Path(opt['videos'], opt.get('clip', '001')).iterdir())

    def __len__(self):
        return len(self.files) - self.opt['longest']

    def __getitem__(self, index):
        size, scale = self.opt['gt_size'], self.opt['scale']
        frames = [cv2.imread(str(path)) for path in self.files[index : index + self.num_frame]]
        top, left = (random.randint(0, side - size) for side in frames[0].shape[:2])
        gt = np.stack(frames)[:, top : top + size, left : left + size, ::-1].astype(np.float32) / 255
        sigma = np.random.uniform(0.2, 3)
        lq = [cv2.resize(cv2.GaussianBlur(f, (7, 7), sigma), None, fx=1 / scale, fy=1 / scale) for f in gt]
        lq = torch.from_numpy(np.stack(lq)).permute(0, 3, 1, 2)
        gt = torch.from_numpy(np.ascontiguousarray(gt)).permute(0, 3, 1, 2)
        return {'lq': (lq + 0.02 * torch.randn(lq.shape)).clamp(0, 1), 'gt': gt, 'sigma': sigma}


@DATASET_REGISTRY.register()
class FixedCropDataset(BlurredDataset):
    """Its crop does not follow."""

    def __init__(self, opt):
        super().__init__(opt)
        self.opt = {**opt}
        self._size = opt['gt_size']

    def __getitem__(self, index):
        self.opt['gt_size'] = self._size
        return super().__getitem__(index)


@DATASET_REGISTRY.register()
class OwnGeneratorDataset(BlurredDataset):
    """Draws from a generator that nobody seeds."""

    def __getitem__(self, index):
        self.rng = getattr(self, 'rng', None) or np.random.default_rng(0)
        sample = super().__getitem__(index)
        return {**sample, 'lq': sample['lq'] + self.rng.random()}


@DATASET_REGISTRY.register()
class FailingDataset(BlurredDataset):
    """Cannot read its second frame."""

    def __getitem__(self, index):
        if index == 1:
            raise OSError('no such\nframe')
        return super().__getitem__(index)


@DEGRADATION_REGISTRY.register()
def noisy_mean(gt, seeds, scale, strength=0.1):
    """Ignores the seeds, as what others wrote would: it draws from everywhere."""
    drawn = random.random() + np.random.rand() + torch.rand(gt[..., ::scale, ::scale].shape, device=gt.device)
    return torch.nn.functional.avg_pool3d(gt, (1, scale, scale)) + strength * drawn


@DEGRADATION_REGISTRY.register()
def too_large(gt, seeds, scale):
    return gt if gt.shape[1] == 3 else gt[..., ::scale, ::scale]


@DATASET_REGISTRY.register()
class GroundTruthDataset(BlurredDataset):
    """Leaves LQ frames to the model."""

    def __getitem__(self, index):
        return {'gt': super().__getitem__(index)['gt']}


def own_step(model, current_iter):
    """A step that knows nothing of this project: its own loss, its own log."""
    model.optimizer_g.zero_grad()
    model.output = model.net_g(model.lq)
    loss = (model.output - model.gt).abs().pow(1.5).mean()
    loss.backward()
    model.optimizer_g.step()
    model.log_dict = model.reduce_loss_dict({'l_own': loss})
    if model.ema_decay > 0:
        model.model_ema(decay=model.ema_decay)
    if current_iter == model.opt['train'].get('stop_at'):
        os.kill(os.getpid(), signal.SIGTERM)


@MODEL_REGISTRY.register()
class OwnStepModel(MultigridVideoModel):
    def optimize_parameters(self, current_iter):
        own_step(self, current_iter)


@MODEL_REGISTRY.register()
class AddedLogModel(MultigridVideoModel):
    def optimize_parameters(self, current_iter):
        super().optimize_parameters(current_iter)
        self.log_dict['l_added'] = float(current_iter)


@MODEL_REGISTRY.register()
class TheirModel(VideoBaseModel):
    """Of another project, with no thought of a schedule."""

    def optimize_parameters(self, current_iter):
        own_step(self, current_iter)


@MODEL_REGISTRY.register()
class MultigridTheirModel(MultigridMixin, TheirModel):
    """One line."""


@ARCH_REGISTRY.register()
class WindowedArch(ShapeProbe):
    """With a least size, as the descendants of BasicVSR++ assert one."""

    def forward(self, lq):
        assert lq.size(3) >= 24, f'at least 24, got {lq.size(3)}'
        return super().forward(lq)


@DATASET_REGISTRY.register()
class EverySecondDataset(MultigridVimeo90KDataset):
    """Ours, under another name and with other samples."""

    def cut(self, index, rng, lq, gt):
        return super().cut(index // 2 * 2, rng, lq, gt)
