"""Multigrid training of video super-resolution models, as a BasicSR plugin.

Importing this package arms the plugin: it registers itself in BasicSR's registries as soon as ``basicsr`` is
imported, or at once where it already is.
"""

from multigrid_vsr.host.autoload import arm

__version__ = '0.1.0'

arm()
