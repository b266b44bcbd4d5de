"""The table of options as JSON Schema, for editors, and as the tables of docs/options.md.

``python -m multigrid_vsr.options.schema`` writes both in a checkout.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from multigrid_vsr.options.archs import DATASET_TYPES, STOCK_DATASETS, STOCK_TEST_SETS
from multigrid_vsr.options.checked import ALL_OPTIONS, OWN_OPTIONS, options_of
from multigrid_vsr.options.kinds import Option, as_yaml
from multigrid_vsr.options.table import BASICSR_OPTIONS, LOADER_KEYS, OF_TRAINING, SCHEDULER_TYPE, STRICT

SCHEMA_FILE = Path(__file__).parents[1] / 'option_file.schema.json'
_REFERENCE = Path(__file__).parents[2] / 'docs/options.md'
_TABLE = re.compile(r'(<!-- table of (\S+) -->\n).*?(<!-- end of table -->)', re.DOTALL)
_ROWS = {option.name: option for option in ALL_OPTIONS}


def schema_text() -> str:
    """JSON Schema of an option file, draft 7, which editors know; other keys may stand in BasicSR's blocks."""
    schema = {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Option file of multigrid_vsr',
        **_schema_of(''),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + '\n'


def _schema_of(name: str) -> dict[str, Any]:
    """The schema of an option or a block of them, by its dotted name; of the whole file for the empty one."""
    schema = _described(_ROWS[name]) if name in _ROWS else {}
    if f'{name}[]' in STRICT:  # a list of blocks
        return {**schema, 'anyOf': [{**_ROWS[name].type.schema, 'items': _schema_of(f'{name}[]')}, {'type': 'null'}]}
    prefix = f'{name}.' if name else ''
    keys = dict.fromkeys(o.name.removeprefix(prefix).split('.')[0] for o in ALL_OPTIONS if o.name.startswith(prefix))
    if not keys:
        return schema
    properties = {key: _schema_of(f'{prefix}{key}') for key in keys if not key.endswith('[]')}
    needed = [key for key, option in options_of(name).items() if option.default == '']
    block: dict[str, Any] = {'type': 'object', 'properties': properties, 'required': needed}
    if name in STRICT:
        block['additionalProperties'] = False
    if name == 'datasets.train':
        is_known = {'properties': {'type': {'enum': [*DATASET_TYPES, *STOCK_DATASETS]}}, 'required': ['type']}
        of_any = {
            'properties': {key: properties[key] for key in LOADER_KEYS},
            'required': [key for key in needed if key in LOADER_KEYS],
        }
        return {'type': 'object', 'if': is_known, 'then': block, 'else': of_any}
    if name in ('', 'val'):  # of a test, which has no training set, less is asked
        block['required'] = [key for key in needed if key not in OF_TRAINING]
    if name == '':
        has_training_set = {'properties': {'datasets': {'required': ['train']}}, 'required': ['datasets']}
        of_val = {'anyOf': [{'type': 'null'}, {'required': ['val_freq']}]}
        block |= {'if': has_training_set, 'then': {'required': needed, 'properties': {'val': of_val}}}
    if name == 'datasets.val':
        is_stock = {'properties': {'type': {'enum': [*STOCK_TEST_SETS]}}, 'required': ['type']}
        block = {**block, 'required': ['name', 'type'], 'if': is_stock, 'then': {'required': needed}}
    if name == 'datasets':
        block['patternProperties'] = {'^(val_|test(_|$))': properties['val']}
    if name == 'train.scheduler':
        others = {'type': {'type': 'string'}, 'batch_scaling': properties['batch_scaling']}
        is_ours = {'properties': {'type': {'const': SCHEDULER_TYPE}}, 'required': ['type']}
        return {'type': 'object', 'if': is_ours, 'then': block, 'else': {'properties': others}}
    if 'anyOf' in schema:  # may be left out
        return {**schema, 'anyOf': [block, {'type': 'null'}]}
    return {**schema, **block}


def _described(option: Option) -> dict[str, Any]:
    unit = f' Unit: {option.unit}.' if option.unit else ''
    rule = f' Rule: {option.rule}.' if option.rule else ''
    words = {'description': f'{option.sentence}{unit}{rule}'}
    if option.default == '':
        return {**words, **option.type.schema}
    if not isinstance(option.default, str):
        words['default'] = option.default
    return {**words, 'anyOf': [option.type.schema, {'type': 'null'}]}


def with_tables(text: str) -> str:
    """A page of the docs with the rows of each block between its two marks."""
    return _TABLE.sub(lambda match: f'{match[1]}{_markdown(match[2])}{match[3]}', text)


def _markdown(block: str) -> str:
    """The rows of a block of this project, or all of BasicSR's, with their whole names."""
    lines = ['| option | value | without it | what it does |', '|---|---|---|---|']
    names = {option.name: option.key for option in OWN_OPTIONS if option.name == f'{block}.{option.key}'}
    if block == 'BasicSR':
        names = {option.name: option.name for option in BASICSR_OPTIONS}
    for option in (option for option in ALL_OPTIONS if option.name in names):
        unit = f' ({option.unit})' if option.unit else ''
        default = 'has to be given' if option.default == '' else as_yaml(option.default)
        rule = f' Rule: {option.rule}.' if option.rule else ''
        lines.append(f'| `{names[option.name]}` | {option.type.words}{unit} | {default} | {option.sentence}{rule} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    SCHEMA_FILE.write_text(schema_text(), encoding='utf-8')
    _REFERENCE.write_text(with_tables(_REFERENCE.read_text(encoding='utf-8')), encoding='utf-8')
