"""Measure echokernel and other kernels: ``python benchmarks/run.py [--quick] [--only NAME ...]``.

On first use the command creates its own environment in ``benchmarks/.venv``, with this checkout and
its peers. With ``--here`` it uses the running environment, which needs ``pip install .[bench]``.
``buffer_memory`` needs Linux.

The tables go to stdout, the progress to stderr. A peer that is not installed is left out. A peer
that fails is reported, and the exit status is 1. Ctrl-C stops every kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import environment
from progress import show_progress

INTERRUPTED = 130


def main() -> int:
    options = _parser().parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # exit like after Ctrl-C: every kernel is stopped
        signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        if not options.here:
            environment.reexecute(Path(__file__).resolve(), sys.argv[1:])
        environment.compile_checkout()
        return _benchmark(options)
    except environment.EnvironmentFailed as error:
        show_progress(f"the environment cannot be created: {error}")
        return 1
    except KeyboardInterrupt:
        show_progress("interrupted; every kernel has been stopped")
        return INTERRUPTED


def _benchmark(options: argparse.Namespace) -> int:
    # Imported here: the process that creates the environment need not have these installed.
    import comms
    import peers
    import plot
    import ready
    import report
    import rounds
    from measures import HOT_PATH, MEASURES

    tables = {"ready": ready.measure, "comms": comms.measure}
    known = [*(measure.name for measure in MEASURES), *tables]
    if unknown := set(options.only) - set(known):
        show_progress(f"no measure {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    families = (
        peers.two_versions(os.path.abspath(options.against)) if options.against else peers.FAMILIES
    )
    selected = options.only or (HOT_PATH if options.against else known)
    begun = time.monotonic()
    about = report.machine()
    with peers.isolated(families):
        result = rounds.take_all(
            [measure for measure in MEASURES if measure.name in selected], families, options.quick
        )
        result["tables"] = {
            name: table(options.quick)._asdict()
            for name, table in tables.items()
            if name in selected
        }
    result |= {
        "machine": about,
        "quick": options.quick,
        "seconds": round(time.monotonic() - begun, 1),
        "load_at_end": report.load(),
        "goals": [] if options.against else report.outcomes(result["measures"], families),
    }
    print("\n".join(report.lines(result, families)))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot.draw(result, families, options.plot)
    return 1 if result["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these measures")
    parser.add_argument(
        "--against",
        metavar="PYTHON",
        help="compare with the echokernel of another environment, named by its interpreter,"
        " instead of the peers; ratios are new / old",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .svg or .png")
    parser.add_argument("--here", action="store_true", help="use the running environment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
