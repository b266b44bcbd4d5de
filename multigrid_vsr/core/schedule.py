"""The shape of every iteration, as a pure function of the iteration."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise


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


@dataclass(frozen=True)
class Schedule:
    """The segments of a run, in order and without gaps, from iteration 0 to ``total_iter``.

    Iterations count from 0 here; BasicSR's ``current_iter`` counts from 1 (see :meth:`at_current_iter`).

    Attributes:
        segments: Segments in order.
        full_shape: Shape of ``datasets.train``: what a run without the schedule has throughout.
    """

    segments: tuple[Segment, ...]
    full_shape: BatchShape

    @classmethod
    def from_shapes(cls, shapes: Iterable[tuple[int, BatchShape]], full_shape: BatchShape) -> Schedule:
        """Lays ``(iterations, shape)`` pairs end to end; pairs of 0 iterations vanish.

        A new stage starts where ``gt_size`` changes.
        """
        segments: list[Segment] = []
        for num_iter, shape in shapes:
            if num_iter == 0:
                continue
            start = segments[-1].end if segments else 0
            stage = segments[-1].stage + (segments[-1].shape.gt_size != shape.gt_size) if segments else 0
            segments.append(Segment(stage, start, start + num_iter, shape))
        return cls(tuple(segments), full_shape)

    @property
    def total_iter(self) -> int:
        return self.segments[-1].end

    def segment_at(self, iteration: int) -> Segment:
        """The segment of an iteration, counted from 0.

        Raises:
            IndexError: If the iteration is outside ``[0, total_iter)``.
        """
        if not 0 <= iteration < self.total_iter:
            raise IndexError(f'iteration {iteration} is outside [0, {self.total_iter})')
        return self.segments[bisect_right(self.segments, iteration, key=lambda segment: segment.start) - 1]

    def at_current_iter(self, current_iter: int) -> Segment:
        """The segment of BasicSR's ``current_iter``, which counts from 1: the one place that converts."""
        return self.segment_at(current_iter - 1)

    def __str__(self) -> str:
        return ', '.join(f'{segment.num_iter} x [{segment.shape}]' for segment in self.segments)


def split(length: int, shares: Sequence[float | Fraction]) -> list[int]:
    """Splits ``length`` iterations by shares: boundary j is ``floor(length * cumulated_j / total)``.

    The last part is never empty; others are where ``length`` is smaller than the number of parts.
    """
    exact = [Fraction(str(share)) for share in shares]  # 0.1 as it was written, not the nearest binary number
    boundaries = [length * sum(exact[:count]) // sum(exact) for count in range(len(exact) + 1)]
    return [end - start for start, end in pairwise(boundaries)]


def exact_iterations(
    stage_iter: Sequence[int], frame_ratio: Sequence[float], batches: Sequence[Sequence[int]], full_batch: int
) -> list[list[Fraction]]:
    """The iterations of each (stage, frame count) whose share is one of samples, before they are rounded.

    Args:
        stage_iter: Length of each stage in iterations of ``full_batch``: their product is its samples.
        frame_ratio: Share of a stage's samples at each frame count.
        batches: Batch of each (stage, frame count).
        full_batch: Batch that ``stage_iter`` counts in.
    """
    ratio = [Fraction(str(share)) for share in frame_ratio]
    return [
        [length * full_batch * share / sum(ratio) / batch for share, batch in zip(ratio, row)]
        for length, row in zip(stage_iter, batches)
    ]
