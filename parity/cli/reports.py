"""The reports of a comparison that a command writes: their options, the check before the work, and the writing."""

from __future__ import annotations

from typing import Any

from parity import report
from parity.cli.command import PATH, Options, attach_result, option
from parity.cli.options import report_option, together
from parity.errors import InputError
from parity.progress import Console
from parity.training.run_folder import check_writable

reports_options = together(
    report_option("report.json, junit.xml and report.html"),
    option(
        "--markdown",
        type=PATH,
        metavar="FILE",
        help="write the verdict, the layers, the map and the command into this file, as Markdown for a pull request",
    ),
)


def check_reports(options: Options) -> None:
    """Raise `InputError` if a report cannot be written. Call it before minutes of work."""
    if options.report:
        check_writable(options.report, "--report")
    if options.markdown:
        if options.markdown.exists() and not options.markdown.is_file():
            raise InputError(f"cannot write {options.markdown} (it is not a file): choose another --markdown")
        check_writable(options.markdown.absolute().parent, "--markdown")


def write_reports(options: Options, result: dict[str, Any], shown: dict[str, Any], console: Console) -> None:
    """Write the reports that were asked for. Where one cannot be written, the command still prints `shown`."""
    with attach_result(shown):
        if options.report:
            report.write(options.report, result)
            console.say(f"Report: {options.report / 'report.html'}")
        if options.markdown:
            report.write_markdown(options.markdown, result)
            console.say(f"Markdown: {options.markdown}")
