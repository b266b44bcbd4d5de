"""BasicSR's test script, and what it measures."""

from __future__ import annotations

from typing import Any
from unittest import mock

from multigrid_vsr.host.asked import asked_for


def run_test(root: str, opt: dict[str, Any]) -> dict[str, Any]:
    """Runs ``basicsr/test.py`` with the command line of this process.

    Args:
        root: The folder below which it writes ``results/``.
        opt: The options on that command line.

    Returns:
        By test set what :func:`~multigrid_vsr.models.validation.figures` gives; all of it is right on rank 0 alone.

    Raises:
        InputError: If an option cannot be used.
    """
    from basicsr import test as script

    from multigrid_vsr.host.run_check import check_test
    from multigrid_vsr.models.validation import figures

    if asked_for(opt) is None:  # else `parse_options` does
        check_test(opt)
    found: dict[str, Any] = {}
    build_model = script.build_model

    def building(model_opt: dict[str, Any]) -> Any:
        model = build_model(model_opt)
        validation = model.validation

        def measuring(loader: Any, *args: Any, **kwargs: Any) -> None:
            validation(loader, *args, **kwargs)
            found[loader.dataset.opt['name']] = figures(model)

        model.validation = measuring
        return model

    with mock.patch.object(script, 'build_model', building):
        script.test_pipeline(root)
    return found
