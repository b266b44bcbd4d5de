"""The figures of ``benchmarks.gpu`` as a JSON file and a page of tables, each written whole after every row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_plan import STOCK, Sizes
from multigrid_vsr.core.whole_file import whole_file

NO_TIME = 'no time left'
_TARGETS = (
    'small shape against stock, same batch',
    'LQ 32 against LQ 64, same frames and batch',
    'full shape against stock',
)


@dataclass(frozen=True)
class Row:
    """One figure, or why there is none.

    Attributes:
        part: What it belongs to.
        name: What was measured, such as ``arch`` and ``option``.
        result: The figures.
        error: One line.
    """

    part: str
    name: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __str__(self) -> str:
        figures = ', '.join(f'{key} {_short(value)}' for key, value in self.result.items() if value not in (None, []))
        return f'{self.part}: {", ".join(map(str, self.name.values()))}: {self.error or figures}'


class Report:
    """The rows so far, on disk.

    Args:
        out: Folder of ``gpu.json`` and ``gpu.md``.
        about: Device, versions and date.
        sizes: What is tried.
    """

    def __init__(self, out: Path, about: dict[str, Any], sizes: Sizes) -> None:
        self._out, self._about, self._sizes = out, about, sizes
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Takes a row down, and writes both files."""
        self.rows.append(row)
        text = json.dumps({'about': self._about, 'rows': [asdict(row) for row in self.rows]}, indent=1)
        for name, content in (('gpu.json', text), ('gpu.md', markdown(self._about, self.rows, self._sizes))):
            with whole_file(self._out / name) as file:
                file.write(f'{content}\n'.encode())

    def figures(self, part: str, figure: str) -> dict[tuple[Any, ...], float]:
        """One figure of all rows of a part, by their names."""
        return {tuple(r.name.values()): r.result[figure] for r in self.rows if r.part == part and figure in r.result}


def markdown(about: dict[str, Any], rows: Sequence[Row], sizes: Sizes) -> str:
    """All rows as tables, those without figures with their reason below."""
    parts = {part: [row for row in rows if row.part == part] for part in dict.fromkeys(row.part for row in rows)}
    lines = [', '.join(f'{key} {value}' for key, value in about.items()) + '.']
    for part, found in parts.items():
        lines += ['', *_TABLES.get(part, _plain)(found, sizes)]
    errors = [str(row) for row in rows if row.error not in (None, NO_TIME)]
    lines += ['', 'Errors:', '', *(f'- {error}' for error in errors)] if errors else []
    heard = dict.fromkeys(note for row in rows for note in row.result.get('notes', ()))
    lines += ['', 'The log says:', '', *(f'- {note}' for note in heard)] if heard else []
    return '\n'.join(lines)


def _options(rows: Sequence[Row], sizes: Sizes) -> list[str]:
    archs, names = (list(dict.fromkeys(row.name[key] for row in rows)) for key in ('arch', 'option'))
    cells = {(row.name['arch'], row.name['option']): row for row in rows}
    table = _table(
        ('option', *archs), ([name, *(_passes(cells.get((arch, name))) for arch in archs)] for name in names)
    )
    return ["The gradient against eager float32's, the largest difference of a part of the network:", '', *table]


def _passes(row: Row | None) -> str:
    if row is None or row.error == NO_TIME:
        return '-'
    return f'{row.result["verdict"]}, {row.result["difference"]:.1g}' if row.error is None else 'error'


def _steps(rows: Sequence[Row], sizes: Sizes) -> list[str]:
    columns, shapes = (list(dict.fromkeys(row.name[key] for row in rows)) for key in ('option', 'shape'))
    found = {(row.name['option'], row.name['shape']): row.result for row in rows if row.error is None}
    ms = {name: result['ms'] for name, result in found.items()}
    peaks = {name: result['peak_gib'] for name, result in found.items()}
    lines = ['ms an iteration, and how many times faster than stock at the same shape:', '']
    lines += _table(
        ('batch x frames x gt', *columns),
        ([shape, *(_times(found, column, shape) for column in columns)] for shape in shapes),
    )
    lines += ['', 'GiB at the peak:', '']
    lines += _table(
        ('batch x frames x gt', *columns),
        ([shape, *(_short(peaks.get((column, shape))) for column in columns)] for shape in shapes),
    )
    return [*lines, '', *targets(ms, sizes)]


def _times(found: dict[tuple[str, str], dict[str, Any]], column: str, shape: str) -> str:
    if (column, shape) not in found:
        return '-'
    ms, graph, stock = found[column, shape]['ms'], found[column, shape]['graph'], found.get((STOCK, shape))
    ratio = f' ({stock["ms"] / ms:.2f}x)' if stock is not None and column != STOCK else ''
    return f'{ms:.1f}{ratio}{f" {graph}" if graph else ""}'


def targets(ms: dict[tuple[str, str], float], sizes: Sizes) -> list[str]:
    """What was aimed at: 2.5 and 1.5 times stock's rate, and 0.35 of the time; the best option of each.

    Args:
        ms: Milliseconds of an iteration by option and shape.
        sizes: Its first shape is the small one, the one of as many frames behind it the large one.
    """
    small, full = str(sizes.shapes[0]), str(sizes.full)
    large = str(next(s for s in sizes.shapes[1:] if s.num_frame == sizes.shapes[0].num_frame))
    ours = [option for option, _ in ms if option != STOCK]
    found: list[tuple[str, str, list[float]]] = [
        (_TARGETS[0], 'at least 2.5x', [ms[STOCK, small] / ms[o, small] for o in ours if _has(ms, o, small)]),
        (_TARGETS[2], 'at least 1.5x', [ms[STOCK, full] / ms[o, full] for o in ours if _has(ms, o, full)]),
    ]
    shares = [ms[o, small] / ms[o, large] for o in ours if (o, small) in ms and (o, large) in ms]
    lines = [(what, aim, f'{max(values):.2f}x' if values else '-') for what, aim, values in found]
    lines.insert(1, (_TARGETS[1], 'at most 0.35', f'{min(shares):.2f}' if shares else '-'))
    return _table(('the best option', 'aimed at', 'found'), lines)


def _has(ms: dict[tuple[str, str], float], option: str, shape: str) -> bool:
    return (STOCK, shape) in ms and (option, shape) in ms


def _plain(rows: Sequence[Row], sizes: Sizes) -> list[str]:
    """A column for each name and figure."""
    figures = list(dict.fromkeys(key for row in rows for key in row.result))
    cells = (
        [*map(str, row.name.values()), *(_short(row.result[key]) if key in row.result else '-' for key in figures)]
        for row in rows
    )
    return _table((*rows[0].name, *figures), cells)


_TABLES = {'options': _options, 'steps': _steps}


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(cells)} |' for cells in (header, ['---'] * len(header), *rows)]


def _short(value: Any) -> str:
    return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)
