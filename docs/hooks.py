"""MkDocs: the README is the site's home, and links to files outside docs/ lead to pages that show these."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r'(?<=\]\()(?!https?:|#)([^)#\s]+)')


_PAGES = {'.md', '.py', '.yml', '.yaml', '.toml', '.txt', ''}  # what is shown; pictures and results are only copied


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for the README, and for each file outside docs/ that a page links to."""
    waiting = {'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'}
    waiting |= {f'docs/{file.src_uri}' for file in files.documentation_pages()}
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        if path.endswith('.md') and (_ROOT / path).is_file():
            waiting |= {_target(path, link) for link in _LINK.findall(_read(path))} - seen
    for path in sorted(seen):
        if path.startswith('docs/') or not (_ROOT / path).is_file():
            continue
        if Path(path).suffix not in _PAGES:
            files.append(File.generated(config, f'project/{path}', abs_src_path=str(_ROOT / path)))
            continue
        text = _read(path)
        content = text if path.endswith('.md') else f'# {path}\n\n```{Path(path).suffix[1:]}\n{text}```\n'
        files.append(File.generated(config, _page_of(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads each link of a page to the page of what it links to."""
    here = page.file.src_uri
    if here == 'index.md':
        page.meta['hide'] = ['navigation']  # it has a tab to itself
    source = 'README.md' if here == 'index.md' else here.removeprefix('project/')
    source = source if source != here else f'docs/{here}'
    folder = os.path.dirname(here) or '.'
    return _LINK.sub(lambda match: os.path.relpath(_page_of(_target(source, match[1])), folder), markdown)


def _read(path: str) -> str:
    return (_ROOT / path).read_text(encoding='utf-8')


def _target(source: str, link: str) -> str:
    """The file of the repository that a link in another one means."""
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def _page_of(path: str) -> str:
    """The place in the site of a file of the repository."""
    if path == 'README.md':
        return 'index.md'
    if path.startswith('docs/'):
        return path.removeprefix('docs/')
    suffix = Path(path).suffix
    return f'project/{path}' if suffix == '.md' or suffix not in _PAGES else f'project/{path}.md'
