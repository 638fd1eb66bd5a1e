"""``--ratios``: prints how near to its bound every kernel came, after any run of tests."""

from __future__ import annotations

import re
from collections import defaultdict

KERNEL = re.compile(r"\[.*?(attention_[a-z]+_b?f\d+\w*?_(?:cpu_[a-z0-9]+|sm_\w+?|gfx\w+?))[-\]]")


def pytest_addoption(parser):
    parser.addoption(
        "--ratios", action="store_true", help="show the error ratios that kernels reach"
    )


class Ratios:
    """The largest ratios of every kernel's results, and where they were reached."""

    def __init__(self, compare) -> None:
        self.compare = compare
        self.test = ""
        self.rows = defaultdict(lambda: dict.fromkeys(compare.NORMS, (0.0, "")))
        self.counts = defaultdict(int)

    def pytest_runtest_setup(self, item):
        self.test = item.nodeid

    def watch(self, found) -> None:
        if "test_compare.py" in self.test:  # results broken on purpose
            return
        kernel = KERNEL.search(self.test)
        who = kernel.group(1) if kernel else "chosen by the library"
        key = (who, found.name, str(found.dtype).removeprefix("torch."))
        self.counts[key] += 1
        for norm in self.compare.NORMS:
            self.rows[key][norm] = max(self.rows[key][norm], (found.ratio(norm), self.test))

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        terminalreporter.section(
            f"errors in multiples of torch's: {self.compare.ALLOWED_RATIO:g} allowed"
        )
        for key in sorted(self.rows):
            ratios = "  ".join(
                f"{norm} {self.rows[key][norm][0]:.2f}" for norm in self.compare.NORMS
            )
            write(f"{key[0]:<44} {key[1]:<4} {key[2]:<9} {self.counts[key]:>5} times  {ratios}")
        for norm in self.compare.NORMS:
            ratio, test = max((row[norm] for row in self.rows.values()), default=(0.0, "nothing"))
            write(f"most, {norm}: {ratio:.2f} in {test}")


def pytest_configure(config):
    if config.getoption("--ratios"):
        from warploom.testing import compare  # other tests need neither torch nor the library

        ratios = Ratios(compare)
        compare.watchers.append(ratios.watch)
        config.pluginmanager.register(ratios)
