"""Writes what is made of the table of options: schemas/option_file.schema.json and the tables of docs/options.md.

``python -m schemas.generate``, in a clone.
"""

from __future__ import annotations

import re
from pathlib import Path

from multigrid_vsr.cli.schema import schema_text
from multigrid_vsr.options.kinds import as_yaml
from multigrid_vsr.options.table import ALL_OPTIONS, BASICSR_OPTIONS

SCHEMA_FILE = Path(__file__).with_name('option_file.schema.json')
_PAGE = Path(__file__).parents[1] / 'docs/options.md'
_TABLE = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def with_tables(text: str) -> str:
    """A page of the docs with the rows of each block between its two marks."""
    return _TABLE.sub(lambda match: f'{match[1]}{_markdown(match[2])}{match[3]}', text)


def _markdown(block: str) -> str:
    """The rows of a block of this project, or all of BasicSR's, with their whole names."""
    lines = ['| option | value | without it | what it does |', '|---|---|---|---|']
    for option in ALL_OPTIONS:
        is_basicsrs = option in BASICSR_OPTIONS
        if is_basicsrs if block == 'BasicSR' else option.name == f'{block}.{option.key}' and not is_basicsrs:
            unit = f' ({option.unit})' if option.unit else ''
            default = 'has to be given' if option.default == '' else as_yaml(option.default)
            rule = f' Rule: {option.rule}.' if option.rule else ''
            name = option.name if is_basicsrs else option.key
            lines.append(f'| `{name}` | {option.type.words}{unit} | {default} | {option.sentence}{rule} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    SCHEMA_FILE.write_text(schema_text(), encoding='utf-8')
    _PAGE.write_text(with_tables(_PAGE.read_text(encoding='utf-8')), encoding='utf-8')
