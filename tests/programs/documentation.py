"""The examples of Python's documentation, taken from its pages when they are run.

The pages are those of the package python3.N-doc of Debian and Ubuntu: where that is installed, or a copy that is fetched once. What of a page's code is a whole program
(it has a main guard) is run as it is; what has prompts is played as a session. The rest are fragments. See `examples` for what their text does not tell.
"""

import glob
import re
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from examples import RULES, Rule
from program import Program

HERE = Path(__file__).resolve().parent
INSTALLED = "/usr/share/doc/python3.*/html"
PACKAGES = [f"python3.{minor}-doc" for minor in range(11, 16)]
PAGES = (
    "library/multiprocessing",
    "library/multiprocessing.shared_memory",
    "library/concurrent.futures",
    "library/asyncio-eventloop",
    "howto/logging-cookbook",
)
# A page that is about something else has its blocks about processes only.
ABOUT = re.compile(r"multiprocessing|ProcessPoolExecutor")
GUARD = re.compile(r"""^if __name__ == ['"]__main__['"]:""", re.MULTILINE)


def folder(cache):
    """Where the pages are; None if they are neither installed nor to be had."""
    for pattern in (INSTALLED, f"{cache}{INSTALLED}"):
        if found := [Path(path) for path in sorted(glob.glob(pattern)) if Path(path, "library/multiprocessing.html").exists()]:
            return found[-1]
    cache.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        try:
            fetched = subprocess.run(["apt-get", "download", package], cwd=cache, stdin=subprocess.DEVNULL, capture_output=True)
        except FileNotFoundError:
            return None
        if fetched.returncode == 0:
            for archive in cache.glob(f"{package}_*.deb"):
                subprocess.run(["dpkg", "--extract", archive, cache], check=True)
            return folder(cache)
    return None


@dataclass
class Block:
    page: str
    section: str
    text: str
    name: str = ""

    @property
    def session(self):
        return ">>> " in self.text

    @property
    def rule(self):
        return next((rule for rule in RULES if rule.has in self.text), Rule(""))

    def why_not(self):
        """Why it is no row by itself; an empty text if it is one."""
        if self.rule.out:
            return self.rule.out
        if not (self.session or self.rule.program or GUARD.search(self.text)):
            return "a fragment"
        try:
            compile("" if self.session else self.text, self.name, "exec")
        except SyntaxError:
            return "not Python: words stand for what is to be done"
        return ""


class Reader(HTMLParser):
    """The blocks of code of a page, and the sections that they are in."""

    def __init__(self, page):
        super().__init__()
        self.page, self.section, self.text, self.blocks = page, "", None, []

    def handle_starttag(self, tag, attributes):
        if tag == "section":
            self.section = dict(attributes).get("id", "")
        elif tag == "pre":
            self.text = ""

    def handle_endtag(self, tag):
        if tag == "pre":
            self.blocks.append(Block(self.page, self.section, self.text))
            self.text = None

    def handle_data(self, data):
        if self.text is not None:
            self.text += data


def blocks(pages):
    for page in PAGES:
        reader = Reader(page.rpartition("/")[2])
        reader.feed((pages / f"{page}.html").read_text())
        numbers = {}
        for block in reader.blocks:
            if page.startswith("library/multiprocessing") or ABOUT.search(block.text):
                numbers[block.section] = numbers.get(block.section, 0) + 1
                block.name = f"{block.page} {block.section} {numbers[block.section]}"
                yield block


def programs(pages, store):
    """The rows of the table, and what is left out: [(block, why)]. The blocks are written into the folder `store`."""
    found = list(blocks(pages))
    store.mkdir(parents=True, exist_ok=True)

    def that_has(text):
        return next((block for block in found if text in block.text), None)

    def command(block, change=()):
        """Writes the block, behind the sessions that it goes on with, and gives the arguments that run it."""
        text, rule = block.text, block.rule
        while rule.after:
            text, rule = that_has(rule.after).text + text, that_has(rule.after).rule
        lines = "".join(f">>> {line}\n" if line[:1].strip() else f"... {line}\n" for line in rule.before.splitlines())
        text = lines + text
        for word, other in [*block.rule.change, *change]:
            text = text.replace(word, other)
        path = store / (re.sub(r"[^\w.]+", "-", block.name) + (".txt" if block.session else ".py"))
        path.write_text(text)
        return [str(HERE / "session.py"), str(path)] if block.session else [str(path)]

    clients = {id(that_has(text)) for block in found for text in block.rule.clients}
    rows, left_out = [], []
    for block in found:
        if id(block) in clients:
            continue
        if why := block.why_not():
            left_out.append((block, why))
            continue
        rule = block.rule
        if not all(that_has(text) for text in (*rule.clients, rule.after)):
            left_out.append((block, "what belongs to it is not on this version's page"))
            continue
        row = Program(block.name, [command(block)], replace=rule.replace, unordered=rule.unordered, needs=rule.needs, alone=rule.alone)
        if rule.clients:
            row.alone = True
            row.server, row.port, row.interrupt = command(block), rule.port, rule.interrupt
            row.commands = [command(that_has(text), rule.change) for text in rule.clients]
        rows.append(row)
    return rows, left_out
