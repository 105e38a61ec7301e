"""In each interpreter of a run: broody's executor in the place of the standard's, as soon as somebody imports that."""

import importlib.util
import sys

NAME = "concurrent.futures.process"


class Finder:
    """Lets the module be found as always, and changes one name in it."""

    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            import broody.futures

            module.ProcessPoolExecutor = broody.futures.ProcessPoolExecutor

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
