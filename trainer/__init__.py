"""Pre-training of BiT ResNets and transfer: configuration, loop, engines, checkpoints, reports."""

import os

# Where ranks meet, torch answers a lost one with C++ stacks, besides the error that is caught and told. It reads this
# when it is imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
