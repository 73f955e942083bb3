"""What MindSpore and its libraries read from the environment when they are imported.

The package imports this module first. What is set already stays.
"""

import os

os.environ.setdefault("GLOG_v", "3")  # MindSpore's errors, without its warnings of deprecations
# OpenMP runs fused kernels on a CPU. Its threads would spin for a while after each one, and take
# the processors from MindSpore's own threads, which run all other kernels.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
