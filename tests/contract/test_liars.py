"""The suite for backends tells a liar: the honest example, spoilt in one place, fails where it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import artstore_boxes.backend
import pytest

SOURCE = Path(artstore_boxes.backend.__file__).read_text(encoding="utf-8")
CUT = "test_a_power_cut_leaves_all_or_nothing_and_takes_back_nothing"

# What is spoilt, and the tests that must see it.
LIARS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "SyncsNothing": ([("os.fsync(", "len([]), (")], [f"{CUT}[{c}]" for c in ("publish", "delete", "write_document")]),
    "SyncsNoDirectory": (
        [("        os.fsync(fd)", "        pass")],
        [f"{CUT}[{c}]" for c in ("publish", "replace_sidecar", "delete", "write_document")],
    ),
    "SyncsNoData": ([("                os.fsync(self._file.fileno())\n", "")], [f"{CUT}[publish]"]),
    "PublishesFirst": (
        [
            ("                os.fsync(self._file.fileno())\n", ""),
            ("self._move()\n", "self._move()\n                sync(self._place / DATA)\n"),
        ],
        [f"{CUT}[publish]"],
    ),
    "WritesInPlace": (
        [("    new.replace(path)", "    path.write_bytes(content)\n    sync(path)")],
        ["test_at_no_step_of_a_replacement_half_a_sidecar_is_seen", f"{CUT}[replace_sidecar]"],
    ),
    "LetsErrorsOut": (
        [("raise translated(e) from e", "raise")],
        ["test_a_call_that_fails_is_told_in_our_words_and_leaves_nothing[5]", "test_a_sidecar_that_is_not_there"],
    ),
    "BlamesTheCaller": (
        [('return Unavailable(f"The disk', 'return Conflict(f"The disk')],
        ["test_a_call_that_fails_is_told_in_our_words_and_leaves_nothing[5]"],
    ),
    "LeavesHalf": (
        [("        shutil.rmtree(self._box, ignore_errors=True)\n\n\n", "        self._box.rename(self._place)\n\n\n")],
        ["test_abort_leaves_nothing", "test_a_source_that_breaks_half_way_leaves_nothing"],
    ),
    "ClaimsToBeShared": ([("shared=False", "shared=True")], ["test_a_shared_store_has_neighbours"]),
    "ShowsNothing": ([("def reopen", "def reopens")], [f"{CUT}[publish]"]),
}  # fmt: skip
HONEST = ["test_what_was_published_is_there", f"{CUT}[publish]", f"{CUT}[replace_sidecar]",
          "test_at_no_step_of_a_replacement_half_a_sidecar_is_seen"]  # fmt: skip

TEST = """
import pytest
from artstore.testing import BackendSuite, make_context
from {module} import BoxesBackend

class Test{name}(BackendSuite):
    @pytest.fixture
    def opened(self, tmp_path):
        made = []
        def open_it():
            for backend in made:
                backend.close()
            made.append(BoxesBackend(BoxesBackend.Settings(), make_context(tmp_path)))
            return made[-1]
        yield open_it
        made[-1].close()

    @pytest.fixture
    def backend(self, opened):
        return opened()

    @pytest.fixture
    def reopen(self, opened):
        return opened
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str], str]:
    """What failed, what passed (`class::test`), and all that pytest said: the liars and the honest one together."""
    place = tmp_path_factory.mktemp("liars")
    chosen: list[str] = []
    for name, (changes, tests) in {**LIARS, "Honest": ([], HONEST)}.items():
        source, test = SOURCE, TEST.format(module=f"of_{name.lower()}", name=name)
        for old, new in changes:
            assert old in source + test, f"{name}: the example has no {old!r} any more"
            source, test = source.replace(old, new), test.replace(old, new)
        (place / f"of_{name.lower()}.py").write_text(source)
        (place / f"test_{name.lower()}.py").write_text(test)
        chosen += [f"test_{name.lower()}.py::Test{name}::{t}" for t in tests]
    (place / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist", *chosen],
        cwd=place, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout[-3000:] + run.stderr
    failed, passed = (
        set(re.findall(rf"^{word} \S+::Test(\S+)", run.stdout, flags=re.MULTILINE))
        for word in ("FAILED", "PASSED")
    )
    return failed, passed, run.stdout


@pytest.mark.parametrize("liar", LIARS)
def test_a_liar_is_told(outcomes: tuple[set[str], set[str], str], liar: str) -> None:
    failed, _, said = outcomes
    assert {f"{liar}::{test}" for test in LIARS[liar][1]} <= failed, said[-5000:]


def test_the_honest_one_passes(outcomes: tuple[set[str], set[str], str]) -> None:
    _, passed, said = outcomes
    assert passed == {f"Honest::{test}" for test in HONEST}, said[-5000:]


def test_a_failed_assertion_shows_what_it_compared(outcomes: tuple[set[str], set[str], str]) -> None:
    """In a stranger's project, whose pytest knows nothing of ours: the suites register themselves."""
    said = outcomes[2]
    assert "assert False, f" not in said
    assert re.search(r"^E +AssertionError: cut \d+ of \d+, left by the power cut", said, flags=re.MULTILINE)
    assert re.search(r"^E +assert \(b'.*', .*\) in \[", said, flags=re.MULTILINE)
    assert "it claims `shared`: override `neighbour`" in said
