"""How many sequences each step takes."""

from megatron_prealign.config.training import TrainingConfig


def global_batch_size_at(training: TrainingConfig, consumed_samples: int) -> int:
    """Return the sequences of the step that comes after `consumed_samples`, over all ranks.

    Megatron's rule, so that a resumed run goes on with the size it would have had: during the ramp-up the size grows by
    equal increments, each after the same number of samples.
    """
    if training.rampup_batch_size is None:
        return training.global_batch_size
    start, increment, samples = training.rampup_batch_size
    if consumed_samples >= samples:
        return training.global_batch_size
    num_increments = (training.global_batch_size - start) // increment
    return start + increment * (consumed_samples * num_increments // samples)


def count_samples(training: TrainingConfig, step: int = 0, consumed_samples: int = 0) -> int:
    """Return the sequences of all steps of the run, of which `step` steps took `consumed_samples`."""
    samples = consumed_samples
    for done in range(step, training.train_steps):
        if training.rampup_batch_size is None or samples >= training.rampup_batch_size[2]:
            return samples + (training.train_steps - done) * training.global_batch_size
        samples += global_batch_size_at(training, samples)
    return samples
