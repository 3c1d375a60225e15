"""``python -m spikeshrink``: as the console script, from a checkout."""

import sys

from spikeshrink import main

if __name__ == "__main__":
    sys.exit(main())
