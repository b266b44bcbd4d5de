"""The network in training and in use: what a run does with it, and the files that it leaves.

BasicSR is imported before any file here, so that its patches find these files whole, whichever comes first.
"""

import basicsr  # noqa: F401
