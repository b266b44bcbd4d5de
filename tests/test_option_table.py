"""The table of options, and what is made of it: the checks, the JSON Schema and the tables of docs/options.md."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import jsonschema
import pytest
from runs import options

from multigrid_vsr.cli import main
from multigrid_vsr.core.errors import OptionError
from multigrid_vsr.options.option_file import read_options
from multigrid_vsr.options.run_options import checked_schedule
from multigrid_vsr.options.table import ALL_OPTIONS, OPTIONS
from schemas.generate import SCHEMA_FILE, with_tables

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads(SCHEMA_FILE.read_text())
# Values of every type, at and around the bounds.
VALUES = [
    *(-2, -1, -0.5, 0, 0.5, 1, 1.0, 1.5, 2, 1e5),
    *(True, False, 'cpu', 'disk', 'volume', 'sqrt', 'bf16', 'stage', 'center', 'default', 'MultigridCosineLR'),
    *([], [1], [0], [1, 2.5], [[1, 2], 3], [[]], ['1'], [True], {}, {'type': 'disk'}, [{}], [{'iter': 1}]),
]


@pytest.mark.parametrize('option', ALL_OPTIONS, ids=lambda option: option.name)
def test_kind_takes_what_its_schema_takes(option):
    taken = []
    for value in VALUES:
        with contextlib.suppress(OptionError):
            option.type.check(option.name, value)
            taken.append(value)
    validator = jsonschema.Draft7Validator(option.type.schema)
    assert taken == [value for value in VALUES if validator.is_valid(value)]
    assert len(taken) < len(VALUES)


def test_schema_command_prints_the_schema_of_the_table(capsys):
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    main(['schema'])
    assert capsys.readouterr().out == SCHEMA_FILE.read_text(), 'python -m schemas.generate'


def test_tables_of_the_docs_are_those_of_the_table():
    page = (ROOT / 'docs/options.md').read_text()
    assert page == with_tables(page), 'python -m schemas.generate'
    documented = {option.name for option in OPTIONS if f'| `{option.key}` |' in page}
    assert {option.name for option in OPTIONS} - documented <= {'model_type', 'stock_run'}  # which have chapters


@pytest.mark.parametrize('path', sorted((ROOT / 'options').glob('*.yml')), ids=lambda path: path.stem)
def test_option_file_names_the_schema_and_is_valid(path):
    words, _, relative = path.read_text().splitlines()[0].partition('=')
    assert words == '# yaml-language-server: $schema'
    assert (path.parent / relative).resolve() == SCHEMA_FILE
    jsonschema.validate(read_options(path), SCHEMA, jsonschema.Draft7Validator)


STAGES = {'stages': [{'iter': 6, 'gt_size': 64}, {'iter': 7}]}
COSINE = {'type': 'MultigridCosineLR'}
# Changes of a run, and what is wrong with them; the schema finds all of these too.
WRONG = [
    ({'multigrid__gt_sizes': [64, 128]}, 'multigrid.gt_sizes: must be one of gt_size, .*Did you mean `gt_size`?'),
    ({'multigrid': {'stages': [{'iter': 13, 'frames': 4}]}}, r'multigrid.stages\[0\].frames: must be one of iter, gt_s'),
    ({'multigrid': {'stages': [{'gt_size': 64}]}}, r'multigrid.stages\[0\].iter: must be given, got nothing.'),
    ({'train__scheduler': {**COSINE, 'eta_max': 0}}, 'train.scheduler.eta_max: .*got eta_max. Did you mean `eta_min`?'),
    ({'datasets__train__meta_info_fille': 'list.txt'}, 'datasets.train.meta_info_fille: must be one of name, .* Did you mean `meta_info_file`?'),
    ({'datasets__train__io_backend': {'type': 'disk', 'path': 1}}, 'datasets.train.io_backend.path: must be one of type'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'line'), WRONG, ids=[next(iter(changes)) for changes, _ in WRONG])
def test_wrong_option_fails_in_the_checks_and_in_the_schema(changes, line, tmp_path):
    good, bad = options(tmp_path), options(tmp_path, **changes)
    checked_schedule(good)
    jsonschema.validate(good, SCHEMA, jsonschema.Draft7Validator)
    with pytest.raises(OptionError, match=line):
        checked_schedule(bad)
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(bad)


@pytest.mark.parametrize(
    'changes',
    [
        {'multigrid': STAGES},
        {'multigrid__batch_size_per_gpu': 'volume'},
        {'multigrid__batch_size_per_gpu': [[4, 2, 1], 1]},
        {'multigrid__gt_size': [64.0, 1.28e2]},
        {'train__scheduler': {**COSINE, 'warmup_iter': -1, 'restart_weights': [1, 0.5]}},
        {'train__compile': 'default', 'train__cuda_graph': True, 'train__amp': 'bf16'},
    ],
    ids=str,
)
def test_right_options_pass_the_checks_and_the_schema(changes, tmp_path):
    opt = options(tmp_path, **copy.deepcopy(changes))
    checked_schedule(opt)
    jsonschema.validate(opt, SCHEMA, jsonschema.Draft7Validator)


def test_option_that_is_null_is_as_left_out(tmp_path):
    opt = options(tmp_path)
    opt['train'] |= {'amp': None, 'compile': None, 'channels_last': None}
    opt['multigrid'] |= {'stage_iter': None, 'frame_ratio': None, 'stages': None}
    assert checked_schedule(opt) == checked_schedule(options(tmp_path))
    jsonschema.validate(opt, SCHEMA, jsonschema.Draft7Validator)
