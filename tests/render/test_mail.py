"""The mail: 72 columns of plain text, with commands that do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvmharness.analysis import load, repeat
from kvmharness.analysis.load import RunFile
from kvmharness.errors import UsageError
from kvmharness.model import runfile, suites
from kvmharness.model.clocks import QUICK
from kvmharness.render import mail
from tests.cli.test_help import COMMANDS
from tests.support.golden import same_as_golden
from tests.support.recorded import RECORDINGS
from tests.support.samples import made_up_case, made_up_lab_run, made_up_nested_run, made_up_run

Call = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = [RECORDINGS / f"run1/{name}.json" for name in ("5.10-tdp", "6.1-tdp")]
HOST = RECORDINGS / "run1/host.json"


def commands(text: str) -> list[list[str]]:
    """Return the commands of a mail as a shell reads them."""
    whole = text.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^  kvmharness .*", whole, re.MULTILINE)]


def test_the_mail_of_two_kernels_is_the_golden_one() -> None:
    same_as_golden("mail.txt", mail.render(load.summarised(FILES)))


@pytest.mark.parametrize("files", [FILES, [HOST], [HOST, HOST]])
def test_no_line_is_longer_than_72_columns_or_ends_in_a_space(files: list[Path]) -> None:
    runs = [load.summarised([file])[0] for file in files]
    lines = mail.render(runs).splitlines()
    assert max(map(len, lines)) <= mail.COLUMNS
    assert lines == [line.rstrip() for line in lines]
    assert not any("\x1b" in line for line in lines)


def test_the_commands_are_commands() -> None:
    found = commands(mail.render(load.summarised([*FILES, HOST][:2])))
    assert len(found) == 3
    for words in found:
        COMMANDS[(words[1],)].make_context(words[1], words[2:])
    (lab,) = (words for words in found[:1])
    assert lab[2] == "linux-image-5.10.0-30-amd64"
    assert found[2] == ["kvmharness", "compare", "5.10-tdp", "6.1-tdp"]


def test_boots_of_one_kernel_are_one_command() -> None:
    runs = [RunFile(f"boot{number}", made_up_lab_run()) for number in (1, 2, 3)]
    for number, file in enumerate(runs, 1):
        assert file.run.host.lab
        file.run.host.lab.boot = number
    (command,) = repeat.commands(runs)
    assert command.words[-4:] == ["--boots", "3", "-o", "boot1"]


def test_two_levels_are_asked_for_as_they_were() -> None:
    (command,) = repeat.commands([RunFile("a", made_up_nested_run())])
    assert "--nested" in command.words
    assert "--nested-variant" in command.words


def test_settings_and_suites_are_asked_for_where_they_are_not_the_usual_ones() -> None:
    run = made_up_run()
    run.suite = "wx"
    run.cases = [made_up_case(case.name, 1.0) for case in suites.load("wx").cases]
    run.settings = msgspec.structs.replace(run.settings, vms=10, samples_per_vm=10)
    (command,) = repeat.commands([RunFile("a", run)])
    assert command.words == ["kvmharness", "run", "--suite", "wx", "-o", "a.json"]
    run.settings = msgspec.structs.replace(run.settings, vms=3, iterations=7)
    (command,) = repeat.commands([RunFile("a", run)])
    assert command.words[4:10] == ["--vms", "3", "--samples", "30", "--iterations", "7"]
    each = (QUICK.samples or 0) // (QUICK.vms or 1)
    run.settings = msgspec.structs.replace(
        run.settings, vms=QUICK.vms, samples_per_vm=each, iterations=None
    )
    run.cases = run.cases[:1]
    (command,) = repeat.commands([RunFile("a", run)])
    assert command.words[2:] == ["--suite", "wx", run.cases[0].name, "--quick", "-o", "a.json"]
    run.suite = "no/such.toml"
    (command,) = repeat.commands([RunFile("a", run)])
    assert command.words[2] == run.cases[0].name


def test_runs_of_two_clocks_make_no_mail() -> None:
    with pytest.raises(UsageError, match="different clocks"):
        mail.render(load.summarised([FILES[0], HOST]))


def test_a_mail_goes_to_stdout_or_a_file_and_a_page_into_a_file_only(
    kvmharness: Call, tmp_path: Path
) -> None:
    runfile.write(tmp_path / "a'b $c.json", made_up_run())
    printed = kvmharness("report", str(tmp_path), "--format", "mail")
    assert printed.returncode == 0, printed.stderr
    assert commands(printed.stdout)[0][-1] == "a'b $c.json"
    path = tmp_path / "mail.txt"
    kvmharness("report", str(tmp_path), "--format", "mail", "-o", str(path))
    assert path.read_text() == printed.stdout
    done = kvmharness("report", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "-o report.html" in done.stderr
