"""The backend suite finds liars: the example plugin with one defect fails in the tests that are about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import artstore_boxes.backend
import pytest

SOURCE = Path(artstore_boxes.backend.__file__).read_text(encoding="utf-8")
CUT = "test_a_power_cut_leaves_a_change_whole_or_undone"

# What is replaced in the example, and the tests that must fail then.
DATA_SYNC = ("                os.fsync(self._file.fileno())\n", "")
DIRECTORY_SYNC = (
    "import OwnedFile, fsync_directory, translate_errors",
    "import OwnedFile, translate_errors\n\nfsync_directory = str",
)
LIARS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "SyncsNothing": (
        [("os.fsync(", "len([]), ("), DIRECTORY_SYNC],
        [f"{CUT}[{c}]" for c in ("publish", "delete", "write_document")],
    ),
    "SyncsNoDirectory": (
        [DIRECTORY_SYNC],
        [f"{CUT}[{c}]" for c in ("publish", "replace_sidecar", "delete", "write_document")],
    ),
    "SyncsNoData": ([DATA_SYNC], [f"{CUT}[publish]"]),
    "PublishesFirst": (
        [
            DATA_SYNC,
            ("self._move()\n", "self._move()\n                os.fsync(os.open(self._place / DATA, os.O_RDONLY))\n"),
        ],
        [f"{CUT}[publish]"],
    ),
    "WritesInPlace": (
        [("    new.replace(path)", "    path.write_bytes(content)\n    os.fsync(os.open(path, os.O_RDONLY))")],
        ["test_no_step_of_a_replacement_shows_half_a_sidecar", f"{CUT}[replace_sidecar]"],
    ),
    "LetsErrorsOut": (
        [('    with translate_errors("The disk failed"):', "    if True:"), ("raise NotFound(", "raise OSError(")],
        ["test_a_failed_system_call_is_translated_and_leaves_nothing[5]", "test_a_missing_sidecar_is_not_found"],
    ),
    "BlamesTheCaller": (
        [("except (FileNotFoundError, NotADirectoryError)", "except OSError")],
        ["test_a_failed_system_call_is_translated_and_leaves_nothing[5]"],
    ),
    "LeavesHalf": (
        [("        shutil.rmtree(self._box, ignore_errors=True)\n\n\n", "        self._box.rename(self._place)\n\n\n")],
        ["test_abort_leaves_nothing", "test_an_upload_that_breaks_off_leaves_nothing"],
    ),
    "ClaimsToBeShared": ([("shared=False", "shared=True")], ["test_a_shared_store_can_be_opened_twice"]),
    "ShowsNothing": ([("def reopen", "def reopens")], [f"{CUT}[publish]"]),
}  # fmt: skip
HONEST = ["test_a_published_file_can_be_read", f"{CUT}[publish]", f"{CUT}[replace_sidecar]",
          "test_no_step_of_a_replacement_shows_half_a_sidecar"]  # fmt: skip

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
    """Run the suite on all liars and on the honest example: what failed, what passed (`class::test`), the output."""
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
def test_a_liar_is_found(outcomes: tuple[set[str], set[str], str], liar: str) -> None:
    failed, _, output = outcomes
    assert {f"{liar}::{test}" for test in LIARS[liar][1]} <= failed, output[-5000:]


def test_the_honest_one_passes(outcomes: tuple[set[str], set[str], str]) -> None:
    _, passed, output = outcomes
    assert passed == {f"Honest::{test}" for test in HONEST}, output[-5000:]


def test_a_failed_assertion_shows_what_it_compared(outcomes: tuple[set[str], set[str], str]) -> None:
    """In a foreign project, whose pytest does not know this one: the suites register themselves."""
    output = outcomes[2]
    assert "assert False, f" not in output
    assert re.search(r"^E +AssertionError: cut \d+ of \d+, left by the power cut", output, flags=re.MULTILINE)
    assert re.search(r"^E +assert \(b'.*', .*\) in \[", output, flags=re.MULTILINE)
    assert "it claims `shared`: override `open_second`" in output
