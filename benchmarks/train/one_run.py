"""One run of the bench, trained in a process of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from multigrid_vsr.demo import training


@contextlib.contextmanager
def trained(root: Path, opt: Mapping[str, Any], label: str, threads: int | None) -> Iterator[Path]:
    """Trains a run, or what is left of one that was interrupted; its folder and its option file are deleted after use.

    BasicSR's own model begins anew: it goes on with a GPU alone, and not with the samples that it would have had.

    Args:
        root: Folder of the bench.
        opt: Its options.
        label: What the progress bar says.
        threads: Threads of torch; ``None`` for its own choice.

    Yields:
        The folder of the run.

    Raises:
        InputError: If the run fails.
    """
    path = root / f'{opt["name"]}.yml'
    path.write_text(yaml.safe_dump(dict(opt), sort_keys=False))
    folder = root / 'experiments' / opt['name']
    is_stock = opt['model_type'] != 'MultigridVideoModel'
    if is_stock:
        shutil.rmtree(folder, ignore_errors=True)
    training.train_file(path, opt['train']['total_iter'], label, threads, *(() if is_stock else ('--auto_resume',)))
    yield folder
    shutil.rmtree(folder)
    path.unlink()
