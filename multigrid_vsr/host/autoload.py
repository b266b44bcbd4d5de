"""Waits for ``import basicsr``. Runs at the start of every Python, so it imports only what is there already."""

import os
import sys

_HOST = 'basicsr'
# What the plugin builds on. Another project's tree of that name, which lacks one of them, is left alone.
_NEEDED = (
    'train.py',
    'data/__init__.py',
    'archs/__init__.py',
    'models/video_recurrent_model.py',
    'models/video_recurrent_gan_model.py',
    'models/edvr_model.py',
    'utils/dist_util.py',
    'utils/logger.py',
    'utils/options.py',
    'utils/registry.py',
)


def arm() -> None:
    """Prepares BasicSR when it is imported; at once where it already is. Calling it again changes nothing."""
    if _HOST in sys.modules:
        folders = getattr(sys.modules[_HOST], '__path__', ())
        if not _left_alone(folders):
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
                if not _left_alone(folders) and hasattr(spec.loader, 'exec_module'):
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


def _left_alone(folders) -> bool:
    """Whether the tree is not BasicSR: then nothing more of this plugin is imported, unless it is asked for."""
    for file in _NEEDED:
        if not any(os.path.exists(os.path.join(folder, file)) for folder in folders):
            _refuse_if_asked(folders, f'the tree has no {file}')
            return True
    return False


def _refuse_if_asked(folders, lacking) -> None:
    """Says so where the option file of the command line has this plugin's name in it."""
    words = getattr(sys, 'argv', [])
    following = zip(words, words[1:])  # noqa: RUF007  # itertools is not there already
    paths = [path for flag, path in following if flag in ('-opt', '--opt')]
    paths += [word.partition('=')[2] for word in words if word.startswith(('-opt=', '--opt='))]
    for path in filter(os.path.isfile, paths):
        try:
            with open(path, 'rb') as file:
                is_named = b'ultigrid' in file.read()
        except OSError:  # the host says so
            continue
        if is_named:
            from multigrid_vsr.host.command_line import refuse_if_asked

            refuse_if_asked(path, f'{lacking} ({", ".join(folders)})')
