"""Runs Python commands in forks of a process that has imported the libraries: each saves the seconds that this takes.

BasicSR and this project are imported by each fork anew, as by a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    'torch torch.distributed torch.utils.data torch.utils.tensorboard torchvision.transforms.functional torchvision.ops '
    'torchvision.models torchvision.utils scipy.ndimage scipy.linalg scipy.special scipy.stats cv2 av lmdb yaml PIL.Image '
    'tqdm jinja2 isal.isal_zlib requests'
).split()
# What a library reads when it is imported.
READ_AT_IMPORT = ('PYTHON', 'OMP', 'MKL', 'ONEDNN', 'TORCH', 'CUDA', 'ATEN', 'CUBLAS', 'LD_')

_LENGTH = 12  # characters of a number on the socket


class ForkServer:
    """A process that waits for commands. Started with the first one; ended with this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    @staticmethod
    def takes(command: Sequence[str], environment: dict[str, str]) -> bool:
        """Whether a fork does what the command would do: it runs this Python, and no library needs another environment."""
        is_python = command[0] == sys.executable and not (command[1].startswith('-') and command[1] not in ('-m', '-c'))
        return is_python and not any(name.startswith(READ_AT_IMPORT) for name in environment)

    def run(
        self, command: Sequence[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command that :meth:`takes` allows, as ``subprocess.run`` does, stdout and stderr together.

        Raises:
            subprocess.TimeoutExpired: If it takes longer; it is killed.
        """
        with tempfile.TemporaryFile('w+') as output:
            request = json.dumps({'arguments': command[1:], 'cwd': str(cwd), 'env': env})
            socket.send_fds(self._socket, [f'{len(request.encode()):<{_LENGTH}}{request}'.encode()], [output.fileno()])
            pid = self._number()
            self._socket.settimeout(timeout)
            try:
                status = self._number()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(None)
                self._number()
                raise subprocess.TimeoutExpired(list(command), timeout) from None
            self._socket.settimeout(None)
            output.seek(0)
            return subprocess.CompletedProcess(list(command), status, output.read())

    def _number(self) -> int:
        return int(self._socket.recv(_LENGTH, socket.MSG_WAITALL))


def _serve(connection: socket.socket) -> list[str]:
    """Forks for each request; returns the arguments of the command in the fork."""
    while True:
        head, fds, _, _ = socket.recv_fds(connection, _LENGTH, 1)
        if not head:
            os._exit(0)
        request = json.loads(connection.recv(int(head), socket.MSG_WAITALL))
        pid = os.fork()
        if pid == 0:
            connection.close()
            for stream in (1, 2):
                os.dup2(fds[0], stream)
            os.close(fds[0])
            os.chdir(request['cwd'])
            os.environ.clear()
            os.environ.update(request['env'])
            return request['arguments']
        os.close(fds[0])
        connection.sendall(f'{pid:<{_LENGTH}}'.encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f'{status:<{_LENGTH}}'.encode())


def _execute(arguments: list[str]) -> None:
    """What ``python ARGUMENTS`` does: ``-m``, ``-c`` or a script."""
    if arguments[0] == '-m':
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
    elif arguments[0] == '-c':
        sys.argv, sys.path[0] = ['-c', *arguments[2:]], ''
        sys.modules['__main__'] = main = types.ModuleType('__main__')
        exec(compile(arguments[1], '<string>', 'exec'), vars(main))
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name='__main__')


if __name__ == '__main__':
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    _execute(_serve(socket.socket(fileno=int(sys.argv[1]))))
