from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, Generic, Literal, TypedDict, TypeVar

from typing_extensions import Self, Unpack

from .context import BaseContext

_S = TypeVar("_S")
_T = TypeVar("_T")
_R = TypeVar("_R")

INIT: str
RUN: str
CLOSE: str
TERMINATE: str

def should_stop() -> bool: ...

class _Terms(TypedDict, total=False):
    timeout: float | None
    soft_timeout: float | None
    retries: int | None
    retry_errors: bool | None
    backoff: float | None
    memory_limit: int | None
    cost: float | None
    priority: int | None

class _Settings(_Terms, total=False):
    maxmemoryperchild: int | None
    policy: Literal["fcfs", "sjf", "round_robin", "mlfq"] | None
    idle_timeout: float | None
    start_timeout: float | None
    name: str | None
    nice: int | None
    pin_cpus: bool | None
    forward_logs: bool

class RemoteTraceback(Exception):
    tb: str
    def __init__(self, tb: str) -> None: ...

class MaybeEncodingError(Exception):
    exc: str
    value: str
    def __init__(self, exc: object, value: object) -> None: ...

class AsyncResult(Generic[_T]):
    def ready(self) -> bool: ...
    def successful(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> None: ...
    def get(self, timeout: float | None = None) -> _T: ...
    def cancel(self) -> bool: ...
    def __await__(self) -> Generator[Any, None, _T]: ...

ApplyResult = AsyncResult

class MapResult(AsyncResult[list[_T]]): ...

class IMapIterator(Generic[_T], Iterator[_T], AsyncIterator[_T]):
    def __iter__(self) -> Self: ...
    def next(self, timeout: float | None = None) -> _T: ...
    def __next__(self, timeout: float | None = None) -> _T: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> _T: ...

class IMapUnorderedIterator(IMapIterator[_T]): ...

class Pool:
    def __init__(
        self,
        processes: int | tuple[int, int] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        max_queue: int | None = None,
        **settings: Unpack[_Settings],
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None: ...
    def apply(self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> _T: ...
    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **terms: Unpack[_Terms],
    ) -> AsyncResult[_T]: ...
    def map(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        *,
        progress: bool | str = False,
        **terms: Unpack[_Terms],
    ) -> list[_T]: ...
    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **terms: Unpack[_Terms],
    ) -> MapResult[_T]: ...
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool | str = False,
        **terms: Unpack[_Terms],
    ) -> list[_T]: ...
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **terms: Unpack[_Terms],
    ) -> MapResult[_T]: ...
    def imap(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        progress: bool | str = False,
        **terms: Unpack[_Terms],
    ) -> IMapIterator[_T]: ...
    def imap_unordered(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        progress: bool | str = False,
        **terms: Unpack[_Terms],
    ) -> IMapIterator[_T]: ...
    def close(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def trace(self, path: str | PathLike[str]) -> Trace: ...

class Trace:
    def write(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...

class ThreadPool(Pool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None: ...
