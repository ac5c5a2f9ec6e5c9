"""Entry point of ``python -m otkit``."""

import sys

from otkit.cli.main import main

sys.exit(main())
