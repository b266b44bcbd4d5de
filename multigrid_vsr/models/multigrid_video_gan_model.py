"""BasicSR's recurrent GAN model, fed with batches whose shape follows the schedule."""

from __future__ import annotations

from typing import Any

import torch
from basicsr.models.video_recurrent_gan_model import VideoRecurrentGANModel
from basicsr.utils.registry import MODEL_REGISTRY

from multigrid_vsr.models.multigrid_video_model import MultigridVideoModel


@MODEL_REGISTRY.register()
class MultigridVideoGANModel(MultigridVideoModel, VideoRecurrentGANModel):
    """Trains a recurrent arch against a discriminator at the shape of each iteration.

    The losses and the order of the two updates are BasicSR's own code; schedule, validation, checkpoints and stopping
    are those of :class:`MultigridVideoModel`.

    Args:
        opt (dict): Config of the run, as for ``VideoRecurrentGANModel``.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.fix_flow_iter = None  # held fixed by iteration: BasicSR does so at iteration 1 only

    def setup_optimizers(self) -> None:
        """Sets up both optimizers; beside ``fix_flow``, the rate of the flow network is ``lr_flow``."""
        self.opt['train'].setdefault('fix_flow', None)  # BasicSR asks for the key
        VideoRecurrentGANModel.setup_optimizers(self)

    def update(self, current_iter: int) -> None:
        """BasicSR's two steps on ``self.lq`` and ``self.gt``, and the average of the generator's weights."""
        VideoRecurrentGANModel.optimize_parameters(self, current_iter)

    def backward(self, lq: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adds the gradient of the generator's losses: what memory has to hold at a time. Updates do not call it."""
        self.output = self.net_g(lq)
        losses = self._part_losses(self.output, gt)
        losses['l_g_gan'] = self.cri_gan(self.net_d(self.output.flatten(0, 1)), True, is_disc=False)
        torch.stack(list(losses.values())).sum().backward()
        return losses

    def read_losses(self) -> dict[str, float]:
        """The losses of the last iteration, as BasicSR has reduced them."""
        return self.log_dict
