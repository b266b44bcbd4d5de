"""The figures of ``benchmarks.gpu`` as a JSON file and a page of tables, both written after every row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_plan import STOCK, Sizes
from multigrid_vsr.core.whole_file import whole_file

NO_TIME = 'no time left'


@dataclass(frozen=True)
class Row:
    """One measurement, or one line that says why there is none."""

    part: str
    name: dict[str, Any]  # what was measured, such as `arch` and `option`
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __str__(self) -> str:
        figures = ', '.join(f'{key} {_short(value)}' for key, value in self.result.items() if value not in (None, []))
        return f'{self.part}: {", ".join(map(str, self.name.values()))}: {self.error or figures}'


class Report:
    """The rows so far, in ``gpu.json`` and ``gpu.md`` of a folder; ``about`` has device, versions and date."""

    def __init__(self, out: Path, about: dict[str, Any], sizes: Sizes) -> None:
        self._out, self._about, self._sizes = out, about, sizes
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Adds a row and writes both files."""
        self.rows.append(row)
        text = json.dumps({'about': self._about, 'rows': [asdict(row) for row in self.rows]}, indent=1)
        for name, content in (('gpu.json', text), ('gpu.md', markdown(self._about, self.rows, self._sizes))):
            with whole_file(self._out / name) as file:
                file.write(f'{content}\n'.encode())

    def figures(self, part: str, figure: str) -> dict[tuple[Any, ...], float]:
        """One figure of all rows of a part, by their names."""
        return {tuple(r.name.values()): r.result[figure] for r in self.rows if r.part == part and figure in r.result}


def markdown(about: dict[str, Any], rows: Sequence[Row], sizes: Sizes) -> str:
    """All rows as tables, then the errors, then what the log said."""
    lines = [', '.join(f'{key} {value}' for key, value in about.items()) + '.']
    for part in dict.fromkeys(row.part for row in rows):
        lines += ['', *_tables(part, [row for row in rows if row.part == part], sizes)]
    errors = [str(row) for row in rows if row.error not in (None, NO_TIME)]
    heard = dict.fromkeys(note for row in rows for note in row.result.get('notes', ()))
    for title, found in (('Errors:', errors), ('The log says:', heard)):
        lines += ['', title, '', *(f'- {line}' for line in found)] if found else []
    return '\n'.join(lines)


def _tables(part: str, rows: Sequence[Row], sizes: Sizes) -> list[str]:
    if part == 'options':
        title = "The gradient against eager float32's, the largest difference of a part of the network:"
        return [title, '', *_pivot(rows, 'option', 'arch', _passes)]
    if part != 'steps':  # a column for each name and figure
        figures = list(dict.fromkeys(key for row in rows for key in row.result))
        cells = ([*map(str, row.name.values()), *(_short(row.result.get(key)) for key in figures)] for row in rows)
        return _table((*rows[0].name, *figures), cells)
    ms = {(r.name['option'], r.name['shape']): r.result['ms'] for r in rows if r.error is None}

    def time(row: Row | None) -> str:
        if row is None or row.error is not None:
            return '-'
        stock, graph = ms.get((STOCK, row.name['shape'])), row.result['graph']
        ratio = f' ({stock / row.result["ms"]:.2f}x)' if stock is not None and row.name['option'] != STOCK else ''
        return f'{row.result["ms"]:.1f}{ratio}{f" {graph}" if graph else ""}'

    lines = ['ms an iteration, and how many times faster than stock at the same shape:', '']
    lines += [*_pivot(rows, 'shape', 'option', time), '', 'GiB at the peak:', '']
    lines += _pivot(rows, 'shape', 'option', lambda row: _short(row and row.result.get('peak_gib')))
    return [*lines, '', *targets(ms, sizes)]


def _passes(row: Row | None) -> str:
    if row is None or row.error == NO_TIME:
        return '-'
    return f'{row.result["verdict"]}, {row.result["difference"]:.1g}' if row.error is None else 'error'


def targets(ms: dict[tuple[str, str], float], sizes: Sizes) -> list[str]:
    """A table of the aims and the best option's figure, from milliseconds an iteration by option and shape."""
    small, full = map(str, sizes.shapes[:2])
    large = str(next(s for s in sizes.shapes[1:] if s.num_frame == sizes.shapes[0].num_frame))
    ours = [option for option in dict.fromkeys(option for option, _ in ms) if option != STOCK]
    pairs: dict[str, Any] = {
        'small shape against stock, same batch': [((STOCK, small), (o, small)) for o in ours],
        'LQ 32 against LQ 64, same frames and batch': [((o, small), (o, large)) for o in ours],
        'full shape against stock': [((STOCK, full), (o, full)) for o in ours],
    }
    rows = []
    for what, aim, best, unit in zip(
        pairs, ('at least 2.5x', 'at most 0.35', 'at least 1.5x'), (max, min, max), ('x', '', 'x')
    ):
        found = [ms[one] / ms[other] for one, other in pairs[what] if one in ms and other in ms]
        rows.append((what, aim, f'{best(found):.2f}{unit}' if found else '-'))
    return _table(('the best option', 'aimed at', 'found'), rows)


def _pivot(rows: Sequence[Row], down: str, across: str, cell: Callable[[Row | None], str]) -> list[str]:
    lines, columns = (list(dict.fromkeys(row.name[key] for row in rows)) for key in (down, across))
    found = {(row.name[down], row.name[across]): row for row in rows}
    head = 'batch x frames x gt' if down == 'shape' else down
    return _table(
        (head, *columns), ([line, *(cell(found.get((line, column))) for column in columns)] for line in lines)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(cells)} |' for cells in (header, ['---'] * len(header), *rows)]


def _short(value: Any) -> str:
    return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)
