"""`make bench`: run all benchmarks, or those named, and print one line each."""

import sys
from importlib import import_module

NAMES = ("training", "captioning", "photos", "startup", "retrieval", "library", "serving")


def main() -> int:
    """Run benchmarks."""
    from mrnn.models.devices import keep_memory

    keep_memory()
    chosen = sys.argv[1:] or NAMES
    for name in chosen:
        if name not in NAMES:
            print(f"no benchmark {name!r}; there are {', '.join(NAMES)}", file=sys.stderr)
            return 2
        import_module(f"benchmarks.{name}").main()
    return 0


sys.exit(main())
