"""Number formats: what each can hold, its scaling and its rounding function (`ebsim.precision.rounding`)."""

import sys

from ebsim.precision import rounding

sys.modules[f"{__name__}.rounding"] = rounding  # its import path until 0.1
