"""Standing for `multiprocessing`, in this process and in those below it.

A finder, first on `sys.meta_path`, answers every import of `multiprocessing` and its submodules with the modules of broody. New interpreters find
the folder `path` on PYTHONPATH, before the standard library: the package `multiprocessing` there calls `install` and gives way to broody. So do
interpreters that the program starts by `subprocess`, unless they ignore the environment (`python -E` or `-I`).
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys

_NAME = "multiprocessing"
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "path")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name != _NAME and not name.startswith(_NAME + "."):
            return None
        ours = "broody" + name[len(_NAME) :]
        if importlib.util.find_spec(ours) is None:
            return None
        return importlib.util.spec_from_loader(name, self, origin=ours)

    def create_module(self, spec):
        module = importlib.import_module(spec.origin)
        # The import system writes its own name for it there.
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module):
        for name, spec in list(self._specs.items()):
            if sys.modules.get(spec.name) is module:
                module.__spec__ = self._specs.pop(name)

    _specs = {}


def install():
    """See `broody.install`."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        broody = sys.modules["broody"]
        for name in [_NAME, *(name for name in list(sys.modules) if name.startswith(_NAME + "."))]:
            sys.modules.pop(name, None)
        sys.modules[_NAME] = broody
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if _FOLDER not in known:
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        # broody's own folder goes last, for interpreters that do not have it on their path.
        more = [] if home in known else [home]
        os.environ["PYTHONPATH"] = os.pathsep.join([_FOLDER, *filter(None, known), *more])
