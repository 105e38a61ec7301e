"""CPython's test suite of multiprocessing, as it is, for the start method spawn."""

from test import _test_multiprocessing

_test_multiprocessing.install_tests_in_module_dict(globals(), "spawn")
