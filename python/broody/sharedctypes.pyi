from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ctypes import Array as _CArray
from ctypes import Structure as _Structure
from ctypes import _SimpleCData
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Sequence, TypeVar, overload

from .context import BaseContext

__all__ = ["RawValue", "RawArray", "Value", "Array", "copy", "synchronized"]

_T = TypeVar("_T")

class _AcquireFunc(Protocol):
    def __call__(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...

class _Lock(Protocol):
    @property
    def acquire(self) -> Callable[..., bool]: ...
    @property
    def release(self) -> Callable[..., None]: ...

@overload
def RawValue(typecode_or_type: type[_T], *args: Any) -> _T: ...
@overload
def RawValue(typecode_or_type: str, *args: Any) -> Any: ...
@overload
def RawArray(typecode_or_type: type[_SimpleCData[_T]], size_or_initializer: int | Sequence[Any]) -> _CArray[Any]: ...
@overload
def RawArray(typecode_or_type: str | type[Any], size_or_initializer: int | Sequence[Any]) -> Any: ...
@overload
def Value(typecode_or_type: type[_T], *args: Any, lock: Literal[False], ctx: BaseContext | None = None) -> _T: ...
@overload
def Value(
    typecode_or_type: type[_SimpleCData[_T]], *args: Any, lock: Literal[True] | _Lock | None = True, ctx: BaseContext | None = None
) -> Synchronized[_T]: ...
@overload
def Value(
    typecode_or_type: str | type[Any], *args: Any, lock: bool | _Lock | None = True, ctx: BaseContext | None = None
) -> Any: ...
@overload
def Array(
    typecode_or_type: type[_SimpleCData[_T]],
    size_or_initializer: int | Sequence[Any],
    *,
    lock: Literal[True] | _Lock | None = True,
    ctx: BaseContext | None = None,
) -> SynchronizedArray[_T]: ...
@overload
def Array(
    typecode_or_type: str | type[Any],
    size_or_initializer: int | Sequence[Any],
    *,
    lock: bool | _Lock | None = True,
    ctx: BaseContext | None = None,
) -> Any: ...
def copy(obj: _T) -> _T: ...
def synchronized(obj: _SimpleCData[_T] | _CArray[Any] | _Structure, lock: _Lock | None = None, ctx: BaseContext | None = None) -> Any: ...
def make_property(name: str) -> Any: ...
def rebuild_ctype(kind: Any, wrapper: Any, length: int | None) -> Any: ...

class SynchronizedBase(AbstractContextManager[bool, None], Generic[_T]):
    acquire: _AcquireFunc
    release: Callable[[], None]
    def __init__(self, obj: Any, lock: _Lock | None = None, ctx: BaseContext | None = None) -> None: ...
    def get_obj(self) -> Any: ...
    def get_lock(self) -> Any: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None, /
    ) -> None: ...

class Synchronized(SynchronizedBase[_T]):
    value: _T

class SynchronizedArray(SynchronizedBase[_T]):
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> list[_T]: ...
    @overload
    def __setitem__(self, index: int, item: _T) -> None: ...
    @overload
    def __setitem__(self, index: slice, item: Sequence[_T]) -> None: ...
    def __iter__(self) -> Iterator[_T]: ...

class SynchronizedString(SynchronizedArray[bytes]):
    value: bytes
    raw: bytes
