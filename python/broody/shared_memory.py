"""Shared memory with a name, and lists in it.

The memory is a file in /dev/shm that is allocated as a whole when it is made: where there is no room, that is an OSError, and no access ends a process later.
Its name goes with the program that made it, however that ends, unless `track` is false. Other programs that open it do not change that.

Behaviour: https://docs.python.org/3/library/multiprocessing.shared_memory.html
"""

import os
import secrets
import struct
import types

from . import _broody, _runtime

__all__ = ["SharedMemory", "ShareableList"]

_USE_POSIX = True
_O_CREX = os.O_CREAT | os.O_EXCL

# Names of this length are allowed everywhere; those of two random blocks differ, most likely.
_SHM_SAFE_NAME_LENGTH = 14
_SHM_NAME_PREFIX = "/psm_"


def _make_filename():
    """A random name."""
    return _SHM_NAME_PREFIX + secrets.token_hex((_SHM_SAFE_NAME_LENGTH - len(_SHM_NAME_PREFIX)) // 2)


# The blocks that this process has made the program's, as far as others have not removed them: (pid, number) by name. The youngest, since it is not told.
_made = {}
_MOST_MADE = 4096


def _forget(name):
    """The block of this name, if this process made it, shall outlive the program."""
    pid, number = _made.pop(name, (None, None))
    if pid == os.getpid():
        _broody.forget_name(name, number)


class SharedMemory:
    """A block of shared memory.

    With `create` a new one of `size` bytes, all zero, called `name` or by a random name; FileExistsError if there is one. Without, an existing one. `close` lets
    go of it in this process, `unlink` removes the name.
    """

    _name = None
    _fd = -1
    _mmap = None
    _buf = None
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = True

    def __init__(self, name=None, create=False, size=0, *, track=True):
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if name is not None:
            self._name = "/" + name
            self._mmap = self._open(size)
        else:
            while self._mmap is None:
                self._name = _make_filename()
                try:
                    self._mmap = self._open(size)
                except FileExistsError:
                    pass
        self._fd = self._mmap.fileno()
        self._size = self._mmap.size()
        self._buf = memoryview(self._mmap)

    def _open(self, size):
        path = _file_name(self._name)
        if not self._flags & os.O_EXCL:
            try:
                return _broody.NamedMemory.open(path)
            except FileNotFoundError as error:
                if not self._flags & os.O_CREAT:
                    raise FileNotFoundError(error.errno, os.strerror(error.errno), self._name) from None
        if self._track:
            _runtime.prepare()
        memory = _broody.NamedMemory.create(path, size, bool(self._track))
        if self._mode != SharedMemory._mode:
            os.fchmod(memory.fileno(), self._mode)
        if self._track:
            if len(_made) >= _MOST_MADE:
                del _made[next(iter(_made))]
            _made[path] = os.getpid(), memory.number
        return memory

    def __reduce__(self):
        return self.__class__, (self.name, False, self.size)

    def __repr__(self):
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self):
        """The bytes, as a memoryview; None after `close`."""
        return self._buf

    @property
    def name(self):
        """The name."""
        return self._name[1:] if self._prepend_leading_slash and self._name.startswith("/") else self._name

    @property
    def size(self):
        """How many bytes there are."""
        return self._size

    def close(self):
        """Lets go of the block in this process. Nothing is lost as long as the name is there.

        BufferError as long as something else uses `buf`: a slice of it, an array.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mmap is not None:
            self._mmap.close()
            self._mmap = None
        self._fd = -1

    def unlink(self):
        """Removes the name: nobody can open the block any more. Its memory is freed with its last user."""
        if self._name:
            path = _file_name(self._name)
            _broody.remove_name(path)
            _made.pop(path, None)


def _file_name(name):
    # As shm_open(3) has it.
    return name.lstrip("/")


class ShareableList:
    """A list of a fixed length in shared memory: of int, float, bool, None, and of str and bytes that do not grow beyond their place.

    ```text
    length                 8 bytes, as all numbers here
    where each item ends   the first number is 0
    the items              each in a multiple of 8 bytes
    how each is packed     8 bytes of text, for `struct`
    what each was          a byte: 0 as it is, 1 str, 2 bytes, 3 None
    ```
    """

    _types_mapping = {int: "q", float: "d", bool: "xxxxxxx?", str: "%ds", bytes: "%ds", type(None): "xxxxxx?x"}
    _alignment = 8
    _back_transforms_mapping = {
        0: lambda value: value,
        1: lambda value: value.rstrip(b"\x00").decode(_encoding),
        2: lambda value: value.rstrip(b"\x00"),
        3: lambda _value: None,
    }

    def __init__(self, sequence=None, *, name=None):
        if name is None or sequence is not None:
            self._make(() if sequence is None else tuple(sequence), name)
        else:
            self.shm = SharedMemory(name)
            self._list_len = struct.unpack_from("q", self.shm.buf, 0)[0]
            self._offsets = list(struct.unpack_from(f"{self._list_len + 1}q", self.shm.buf, self._alignment))

    def _make(self, items, name):
        formats = [self._format_of(item) for item in items]
        ends = [0]
        for fmt in formats:
            # An empty text still has a place.
            ends.append(ends[-1] + (self._alignment if fmt[-1] != "s" else int(fmt[:-1])))
        self._list_len, self._offsets = len(items), ends
        # What cannot be packed is told before there is anything.
        packed = [struct.pack(fmt, _as_packed(item)) for fmt, item in zip(formats, items)]
        packing = [fmt.encode(_encoding) for fmt in formats]
        codes = bytes(self._extract_recreation_code(item) for item in items)
        content = b"".join(
            (struct.pack(f"{1 + len(ends)}q", len(items), *ends), *packed, struct.pack("8s" * len(items), *packing), codes)
        )
        self.shm = SharedMemory(name, create=True, size=len(content))
        self.shm.buf[: len(content)] = content

    def _format_of(self, item):
        if isinstance(item, (str, bytes)):
            # As the standard module has it, by characters; where it would cut off what is longer in bytes, by these.
            by_characters = self._alignment * (len(item) // self._alignment + 1)
            by_bytes = -(-len(_as_packed(item)) // self._alignment) * self._alignment
            return self._types_mapping[str] % max(by_characters, by_bytes)
        return self._types_mapping[type(item)]

    @staticmethod
    def _extract_recreation_code(value):
        if isinstance(value, str):
            return 1
        if isinstance(value, bytes):
            return 2
        return 3 if value is None else 0

    def _position(self, position):
        index = position + self._list_len if position < 0 else position
        if not 0 <= index < self._list_len:
            raise IndexError("index out of range")
        return index

    def _get_packing_format(self, position):
        """How the item is packed, for `struct`."""
        at = self._offset_packing_formats + 8 * self._position(position)
        return struct.unpack_from("8s", self.shm.buf, at)[0].rstrip(b"\x00").decode(_encoding)

    def _get_back_transform(self, position):
        """What makes the item of what `struct` gives."""
        at = self._offset_back_transform_codes + self._position(position)
        return self._back_transforms_mapping[self.shm.buf[at]]

    def _set_packing_format_and_transform(self, position, fmt_as_str, value):
        index = self._position(position)
        struct.pack_into("8s", self.shm.buf, self._offset_packing_formats + 8 * index, fmt_as_str.encode(_encoding))
        self.shm.buf[self._offset_back_transform_codes + index] = self._extract_recreation_code(value)

    def __getitem__(self, position):
        index = self._position(position)
        at = self._offset_data_start + self._offsets[index]
        (value,) = struct.unpack_from(self._get_packing_format(index), self.shm.buf, at)
        return self._get_back_transform(index)(value)

    def __setitem__(self, position, value):
        try:
            index = self._position(position)
        except IndexError:
            raise IndexError("assignment index out of range") from None
        packed = _as_packed(value)
        if isinstance(value, (str, bytes)):
            room = self._offsets[index + 1] - self._offsets[index]
            if len(packed) > room:
                raise ValueError("bytes/str item exceeds available storage")
            fmt = self._get_packing_format(index)
            if fmt[-1] != "s":
                fmt = self._types_mapping[str] % room
        else:
            fmt = self._types_mapping[type(value)]
        # What cannot be packed changes nothing.
        data = struct.pack(fmt, packed)
        at = self._offset_data_start + self._offsets[index]
        self.shm.buf[at : at + len(data)] = data
        self._set_packing_format_and_transform(index, fmt, value)

    def __reduce__(self):
        from functools import partial

        return partial(self.__class__, name=self.shm.name), ()

    def __len__(self):
        return self._list_len

    def __repr__(self):
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self):
        """How the items are packed, for `struct`."""
        return "".join(self._get_packing_format(index) for index in range(self._list_len))

    @property
    def _format_size_metainfo(self):
        return "q" * (self._list_len + 1)

    @property
    def _format_packing_metainfo(self):
        return "8s" * self._list_len

    @property
    def _format_back_transform_codes(self):
        return "b" * self._list_len

    @property
    def _offset_data_start(self):
        return self._alignment * (self._list_len + 2)

    @property
    def _offset_packing_formats(self):
        return self._offset_data_start + self._offsets[-1]

    @property
    def _offset_back_transform_codes(self):
        return self._offset_packing_formats + 8 * self._list_len

    def count(self, value):
        """How many items equal `value`."""
        return sum(value == item for item in self)

    def index(self, value):
        """The position of the first item that equals `value`; ValueError if there is none."""
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} is not in this list")

    __class_getitem__ = classmethod(types.GenericAlias)


_encoding = "utf8"


def _as_packed(value):
    """What `struct` takes in the place of `value`."""
    return value.encode(_encoding) if isinstance(value, str) else value
