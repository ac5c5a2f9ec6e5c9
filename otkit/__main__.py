"""``python -m otkit``."""

import sys

from otkit.cli.main import main

sys.exit(main())
