"""Command lines as people write them in a shell: what of them is ``multigrid-vsr``."""

from __future__ import annotations

import shlex


def commands_of(line: str) -> list[list[str]]:
    """The arguments of each ``multigrid-vsr`` in a line, with what redirects, pipes or comments left out."""
    words = shlex.shlex(line.replace('$(which multigrid-vsr)', 'multigrid-vsr'), posix=True, punctuation_chars='|&;<>')
    words.whitespace_split = True
    found: list[list[str]] = []
    is_ours = False
    for word in words:
        if set(word) <= set('|&;<>'):
            is_ours = False
        elif is_ours:
            found[-1].append(word)
        elif word == 'multigrid-vsr':
            found.append([])
            is_ours = True
    return found
