"""``python -m otkit``."""

import sys

from otkit.cli import main

sys.exit(main())
