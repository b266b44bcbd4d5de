"""CUDA graphs without a GPU: what torch.cuda is asked for, done on the CPU with the same rules."""

from __future__ import annotations

import contextlib
import copy
import random
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from multigrid_vsr.models import cuda_graph
from multigrid_vsr.models.preflight import is_out_of_memory


class StandInGraph(TorchDispatchMode):
    """As ``torch.cuda.CUDAGraph``: records the operations of a block, and replays them on the tensors they were about.

    As there, nothing is computed while it records: what the block has written is spoilt, and what it has changed of
    tensors from outside is undone.
    """

    def __init__(self, host: StandIn) -> None:
        super().__init__()
        self._host = host
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._outside: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by address of its storage
        self._inside: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == '_local_scalar_dense':
            raise RuntimeError('operation not permitted when stream is capturing')
        if func.overloadpacket.__name__ == 'convolution_backward' and self._host.fails is not None:
            raise copy.copy(self._host.fails)
        for tensor in _tensors((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place not in self._inside and place not in self._outside:
                self._outside[place] = (tensor.detach(), tensor.detach().clone())
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            if tensor.untyped_storage().data_ptr() not in given:
                self._inside[tensor.untyped_storage().data_ptr()] = tensor
        self._calls.append((func, *tree_map(_detached, (args, kwargs or {}, out))))
        return out

    def spoil(self) -> None:
        for tensor, value in self._outside.values():
            tensor.copy_(value)
        for tensor in self._inside.values():
            if tensor.is_floating_point():
                tensor.fill_(float('nan'))

    @torch.no_grad()
    def replay(self) -> None:
        assert self._calls, 'it was reset'
        self._host.log.append('replay')
        for func, args, kwargs, out in self._calls:
            given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
            for static, new in zip(_tensors(out), _tensors(func(*args, **kwargs))):
                if static.untyped_storage().data_ptr() not in given:
                    static.copy_(new)

    def reset(self) -> None:
        self._host.log.append('drop')
        self._calls.clear()


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


class _Waits(TorchDispatchMode):
    """Raises at what waits for the device, as ``set_sync_debug_mode('error')`` lets torch do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == '_local_scalar_dense':
            raise RuntimeError('called a synchronizing CUDA operation')
        return func(*args, **(kwargs or {}))


class StandIn:
    """Replaces the parts of ``torch.cuda`` that a graph needs.

    Attributes:
        log: What was asked for, in order.
        fails: What each capture raises in its backward.
        fails_at_end: What the end of each capture raises.
        stream: The current one.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.log: list[str] = []
        self.fails: RuntimeError | None = None
        self.fails_at_end: RuntimeError | None = None
        self.stream = _Stream()
        self._newest: Any = lambda: None  # the last graph, while somebody holds it
        self._is_capturing = False  # as torch's allocator believes
        self._waits: _Waits | None = None
        monkeypatch.setattr(cuda_graph, 'is_on_gpu', lambda model: True)
        # Here the device draws from the CPU's own generator.
        monkeypatch.setattr(cuda_graph, '_host_random_state', random.getstate)
        monkeypatch.setattr(torch.cuda, 'Stream', _Stream)
        monkeypatch.setattr(torch.cuda, 'current_stream', lambda *_: self.stream)
        monkeypatch.setattr(torch.cuda, 'set_stream', lambda stream: setattr(self, 'stream', stream))
        monkeypatch.setattr(torch.cuda, 'stream', self._on_stream)
        monkeypatch.setattr(torch.cuda, 'CUDAGraph', self._new_graph)
        monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, 'graph', self._graph)
        monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
        monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', self._set_mode)
        monkeypatch.setattr(torch.cuda, 'empty_cache', self._empty_cache)

    def _new_graph(self) -> StandInGraph:
        graph = StandInGraph(self)
        self._newest = weakref.ref(graph)
        return graph

    def _empty_cache(self) -> None:
        if self._is_capturing:
            raise RuntimeError('captures_underway.empty() INTERNAL ASSERT FAILED')
        assert self._newest() is None, 'somebody holds the memory of the graph'
        self.log.append('empty')

    @contextlib.contextmanager
    def _on_stream(self, stream: _Stream) -> Any:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def _set_mode(self, mode: int | str) -> None:
        if mode == 'error':
            self.log.append('tried')
            self._waits = _Waits()
            self._waits.__enter__()
        elif self._waits is not None:
            self._waits.__exit__(None, None, None)
            self._waits = None

    @contextlib.contextmanager
    def _graph(self, graph: StandInGraph, pool: Any, stream: _Stream, capture_error_mode: str) -> Any:
        """As the installed one: where the end of the capture fails, the stream stays the current one."""
        assert capture_error_mode == 'thread_local'
        assert pool == (0, 1)
        state = torch.get_rng_state()  # nothing is drawn while it captures
        before, self.stream, self._is_capturing = self.stream, stream, True
        try:
            with graph:
                yield
        finally:
            with torch.no_grad():
                graph.spoil()
            torch.set_rng_state(state)
            self._is_capturing = self.fails_at_end is not None and not is_out_of_memory(self.fails_at_end)
            if self.fails_at_end is not None:
                raise copy.copy(self.fails_at_end)
            self.stream = before
        self.log.append('capture')


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass
