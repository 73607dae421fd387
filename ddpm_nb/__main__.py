"""`python -m ddpm_nb`: the command line."""

import sys

from ddpm_nb._cli import main

sys.exit(main())
