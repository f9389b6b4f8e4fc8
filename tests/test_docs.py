"""What the README, CONTRIBUTING and docs/ point at is there: files, headings, commands, options."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import app as page
from flowturbo_core import cli
from flowturbo_core.usage import UsageError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CORE = typer.main.get_command(cli.app)
APP = typer.Typer(add_completion=False)
APP.command()(page.main)
PAGE = typer.main.get_command(APP)

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_IN_TEXT = re.compile(r"`([^`]+)`")
_MAKE = re.compile(r"^make ([a-z][a-z-]*)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def fenced(text, kind="bash"):
    """Return the blocks of code of one kind, lines that go on joined."""
    return [body.replace("\\\n", " ") for name, body in _FENCE.findall(text) if name == kind]


def inline(text):
    """Return what stands between single backquotes, each in a line."""
    return [" ".join(its.split()) for its in _IN_TEXT.findall(_FENCE.sub("", text))]


def links(text):
    """Return where the links of a page lead, those inside code left out."""
    return _LINK.findall(_FENCE.sub("", text))


def anchors(text):
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", its.lower()).replace(" ", "-") for its in headings}


def missing_links(file):
    """Return the relative links of a page that lead nowhere."""
    lost = []
    for link in links(file.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            lost.append(link)
    return lost


def commands(text):
    """Return what the code of a page calls: the arguments of each command, and which it is."""
    found = []
    for line in "\n".join(fenced(text) + inline(text)).splitlines():
        for name, start in ((CORE, "-m flowturbo_core "), (PAGE, "python app.py")):
            before, at, rest = line.partition(start)
            if at and "#" not in before:
                found.append((name, shlex.split(rest, comments=True)))
    return found


def misfit(command, arguments):
    """Return what a command line would refuse of its arguments' names; None if nothing."""
    if arguments[:1] in (["--help"], ["..."]):
        return None
    try:
        context = command.make_context("docs", list(arguments), resilient_parsing=False)
        if command is CORE:
            name, sub, rest = command.resolve_command(context, arguments)
            sub.make_context(name, list(rest), resilient_parsing="..." in rest)
    except UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_relative_link_leads_somewhere(file):
    assert missing_links(file) == []


def test_the_readme_leads_to_every_page():
    assert {str(file.relative_to(ROOT)) for file in PAGES[1:]} <= set(links(PAGES[0].read_text()))


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_command_is_one_that_the_command_line_takes(file):
    refused = [(" ".join(its), misfit(name, its)) for name, its in commands(file.read_text())]
    assert [each for each in refused if each[1]] == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_option_in_the_text_is_one_of_the_command_line(file):
    takers = [PAGE, *CORE.commands.values()]
    known = {name for its in takers for p in its.params for name in (*p.opts, *p.secondary_opts)}
    named = {name for code in inline(file.read_text()) for name in _OPTION.findall(code)}
    assert named <= known | {"--help"}


def test_every_make_target_that_a_page_names_is_there():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [file.read_text() for file in PAGES]
    named = {name for text in texts for code in (*fenced(text), *inline(text))
             for name in _MAKE.findall(code)}  # fmt: skip
    assert {"demo", "test", "tables"} <= named <= targets


def test_a_link_and_a_command_that_are_not_there_are_found(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("# One\n[a](page.md#one) [b](none.md) [c](page.md#two)\n")
    assert missing_links(file) == ["none.md", "page.md#two"]
    text = "```bash\npython -m flowturbo_core smaple\npython -m flowturbo_core tune --fast\n```\n"
    assert len(commands(text)) == 2 and all(misfit(*its) for its in commands(text))
    assert misfit(PAGE, ["--mode", "x"]) and not misfit(PAGE, ["--model", "x"])
