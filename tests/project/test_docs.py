"""README and docs/ name files, options and targets that exist."""

import functools
import re

import pytest

from tests.helpers.commands import ROOT, run_ok
from tests.project.markdown import code_blocks, command_lines

PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "rpe_ops" / "README.md", ROOT / "rpe_ops" / "OPERATORS.md",
    ROOT / "benchmarks" / "README.md",
]  # fmt: skip
PROGRAM = re.compile(r"(?:main|(?:classification/)?run_with_submitit|(?:tools|benchmarks)/\w+)\.py")
OPTION = re.compile(r"(?<![\w-])--[a-z]\w*(?:-\w+)*")
# Of torchrun, sbatch, scancel and tensorboard.
OF_OTHERS = {
    "--nproc_per_node", "--use_env", "--max_restarts", "--nodes", "--signal", "--logdir",
}  # fmt: skip
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def options_of(program: str) -> set[str]:
    """Return the options of a file or, as "-m MODULE", of a module."""
    return {"--help", *OPTION.findall(run_ok(*program.split(), "--help").stdout)}


def commands(text: str) -> list[tuple[str, str]]:
    """Return (program, rest of the line) of each command in the blocks, comments included."""
    lines = [line for block in code_blocks(text, "bash") for line in command_lines(block)]
    found = [(PROGRAM.search(line), line) for line in lines]
    return [(program[0], line[program.end() :]) for program, line in found if program]


def anchors(text: str) -> set[str]:
    """Return the anchors of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_readme_is_read_to_the_end():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pages
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if target.startswith("https://"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), anchor


@pages
def test_commands_have_the_options_they_name(page):
    for program, rest in commands(page.read_text()):
        assert (ROOT / program).is_file(), program
        assert set(OPTION.findall(rest)) <= options_of(program), program


def test_options_in_the_text_exist():
    submit = "run_with_submitit.py"
    programs = ["main.py", submit, f"classification/{submit}", "benchmarks/run.py", "-m rpe_ops"]
    programs += [f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("*.py"))
                 if "__main__" in path.read_text()]  # fmt: skip
    known = OF_OTHERS.union(*map(options_of, programs))
    for page in (page for page in PAGES if page.parent in (ROOT, ROOT / "docs")):
        assert set(OPTION.findall(page.read_text())) <= known, page


@pages
def test_targets_exist_and_python_is_python(page):
    text = page.read_text()
    targets = set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", text, re.M))
    known = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    assert targets <= known
    for number, block in enumerate(code_blocks(text, "python")):
        compile(block, f"{page.name}, block {number}", "exec")


def test_all_of_docs_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert all(f"(docs/{page.name})" in readme for page in (ROOT / "docs").glob("*.md"))


def test_one_version_of_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    (version,) = re.findall(r"ruff-pre-commit\n *rev: v(\S+)", hooks)
    assert f"ruff=={version}\n" in (ROOT / "constraints.txt").read_text()


def test_what_is_looked_for_is_found():
    """The patterns above see a wrong option, a wrong link and a second block."""
    text = "```bash\ntorchrun --nproc_per_node=8 main.py --no_such \\\n  --eval  # --ema\n```\n"
    assert commands(text) == [("main.py", " --no_such    --eval  # --ema")]
    assert OPTION.findall("`--no-x`, a--b --lr 1e-3") == ["--no-x", "--lr"]
    assert anchors("# A `--b_c` d\n```\n# no\n```\n## E") == {"a---b_c-d", "e"}
