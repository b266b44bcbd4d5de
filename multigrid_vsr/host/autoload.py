"""Waits for ``import basicsr``. It runs at the start of every Python, so it imports only modules that are loaded."""

import os
import sys

_HOST = 'basicsr'
_NEEDED = 'models/video_recurrent_model.py'  # the folders called basicsr of other projects lack it


def arm() -> None:
    """Prepares BasicSR when it is imported, or at once if it already is. A second call changes nothing."""
    if _HOST in sys.modules:
        folders = getattr(sys.modules[_HOST], '__path__', ())
        if _is_basicsr(folders):
            _after_import(folders)
    elif not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


class _HostFinder:
    """Finds ``basicsr`` by the other finders. If it is BasicSR, its loader prepares it."""

    def find_spec(self, name, path=None, target=None):
        if name != _HOST:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                folders = spec.submodule_search_locations or ()
                if _is_basicsr(folders) and hasattr(spec.loader, 'exec_module'):
                    _prepare(spec.loader, folders)
                return spec
        return None


def _prepare(loader, folders) -> None:
    original = loader.exec_module

    def exec_module(module):
        del loader.exec_module  # so that a reload is plain
        from multigrid_vsr.host import install

        install.before_import()
        original(module)
        _after_import(folders)

    loader.exec_module = exec_module


def _after_import(folders) -> None:
    from multigrid_vsr.host import install

    lacking = install.after_import()
    if lacking:
        _refuse_if_asked(folders, lacking)


def _is_basicsr(folders) -> bool:
    """Whether the tree is BasicSR. In any other tree this plugin does nothing, unless ``-opt`` is given."""
    if any(os.path.exists(os.path.join(folder, _NEEDED)) for folder in folders):
        return True
    _refuse_if_asked(folders, f'the tree has no {_NEEDED}')
    return False


def _refuse_if_asked(folders, lacking) -> None:
    if any(word.partition('=')[0] == '-opt' for word in getattr(sys, 'argv', [])):
        from multigrid_vsr.host.launch import refuse_if_asked

        refuse_if_asked(f'{lacking} ({", ".join(folders)})')
