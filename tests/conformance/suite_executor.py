"""CPython's test suite of concurrent.futures, as it is: the tests of process pools."""

import importlib
import pkgutil
import unittest

import test.test_concurrent_futures as suite
from test.support import script_helper

# Interpreters that tests start find broody by an environment variable, and so must not be isolated from it. The helper asks itself once whether that is so.
setattr(script_helper, "__cached_interp_requires_environment", True)


def names():
    # A package since 3.12.1, one module before.
    if not hasattr(suite, "__path__"):
        return [suite.__name__]
    found = pkgutil.iter_modules(suite.__path__, f"{suite.__name__}.")
    return [module.name for module in found if module.name.rpartition(".")[2].startswith("test_")]


def load_tests(loader, standard, pattern):
    return unittest.TestSuite(loader.loadTestsFromModule(importlib.import_module(name)) for name in names())
