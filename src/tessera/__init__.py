"""Multimodal generative recommendation as a DVC pipeline."""

import os

# Before torch starts its threads, which is why stages leave importing torch to the library: by default GNU OpenMP's
# threads spin while they wait for each other, and where another program uses a core too that costs several times the
# work itself. benchmarks/ has the measurement.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
