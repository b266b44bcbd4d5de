"""Multigrid training of video super-resolution models, as a BasicSR plugin.

Importing this package arms the plugin: it registers itself in BasicSR's registries as soon as ``basicsr`` is
imported, or at once where it already is. The names below are public; each is imported when it is asked for, so that the
start of Python stays fast.
"""

from multigrid_vsr.host.autoload import arm

__version__ = '0.1.0'

_PUBLIC = {
    'MultigridVideoModel': 'models.multigrid_video_model',
    'MultigridVideoGANModel': 'models.multigrid_video_model',
    'MultigridMixin': 'models.multigrid_video_model',
    'DEGRADATION_REGISTRY': 'models.degradation',
    'OPTIMIZER_REGISTRY': 'models.optimizers',
    'MultigridDataset': 'data.multigrid_dataset',
    'seeded': 'data.batches',
    'MultigridREDSDataset': 'data.multigrid_dataset',
    'MultigridVimeo90KDataset': 'data.multigrid_dataset',
    'MultigridCosineLR': 'models.optimizers',
    'MultigridLoader': 'data.loader',
    'FrameStore': 'frames.store',
    'Schedule': 'core.schedule',
    'BatchShape': 'core.schedule',
    'SampleRequest': 'core.schedule',
    'InputError': 'core.errors',
}
__all__ = ['__version__', *_PUBLIC]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib
    import sys

    value = getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
    if (patches := sys.modules.get(f'{__name__}.host.patch')) is not None:
        patches.try_to_register()
    return value


def __dir__():
    return sorted([*globals(), *_PUBLIC])


arm()
