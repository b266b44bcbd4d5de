"""Waits for ``import basicsr``. Runs at the start of every Python, so it imports only what is there already."""

import sys

_HOST = 'basicsr'


def arm() -> None:
    """Prepares BasicSR when it is imported; at once where it already is. Calling it again changes nothing."""
    if _HOST in sys.modules:
        from multigrid_vsr.host import entry

        entry.after_import()
    elif not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


class _HostFinder:
    """Finds ``basicsr`` as the other finders do, and wraps its loader."""

    def find_spec(self, name, path=None, target=None):
        if name != _HOST:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = _HostLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _HostLoader:
    """BasicSR's own loader, with our preparation before and after it."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        # Later users of the module's spec (reload, runpy, pkgutil) see the loader that belongs to the file.
        module.__spec__.loader = module.__loader__ = self._loader
        from multigrid_vsr.host import entry

        entry.before_import()
        self._loader.exec_module(module)
        entry.after_import()
