"""`python -m mrnn`."""

import sys

from mrnn.cli import main

sys.exit(main())
