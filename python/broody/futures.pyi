from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from concurrent.futures import Future as _Future
from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
from os import PathLike
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from typing_extensions import Unpack

from . import exceptions
from .pool import Trace, _Settings, _Terms

_P = ParamSpec("_P")
_A = TypeVar("_A")
_B = TypeVar("_B")
_T = TypeVar("_T")

class _Context(Protocol):
    def get_start_method(self) -> Any: ...

class WorkerLostError(exceptions.WorkerLostError, BrokenProcessPool): ...
class PoolBrokenError(exceptions.PoolBrokenError, BrokenProcessPool): ...
class PoolTerminatedError(exceptions.PoolTerminatedError, BrokenProcessPool): ...
class TransferError(exceptions.TransferError, BrokenProcessPool): ...

class Future(_Future[_T]):
    def terminate(self) -> bool: ...
    def __await__(self) -> Generator[Any, None, _T]: ...

class _Face(Executor):
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_A], _T],
        iterable: Iterable[_A],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[[_A, _B], _T],
        iterable: Iterable[_A],
        second: Iterable[_B],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., _T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    def options(self, *, cancel_running: bool | None = None, **terms: Unpack[_Terms]) -> _Face: ...

class ProcessPoolExecutor(_Face):
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: _Context | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        cancel_running: bool = False,
        **settings: Unpack[_Settings],
    ) -> None: ...
    def terminate_workers(self) -> None: ...
    def kill_workers(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def trace(self, path: str | PathLike[str]) -> Trace: ...
