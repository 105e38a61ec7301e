"""Counts the words of all text files below a folder: an ordinary program of multiprocessing, which knows nothing of broody.

    python wordfreq.py [FOLDER]
    python -m broody wordfreq.py [FOLDER]
"""

import collections
import multiprocessing
import os
import re
import sys

WORD = re.compile(r"[a-z]{2,}")


def count(path):
    try:
        with open(path, encoding="utf-8") as file:
            return collections.Counter(WORD.findall(file.read().lower()))
    except (OSError, UnicodeDecodeError):
        return collections.Counter()


def files(folder):
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"site-packages", "test"})
        for name in sorted(names):
            path = os.path.join(parent, name)
            if os.path.isfile(path) and os.path.getsize(path) < 2_000_000:
                yield path


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.__file__)
    total = collections.Counter()
    with multiprocessing.Pool() as pool:
        for words in pool.imap_unordered(count, files(folder), chunksize=8):
            total.update(words)
    for word, number in total.most_common(5):
        print(f"{word:12} {number}")


if __name__ == "__main__":
    main()
