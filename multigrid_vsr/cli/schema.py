"""``multigrid-vsr schema``: the JSON Schema of option files, for editors, from the table of options."""

from __future__ import annotations

import argparse
import json
from typing import Any

from multigrid_vsr.options.archs import DATASET_TYPES, STOCK_DATASETS, STOCK_TEST_SETS
from multigrid_vsr.options.checked import options_of
from multigrid_vsr.options.kinds import Option
from multigrid_vsr.options.table import ALL_OPTIONS, LOADER_KEYS, OF_TRAINING, SCHEDULER_TYPE, STRICT

_ROWS = {option.name: option for option in ALL_OPTIONS}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        'schema',
        help='print the JSON Schema of an option file, with which an editor completes and checks it',
        description='Save it, and begin an option file with `# yaml-language-server: $schema=PATH`.',
        examples=('multigrid-vsr schema > option_file.schema.json',),
    )


def run(args: argparse.Namespace) -> None:
    """Prints it."""
    print(schema_text(), end='')


def schema_text() -> str:
    """The JSON Schema (draft 7) of an option file. BasicSR's blocks may hold other keys."""
    head = {'$schema': 'http://json-schema.org/draft-07/schema#', 'title': 'Option file of multigrid_vsr'}
    return json.dumps({**head, **_schema_of('')}, indent=1, ensure_ascii=False) + '\n'


def _schema_of(name: str) -> dict[str, Any]:
    """The schema of an option or a block, by its dotted name; of the whole file for an empty name."""
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
        of_any = {
            'properties': {key: properties[key] for key in LOADER_KEYS},
            'required': [key for key in needed if key in LOADER_KEYS],
        }
        return {'type': 'object', 'if': _has_type(*DATASET_TYPES, *STOCK_DATASETS), 'then': block, 'else': of_any}
    if name in ('', 'val'):  # a test, which has no training set, needs less
        block['required'] = [key for key in needed if key not in OF_TRAINING]
    if name == '':
        has_training_set = {'properties': {'datasets': {'required': ['train']}}, 'required': ['datasets']}
        of_val = {'anyOf': [{'type': 'null'}, {'required': ['val_freq']}]}
        block |= {'if': has_training_set, 'then': {'required': needed, 'properties': {'val': of_val}}}
    if name == 'datasets.val':
        stock = {'if': _has_type(*STOCK_TEST_SETS), 'then': {'required': needed}}
        block = {**block, 'required': ['name', 'type'], **stock}
    if name == 'datasets':
        block['patternProperties'] = {'^(val_|test(_|$))': properties['val']}
    if name == 'train.scheduler':
        others = {'type': {'type': 'string'}, 'batch_scaling': properties['batch_scaling']}
        is_ours = {'properties': {'type': {'const': SCHEDULER_TYPE}}, 'required': ['type']}
        return {'type': 'object', 'if': is_ours, 'then': block, 'else': {'properties': others}}
    if 'anyOf' in schema:  # may be left out
        return {**schema, 'anyOf': [block, {'type': 'null'}]}
    return {**schema, **block}


def _has_type(*names: str) -> dict[str, Any]:
    return {'properties': {'type': {'enum': [*names]}}, 'required': ['type']}


def _described(option: Option) -> dict[str, Any]:
    unit = f' Unit: {option.unit}.' if option.unit else ''
    rule = f' Rule: {option.rule}.' if option.rule else ''
    words = {'description': f'{option.sentence}{unit}{rule}'}
    if option.default == '':
        return {**words, **option.type.schema}
    if not isinstance(option.default, str):
        words['default'] = option.default
    return {**words, 'anyOf': [option.type.schema, {'type': 'null'}]}
