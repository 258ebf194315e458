"""All that is private of megatron-core: its internals that are called, replaced or subclassed, and its versions."""

import logging

# What megatron-core says at each start and a user can't act on, by module. Each can go with what it is about.
_UNINFORMATIVE = {
    "megatron.core.models.gpt.gpt_model": "GPTModel IS DEPRECATED",  # from 0.19 on
    # From 0.19 on; the layout that is computed in its place is the same.
    "megatron.core.distributed.distributed_data_parallel": "DistributedDataParallel: full_param_layout not provided",
}


def _is_informative(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_UNINFORMATIVE[record.name])


for _name in _UNINFORMATIVE:
    logging.getLogger(_name).addFilter(_is_informative)
