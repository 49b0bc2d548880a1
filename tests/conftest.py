"""What holds for all tests: how long a generated example takes says something about the machine, not about the code.

PyTorch's threads sleep while they wait for each other, as in the services; it reads that when it is first imported.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
