"""What one iteration trains on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchShape:
    """The shape of one GPU's batch, in BasicSR's words.

    Attributes:
        batch_size_per_gpu: Samples b of each GPU.
        num_frame: Frames t of a sample.
        gt_size: Side g of the ground-truth crop, in pixels; the LQ side is ``g / scale``.
    """

    batch_size_per_gpu: int
    num_frame: int
    gt_size: int

    @property
    def pixels(self) -> int:
        """Ground-truth pixels of the batch, ``b * t * g^2``."""
        return self.batch_size_per_gpu * self.num_frame * self.gt_size**2

    def samples_of(self, num_frame: int, gt_size: int) -> int:
        """How many samples of another size have at most the pixels of this batch."""
        return self.pixels // (num_frame * gt_size**2)

    def __str__(self) -> str:
        return f'{self.batch_size_per_gpu}x{self.num_frame}x{self.gt_size}x{self.gt_size}'


@dataclass(frozen=True)
class Segment:
    """Consecutive iterations with one shape: ``[start, end)``, counted from 0.

    Attributes:
        stage: Number of the stage (one spatial size) that the segment belongs to, counted from 0.
        start: First iteration.
        end: The iteration after the last.
        shape: Shape of every iteration in the segment.
    """

    stage: int
    start: int
    end: int
    shape: BatchShape

    @property
    def num_iter(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SampleRequest:
    """All that a dataset needs to cut one training sample; it decides nothing else.

    Attributes:
        index: Index into the dataset's keys.
        num_frame: Frames of the sample.
        gt_size: Side of the ground-truth crop, in pixels.
        seed: Seed of the sample's own random draws (start frame, crop, flips, direction).
    """

    index: int
    num_frame: int
    gt_size: int
    seed: int
