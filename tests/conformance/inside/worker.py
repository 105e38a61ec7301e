"""Runs tests of one suite and writes what becomes of each: a JSON line at its start, and one at its end."""

import json
import signal
import sys
import unittest


class Result(unittest.TestResult):
    def __init__(self, file):
        super().__init__()
        self.file = file

    def write(self, test, **what):
        # Subtests and class set-ups have ids of their own.
        name = test.id() if hasattr(test, "id") else str(test)
        self.file.write(json.dumps({"test": name, **what}) + "\n")
        self.file.flush()

    def startTest(self, test):
        super().startTest(test)
        self.write(test, event="start")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.write(test, event="end", outcome="passed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.write(test, event="end", outcome="failed", why=self.failures[-1][1])

    def addError(self, test, error):
        super().addError(test, error)
        self.write(test, event="end", outcome="failed", why=self.errors[-1][1])

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.write(test, event="end", outcome="failed", why=self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.write(test, event="end", outcome="skipped", why=reason)


def every_test(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from every_test(entry)
        else:
            yield entry


def main():
    # Shells have it ignored by what they run in the background; tests interrupt themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, names, results = sys.argv[1:4]
    with open(names) as file:
        wanted = set(file.read().split())
    loaded = unittest.defaultTestLoader.loadTestsFromName(module)
    tests = [test for test in every_test(loaded) if not wanted or test.id() in wanted]
    if results == "-":
        print("\n".join(test.id() for test in tests))
        return
    with open(results, "a") as file:
        unittest.TestSuite(tests).run(Result(file))


if __name__ == "__main__":
    main()
