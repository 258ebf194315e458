"""PreAlign pretraining on megatron-core: early multilingual alignment, then code-switched pretraining."""

import warnings

__version__ = "0.1.0"

# megatron-core warns on import, once a module, that fused packages are missing. Which implementation
# runs, and why, is in the log of a run instead.
for _message in (".*Apex (is|are) not installed.*", "full scope is deprecated.*"):
    warnings.filterwarnings("ignore", message=_message, category=UserWarning)
