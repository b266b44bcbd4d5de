"""``val.tb_images``: frames of a validation in TensorBoard, as they went in, came out, and should be."""

from __future__ import annotations

from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.utils import tensor2img

from multigrid_vsr.models.test_items import TestItem


class ShownPictures:
    """Gives TensorBoard the frame in the middle of the first clips: LQ, result and ground truth side by side.

    Each rank validates clips of its own, and the first has TensorBoard: it shows the first of its own.

    Args:
        count: Clips to show.
        tb_logger: TensorBoard logger, or ``None`` for nothing.
        name: Name of the test set.
        current_iter: Iteration.
    """

    def __init__(self, count: int, tb_logger: Any, name: str, current_iter: int | str) -> None:
        self._left = count if tb_logger is not None else 0
        self._tb_logger = tb_logger
        self._name = name
        self._iter = current_iter
        self._shown: set[str] = set()

    def add(self, item: TestItem, frame: int, num_frame: int, result: np.ndarray, gt: np.ndarray) -> None:
        """Shows a frame if it is the one to show.

        Args:
            item: The clip, or the window around the frame.
            frame: Place of the frame in its clip.
            num_frame: Frames of the clip.
            result, gt: The frame, uint8 BGR (h, w, c).
        """
        if not self._left or item.folder in self._shown or frame < num_frame // 2:
            return
        self._left -= 1
        self._shown.add(item.folder)
        lq = next(islice(item.lq(), item.num_frame // 2 if item.is_window else frame, None))
        if isinstance(lq, torch.Tensor):
            lq = tensor2img(lq.permute(2, 0, 1))
        lq = cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)  # pixels as they are
        picture = np.hstack([lq, result, gt])[..., ::-1]
        self._tb_logger.add_image(f'{self._name}/{item.folder}', picture, self._iter, dataformats='HWC')
