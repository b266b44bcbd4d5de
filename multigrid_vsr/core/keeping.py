"""Which checkpoints a run keeps, as a pure function of what is there."""

from __future__ import annotations

from collections.abc import Iterable


def removable(
    saved: Iterable[int], whole: Iterable[int], current_iter: int, keep: int, needed: Iterable[int]
) -> list[int]:
    """The iterations whose files may go.

    Those after ``current_iter`` are of another past of the run and stay: a run that was resumed from an earlier
    iteration has them.

    Args:
        saved: Iterations with any file.
        whole: Those with weights and state: one to go on from.
        current_iter: The iteration that was saved last.
        keep: Whole ones to keep, the last.
        needed: Others that stay.
    """
    last = sorted(iteration for iteration in whole if iteration <= current_iter)[-keep:]
    return sorted(i for i in set(saved) - {*last, *needed} if i <= current_iter) if last else []
