"""slip doctor [--quick] [--json]"""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.cli.arguments import parse
from openslip.cli.output import one_document
from openslip.errors import printable

if TYPE_CHECKING:
    from openslip.doctor.installed import Extra, Package
    from openslip.doctor.machine import Machine
    from openslip.doctor.selftest import Step

DESCRIPTION = """Print what is installed, which extras are missing and what for, and what the machine has. Then test the
installation by training, loading and searching for a few seconds. The status is 0 if everything works, else 1."""
EXAMPLES = """\
slip doctor
    Look at the installation and test it.
slip doctor --quick --json
    Print all findings as JSON, without the test, to report a problem.
"""


@dataclass(frozen=True)
class Options:
    """What to look at."""

    quick: bool = False
    """Leave the self-test out."""
    json: bool = False
    """Print one JSON document to standard output, and everything else to standard error."""


def main(argv: list[str]) -> int:
    """Look, test, and print what was found; return 1 if something does not work."""
    options = parse(Options, argv, prog="slip doctor", description=DESCRIPTION, examples=EXAMPLES)
    with one_document(options.json) as give:
        return _examine(options, give)


def _examine(options: Options, give: Any) -> int:
    import openslip
    from openslip.doctor import installed

    problems, notes = list[str](), list[str]()
    found: dict[str, Any] = {
        "openslip": openslip.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
    }
    print(
        f"openslip {found['openslip']}, Python {found['python']}, {found['platform']}\n{found['executable']}"
    )

    try:
        packages, extras = installed.packages(), installed.extras()
    except metadata.PackageNotFoundError:
        packages, extras = list["Package"](), list["Extra"]()
        problems.append("openslip is not installed here: pip install openslip")
    missing = [package for package in packages if package.version is None]
    problems += [f"{package.name} is required and missing: pip install openslip" for package in missing]
    _print(
        "Packages", [(one.name, one.version or f"missing, {one.required} is required") for one in packages]
    )
    _print("Extras", [(one.name, _extra(one)) for one in extras])

    machine = _machine(problems, notes)
    path = installed.program()
    notes += installed.shadows(path)
    if path is None:
        notes.append("The command `slip` is not on the search path: `python -m openslip` does the same")
    _print("Command", [("slip", path or "not on the search path")])

    steps = list["Step"]()
    if not options.quick and machine is not None:
        steps = _test(problems)
    for title, lines in (("Notes", notes), ("Problems", problems)):
        if lines:
            print(printable("\n".join([f"\n{title}", *(f"  {line}" for line in lines)])))
    if not problems:
        print("\nEverything works." if steps else "\nNothing is missing. The self-test was left out.")
    give(
        {
            **found,
            "packages": {package.name: package.version for package in packages},
            "extras": {
                extra.name: {"missing": extra.missing, "for": extra.purpose, "install": extra.install}
                for extra in extras
            },
            "machine": None if machine is None else dataclasses.asdict(machine),
            "command": path,
            "selftest": [dataclasses.asdict(step) | {"passed": step.passed} for step in steps],
            "notes": notes,
            "problems": problems,
            "works": not problems,
        }
    )
    return 1 if problems else 0


def _extra(extra: Extra) -> str:
    if not extra.missing:
        return f"installed, for {extra.purpose}"
    return f"missing, for {extra.purpose}: {extra.install}"


def _machine(problems: list[str], notes: list[str]) -> Machine | None:
    """Print what the machine has. If torch cannot be used, add a problem and return None."""
    from openslip.doctor import machine as machines
    from openslip.doctor.machine import size

    try:
        found = machines.look(Path.cwd())
    except Exception as error:  # a package that is damaged raises what it likes
        problems.append(f"torch cannot be used: {type(error).__name__}: {error}")
        return None
    notes += machines.advice(found)
    if not found.writable:
        notes.append(f"The folder {found.folder} cannot be written: name another folder with --out")
    shared = found.shared
    built = f"torch for CUDA {found.cuda}" if found.cuda else "torch without CUDA"
    _print(
        "Machine",
        [
            ("device", f"{' '.join(filter(None, (found.device, found.name)))}, {found.precision}, {built}"),
            ("threads", f"{found.threads} of torch, on {found.cores} cores"),
            ("memory", f"{size(found.memory)} free"),
            ("shared memory", f"{size(shared.free)} of {size(shared.total)} free" if shared else "no limit"),
            ("folder", f"{found.folder}, {size(found.disk.free)} of {size(found.disk.total)} free"),
        ],
    )
    return found


def _test(problems: list[str]) -> list[Step]:
    """Run the self-test, and print a line for each step."""
    from openslip.cli.output import say
    from openslip.doctor.selftest import selftest

    steps = selftest(on_step=lambda name: say(f"self-test: {name}"))
    _print(
        "Self-test",
        [(one.name, f"{'passed' if one.passed else 'FAILED'}, {one.seconds:.1f} s") for one in steps],
    )
    problems += [f"The self-test failed to {one.name}: {one.error}" for one in steps if not one.passed]
    return steps


def _print(title: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    width = max(len(name) for name, _ in rows)
    print(
        printable("\n".join([f"\n{title}", *(f"  {name:<{width}}  {text}" for name, text in rows)])),
        flush=True,
    )
