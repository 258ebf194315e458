"""PreAlign pretraining on megatron-core: early multilingual alignment, then code-switched pretraining."""

import logging
import warnings

from megatron_prealign.core_import import watch_imports

__version__ = "0.2.0"

# megatron-core and torch warn, once a module and once a rank, of what a user can't change or of packages that are
# missing. Which implementation runs, and why, is in the log of a run instead.
for _message in (
    ".*Apex (is|are) not installed.*",
    "full scope is deprecated.*",
    ".* is experimental and still under active development.*",
    "When using async grad allreduce.*CUDA_DEVICE_MAX_CONNECTIONS.*",
    "Please use DTensor instead.*",
    "torch.distributed is disabled, unavailable or uninitialized.*",
    "`load_state_dict` is deprecated.*",
    "`torch.distributed.[a-z_]+` is deprecated. Please use .*",
):
    warnings.filterwarnings("ignore", message=_message)
logging.getLogger("megatron.core.rerun_state_machine").setLevel(logging.ERROR)

watch_imports()
