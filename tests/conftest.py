"""What holds for all tests."""

import os

# Set before torch is imported: the tests run side by side, and more threads each would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
