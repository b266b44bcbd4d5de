"""Waits for ``import basicsr``. Runs at the start of every Python, so it imports only what is there already."""

import os
import sys

_HOST = 'basicsr'
_NEEDED = 'models/video_recurrent_model.py'  # other projects' trees called basicsr lack it


def arm() -> None:
    """Prepares BasicSR when it is imported; at once where it already is. Calling it again changes nothing."""
    if _HOST in sys.modules:
        folders = getattr(sys.modules[_HOST], '__path__', ())
        if _is_basicsr(folders):
            _after_import(folders)
    elif not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


class _HostFinder:
    """Finds ``basicsr`` as the other finders do, and wraps its loader where it is BasicSR."""

    def find_spec(self, name, path=None, target=None):
        if name != _HOST:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                folders = spec.submodule_search_locations or ()
                if _is_basicsr(folders) and hasattr(spec.loader, 'exec_module'):
                    spec.loader = _HostLoader(spec.loader, folders)  # type: ignore[assignment]
                return spec
        return None


class _HostLoader:
    """BasicSR's own loader, with our preparation before and after it."""

    def __init__(self, loader, folders):
        self._loader = loader
        self._folders = folders

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        # Later users of the module's spec (reload, runpy, pkgutil) see the loader that belongs to the file.
        module.__spec__.loader = module.__loader__ = self._loader
        from multigrid_vsr.host import install

        install.before_import()
        self._loader.exec_module(module)
        _after_import(self._folders)


def _after_import(folders) -> None:
    from multigrid_vsr.host import install

    lacking = install.after_import()
    if lacking:
        _refuse_if_asked(folders, lacking)


def _is_basicsr(folders) -> bool:
    """Whether the tree is BasicSR. In another tree this plugin imports nothing more, unless ``-opt`` is given."""
    if any(os.path.exists(os.path.join(folder, _NEEDED)) for folder in folders):
        return True
    _refuse_if_asked(folders, f'the tree has no {_NEEDED}')
    return False


def _refuse_if_asked(folders, lacking) -> None:
    if any(word.partition('=')[0] == '-opt' for word in getattr(sys, 'argv', [])):
        from multigrid_vsr.host.command_line import refuse_if_asked

        refuse_if_asked(f'{lacking} ({", ".join(folders)})')
