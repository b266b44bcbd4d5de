"""Files that a system or a program leaves beside frames."""

from __future__ import annotations

_NAMES = frozenset(
    name.lower()
    for name in (
        '__MACOSX',
        'Thumbs.db',
        'ehthumbs.db',
        'desktop.ini',
        '@eaDir',
        '$RECYCLE.BIN',
        'System Volume Information',
        'lost+found',
        '__pycache__',
    )
)


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden (``._a.png``, ``.ipynb_checkpoints``) or a system's own."""
    return name.startswith('.') or name.lower() in _NAMES
