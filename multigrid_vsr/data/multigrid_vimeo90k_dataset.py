"""Training clips in the layout of Vimeo90K, cut to the shape that the sampler asks for."""

from __future__ import annotations

import random
from types import ModuleType

from basicsr.utils.registry import DATASET_REGISTRY

from multigrid_vsr.data.multigrid_reds_dataset import MultigridREDSDataset
from multigrid_vsr.frames.clip import Clip


@DATASET_REGISTRY.register()
class MultigridVimeo90KDataset(MultigridREDSDataset):
    """Vimeo90K septuplets, whose crop and frame count come with each request.

    A key is a septuplet, ``00001/0001`` with frames ``im1`` to ``im7``, as in BasicSR's ``Vimeo90KRecurrentDataset``;
    fewer frames begin at a random one. With ``flip_sequence`` a sample of t frames is t / 2 of the clip, then the same
    backwards, so 14 is the full one. Int and list indices give what :class:`MultigridDataset` says.

    Args:
        opt (dict): Config for the training dataset, as for :class:`MultigridREDSDataset`, and ``flip_sequence``.
    """

    layout = 'MultigridVimeo90KDataset'

    def __len__(self) -> int:
        return len(self.clips)

    def _draw_frames(
        self, index: int, num_frame: int, rng: random.Random | ModuleType
    ) -> tuple[Clip, list[int], list[int], str]:
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside [0, {len(self)})')
        clip = self.clips[index]
        length = num_frame // 2 if self.opt.get('flip_sequence') else num_frame
        reverse = self.augmentation.random_reverse and rng.random() < 0.5
        if self.centers:
            start = (clip.num_frame - length) // 2
        else:
            start = rng.randint(0, clip.num_frame - length) if length < clip.num_frame else 0
        frames = list(range(start, start + length))
        if reverse:
            frames.reverse()
        if self.opt.get('flip_sequence'):
            frames += frames[::-1]
        return clip, frames, [clip.num_frame // 2] if self.centers else frames, clip.name
