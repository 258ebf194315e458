"""Checks of the logging section against the rest of the configuration."""

from collections.abc import Iterator

from megatron_prealign.config.problem import Problem
from megatron_prealign.config.root import Config


def check_logging(config: Config, world_size: int | None) -> Iterator[Problem]:
    """Yield what is wrong with the logging section."""
    logging, train_steps = config.logging, config.training.train_steps
    for name, needed in (("wandb_name", "wandb_project"), ("mlflow_tracking_uri", "mlflow_experiment")):
        if getattr(logging, name) is not None and getattr(logging, needed) is None:
            yield Problem(
                f"--logging.{name} {getattr(logging, name)} without --logging.{needed}: nothing would be sent; name "
                "one, or leave it out",
                (f"logging.{name}", f"logging.{needed}"),
            )
    steps = logging.profile_steps
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1] <= train_steps):
        yield Problem(
            f"--logging.profile_steps {list(steps)} must be the first and the last step of the trace, from 1 to "
            f"--training.train_steps {train_steps}",
            ("logging.profile_steps", "training.train_steps"),
        )
    absent = [rank for rank in logging.profile_ranks if rank < 0 or (world_size is not None and rank >= world_size)]
    if steps and absent:
        ranks = "at least 0" if world_size is None else f"from 0 to {world_size - 1}"
        yield Problem(f"--logging.profile_ranks {absent}: no such rank, they are {ranks}", ("logging.profile_ranks",))
    if logging.profile_nvtx and (not steps or config.training.device == "cpu"):
        yield Problem(
            "--logging.profile_nvtx marks the steps of --logging.profile_steps on cuda: give those steps and a GPU, "
            "or leave it out",
            ("logging.profile_nvtx", "logging.profile_steps", "training.device"),
        )
