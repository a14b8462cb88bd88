"""`python -m benchmarks.campaign`: every part for its share of the time; what it tried, and every escape."""

import argparse
import sys
import time
from importlib import import_module

from benchmarks.campaign import parts


def main() -> int:
    """Run the parts; 1 if anything escaped."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__)
    asked.add_argument("--minutes", type=float, default=5, help="for all parts together (5)")
    asked.add_argument("--seed", type=int, default=0, help="of all inputs (0)")
    asked.add_argument("--part", choices=list(parts()), action="append", help="one of them (repeatable)")
    options = asked.parse_args()
    chosen = {name: import_module(f"benchmarks.campaign.{name}") for name in options.part or parts()}
    whole = sum(part.SHARE for part in chosen.values())
    escaped = 0
    for part in chosen.values():
        clock = time.monotonic()
        report = part.run(60 * options.minutes * part.SHARE / whole, options.seed)
        escaped += len(report.escapes)
        spent = time.monotonic() - clock
        print(f"{report.name}: {report.tried:,} tried in {spent:.0f} s, {len(report.escapes)} escaped", flush=True)
        for line in report.escapes:
            print(f"  {line}", flush=True)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
