"""BasicSR's prefetcher for the GPU, on a loader that has one run in it."""

from __future__ import annotations

from typing import Any

from multigrid_vsr.host.patch import patch, replace


@patch(
    '`CUDAPrefetcher`',
    why='it asks for the first batch when it is made, and again when the loop begins: the workers start twice',
    needed='its loader is a `MultigridLoader`; it is a subclass, which on another loader is the original',
    goes='when it waits for its `reset`',
)
def first_batch_once() -> None:
    replace('basicsr.data.prefetch_dataloader', 'CUDAPrefetcher', _starting_at_reset)


def _starting_at_reset(original: Any) -> Any:
    class CUDAPrefetcher(original):
        def __init__(self, loader: Any, opt: dict[str, Any]) -> None:
            from multigrid_vsr.data.loader import MultigridLoader

            super().__init__(() if isinstance(loader, MultigridLoader) else loader, opt)
            self.ori_loader = loader

    return CUDAPrefetcher


PATCHES = (first_batch_once,)
