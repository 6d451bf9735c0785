"""`python -m tinydigits`."""

import sys

from tinydigits.cli.main import main

sys.exit(main())
