"""Benchmark the kernel beside its peers: ``python benchmarks/run.py [--quick] [--plot FILE] ...``.

On first use it makes an environment of its own in ``benchmarks/.venv``, with this checkout and its
peers, and always runs there; with ``--here`` it uses the running environment instead, which needs
``pip install .[bench]``. For Linux; elsewhere the peak of memory is not told, so leave
``buffer_memory`` out with ``--only``.

The tables go to stdout, progress to stderr. A peer that is not installed is left out; one that
fails is reported, and the exit status is 1. A goal that is missed is no failure. Ctrl-C stops
every kernel.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import environment
from progress import say

INTERRUPTED = 130


def main() -> int:
    options = _parser().parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # leave like Ctrl-C: through what ends the kernels
        signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        if not options.here:
            environment.reexecute(Path(__file__).resolve(), sys.argv[1:])
        return _benchmark(options)
    except environment.CannotBeMade as error:
        say(f"the benchmark's environment cannot be made: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; every kernel has been stopped")
        return INTERRUPTED


def _benchmark(options: argparse.Namespace) -> int:
    # Not before: where this script is started, none of what these import need be installed.
    import benchmark
    import plot
    import tables
    from plan import MEASURES
    from trials import TRIALS

    known = [each.name for each in (*MEASURES, *TRIALS)]
    if unknown := set(options.only) - set(known):
        say(f"no such measure: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    wanted = options.only or known
    report = benchmark.run(
        [measure for measure in MEASURES if measure.name in wanted],
        [trial for trial in TRIALS if trial.name in wanted],
        options.quick,
    )
    print("\n".join(tables.lines(report)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot.draw(report, options.plot)
    return 1 if report["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short run: three minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these measures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .svg or .png")
    parser.add_argument("--here", action="store_true", help="use the running environment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
