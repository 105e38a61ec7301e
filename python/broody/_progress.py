"""How far a map is, on the terminal: by tqdm, if it is installed, otherwise on a line. Nothing where there is no terminal."""

import operator
import sys

__all__ = []


class Bar:
    """Shows how many of `total` are done; None if that is not known. `progress` is True, or what it is called."""

    def __init__(self, progress, total):
        self._name = progress if isinstance(progress, str) else None
        self._total = total
        self._done = 0
        self._bar = self._line = None
        is_notebook = "ipykernel" in sys.modules
        try:
            if is_notebook:
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm
        except ImportError:
            self._line = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
        else:
            # None: not where there is no terminal.
            self._bar = tqdm(total=total, desc=self._name, disable=False if is_notebook else None)

    def show(self, done):
        """So many are done. Nothing, once it is closed: a map that was interrupted goes on for a moment."""
        more, self._done = done - self._done, done
        if self._bar is not None:
            self._bar.update(more)
        elif self._line is not None:
            name = f"{self._name}: " if self._name else ""
            of = f" of {self._total}" if self._total is not None else ""
            self._line.write(f"\r{name}{done}{of}")
            self._line.flush()

    def add(self):
        """One more is done."""
        self.show(self._done + 1)

    def close(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._line is not None:
            self._line.write("\n")
            self._line = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def shown(iterator, progress, items):
    """The same iterator, which shows how far it is."""
    kind = type(iterator)
    total = operator.length_hint(items, -1)
    iterator.__class__ = _shown_kinds.get(kind) or _shown_kinds.setdefault(kind, _shown_kind(kind))
    iterator._bar = Bar(progress, total if total >= 0 else None)
    return iterator


_shown_kinds = {}


def _shown_kind(kind):
    class Shown(kind):
        def next(self, timeout=None):
            try:
                result = super().next(timeout)
            except StopIteration:
                self._bar.close()
                raise
            self._bar.add()
            return result

        __next__ = next

        async def __anext__(self):
            try:
                result = await super().__anext__()
            except StopAsyncIteration:
                self._bar.close()
                raise
            self._bar.add()
            return result

    Shown.__name__ = Shown.__qualname__ = kind.__name__
    return Shown
