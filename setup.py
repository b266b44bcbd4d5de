"""Puts ``multigrid_vsr.pth`` into site-packages; everything else is in pyproject.toml.

That file lets the plugin hook ``import basicsr`` in every Python process, dataloader workers and torchrun children
included, with BasicSR's own files untouched. Setuptools has no option for one, so it goes in as a data file whose
folder is that of the packages, in the wheel and in the editable install alike, and pip removes it again.
"""

import sys
from importlib.util import find_spec

from setuptools import Distribution, setup  # before distutils, which it brings along

from distutils.command.install_data import install_data  # isort: skip

if sys.version_info >= (3, 13) and find_spec('basicsr') is None:
    sys.exit(
        'multigrid_vsr needs Python 3.10 to 3.12: BasicSR 1.4.2 cannot be built on 3.13 and later. docs/versions.md '
        'says how both get there.'
    )


class InstallBesidePackages(install_data):
    """Installs data files into site-packages instead of the prefix."""

    def finalize_options(self):
        super().finalize_options()
        self.install_dir = self.get_finalized_command('install').install_lib


class DistributionWithData(Distribution):
    """Says that there are data files by the name that setuptools' editable install asks for."""

    def has_data(self):
        return self.has_data_files()


setup(
    distclass=DistributionWithData,
    cmdclass={'install_data': InstallBesidePackages},
    data_files=[('', ['multigrid_vsr/multigrid_vsr.pth'])],
)
