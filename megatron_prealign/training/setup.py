"""From a configuration to a trainer: what can be refused without a process group first, then the rest."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from megatron_prealign.alignment import Taps
from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.folder import agree_on_checkpoint, resolve_checkpoint, room_problems
from megatron_prealign.checkpoint.portability import PARTS, TRAINED, WEIGHTS, describe_resets, refusals
from megatron_prealign.checkpoint.run_lock import HOLDER, LOCK
from megatron_prealign.checkpoint.sharded import load_training_state, load_weights
from megatron_prealign.config import Config, dump_config
from megatron_prealign.config.alignment_validation import measures_retrieval
from megatron_prealign.dataset.index_cache import IndexCache
from megatron_prealign.errors import ConfigError, PrealignError
from megatron_prealign.files import write_if_possible
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.model import build_model_chunks
from megatron_prealign.model.layer_spec import select_implementation
from megatron_prealign.optional_packages import find_problems
from megatron_prealign.pairs.batches import ItemBatches
from megatron_prealign.platform import Mesh, Platform
from megatron_prealign.platform.agreement import on_first_rank
from megatron_prealign.platform.distributed import set_random_states
from megatron_prealign.reports.records import METRICS
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.training.exit_note import EXIT
from megatron_prealign.training.guards import SKIPPED, Guard
from megatron_prealign.training.interruption import Interruption
from megatron_prealign.training.loop import Trainer
from megatron_prealign.training.metrics import MetricsWriter
from megatron_prealign.training.objectives.alignment import AlignmentPlan, read_lexicons
from megatron_prealign.training.objectives.language_modelling import LanguageModellingPlan
from megatron_prealign.training.objectives.objective import ObjectivePlan, Surroundings
from megatron_prealign.training.objectives.sequences import cache_path
from megatron_prealign.training.objectives.stage import Stage, Weight, plan_objectives
from megatron_prealign.training.optimizer import build_optimizer, build_schedule, wrap_data_parallel
from megatron_prealign.training.record_file import discarded_path
from megatron_prealign.training.start_report import describe_weights
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import ProfileWindow, Throughput
from megatron_prealign.training.trackers import missing_packages
from megatron_prealign.training.validation import PairSet, Validator, WordValidator, select_pair_sets


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration with everything it names found and checked."""

    config: Config
    tokenizer: Tokenizer
    objectives: list[tuple[ObjectivePlan, Weight]]
    pair_sets: list[PairSet]
    resume_from: Path | None
    init_from: Path | None

    @property
    def language_modelling(self) -> LanguageModellingPlan:
        """The objective that every stage has."""
        (plan,) = (plan for plan, _ in self.objectives if isinstance(plan, LanguageModellingPlan))
        return plan

    @property
    def items(self) -> dict[str, ItemBatches]:
        """What is aligned, by its kind: "word", "sentence"."""
        return {plan.items.kind: plan.items for plan, _ in self.objectives if isinstance(plan, AlignmentPlan)}

    def read_state(self) -> TrainState:
        """Return the run's position and counters, with the mixes of the configuration."""
        state = _read_state(self.resume_from)
        self.language_modelling.resume_problems(state)
        return state


def plan_run(config: Config) -> Plan:
    """Open what the configuration names and check that it fits together; needs no process group.

    Raises:
        ConfigError: Lists everything that does not fit.
    """
    problems = [*_path_problems(config), *missing_packages(config.logging)]
    if problems:
        # The checks below read these paths.
        raise ConfigError(problems)
    tokenizer = load_tokenizer(config.data.tokenizer_path, config.data.eod_token)
    config, quick_problems = _resolve_vocab_size(config, tokenizer)
    problems += quick_problems
    pair_sets: list[PairSet] = []
    lexicons: dict[str, Lexicon] = {}
    try:
        lexicons = read_lexicons(config)
        if measures_retrieval(config):
            pair_sets = select_pair_sets(lexicons, tokenizer, config)
    except PrealignError as error:
        problems += error.problems
    objectives, data_problems = plan_objectives(config, tokenizer, lexicons.get("trained"))
    problems += data_problems
    resume_from = init_from = None
    try:
        check = folder.check_for(config.checkpoint.verify)
        resume_from = folder.newest_checkpoint(config.training.run_path, check)
        if resume_from is not None:
            problems += _resume_problems(config, resume_from)
        problems += _continue_problems(objectives, resume_from)
        if resume_from is None and config.checkpoint.init_from is not None:
            init_from = resolve_checkpoint(config.checkpoint.init_from, check)
            problems += _init_problems(config, init_from)
    except PrealignError as error:
        problems += error.problems
    problems += room_problems(config)
    if problems:
        raise ConfigError(problems)
    return Plan(config, tokenizer, objectives, pair_sets, resume_from, init_from)


def describe_start(plan: Plan) -> str:
    """Return broken packages, what each objective reads, and what the run starts from."""
    state = plan.read_state()
    lines = [f"WARNING: {problem}" for problem in find_problems().values()]
    lines += [objective.describe(state) for objective, _ in reversed(plan.objectives)]
    return "\n".join([*lines, describe_weights(plan.config, state, plan.resume_from, plan.init_from)])


def _read_state(checkpoint: Path | None) -> TrainState:
    return TrainState() if checkpoint is None else TrainState.read(checkpoint)


def _path_problems(config: Config) -> Iterator[str]:
    """Yield why a folder of the run can't be made, without creating anything."""
    paths = {"training.run_path": Path(config.training.run_path), "data.cache_path": cache_path(config)}
    for name, path in paths.items():
        whole = path.absolute()
        if whole.is_symlink() and not os.path.exists(whole):
            yield f"{name} {path}: a broken link; remove it, or name another folder"
            continue
        existing = next(parent for parent in (whole, *whole.parents) if os.path.exists(parent))
        if not existing.is_dir():
            yield f"{name} {path}: {existing} is a file; name another folder"
        elif not os.access(existing, os.W_OK):
            yield f"{name} {path}: {existing} can't be written to; name another folder, or change its permissions"
    run = config.training.run_path
    records = [Path(run, name) for name in (METRICS, SKIPPED)]
    others = (folder.CONFIG, LOCK, HOLDER, EXIT, f"{folder.CHECKPOINTS}/{folder.LATEST}")
    files = [*records, *map(discarded_path, records), *(Path(run, name) for name in others)]
    for path, kind in {Path(run, folder.CHECKPOINTS): "folder", **dict.fromkeys(files, "file")}.items():
        if os.path.lexists(path) and not (path.is_dir() if kind == "folder" else path.is_file()):
            yield f"{path}: expected a {kind} at this path; remove what is there, or name another training.run_path"


def _resolve_vocab_size(config: Config, tokenizer: Tokenizer) -> tuple[Config, list[str]]:
    size = config.model.vocab_size or tokenizer.vocab_size
    problems = []
    if size < tokenizer.vocab_size:
        problems.append(
            f"model.vocab_size {size} is smaller than the tokenizer's vocabulary of {tokenizer.vocab_size}; "
            "leave it out, or raise it"
        )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    tensor_parallel = config.parallel.tensor_model_parallel_size
    if config.model.padded_vocab_size % tensor_parallel:
        problems.append(
            f"the padded vocabulary of {config.model.padded_vocab_size} is not divisible by "
            f"parallel.tensor_model_parallel_size {tensor_parallel}; set model.make_vocab_size_divisible_by to a "
            f"multiple of {tensor_parallel}"
        )
    return config, problems


def _resume_problems(config: Config, checkpoint: Path) -> list[str]:
    """Return why a run can't resume from a checkpoint of its folder."""
    if not config.checkpoint.resume:
        return [
            f"training.run_path {config.training.run_path} already holds {checkpoint.name} and checkpoint.resume is "
            "false; name another folder, or resume"
        ]
    problems = refusals(config, checkpoint, PARTS)
    if TrainState.read(checkpoint).step > config.training.train_steps:
        problems.append(
            f"training.train_steps {config.training.train_steps}: {checkpoint} is already past it; raise it, or name "
            "another training.run_path"
        )
    return problems


def _init_problems(config: Config, checkpoint: Path) -> list[str]:
    """Return why a new run can't start from a checkpoint."""
    return refusals(config, checkpoint, TRAINED if config.checkpoint.init_optimizer else (WEIGHTS,))


def _settle_start(plan: Plan) -> Plan:
    """Return the plan with the checkpoint that all ranks agree on, every file of it verified; collective.

    Raises:
        PrealignError: No checkpoint is sound, or an older one that is used instead does not fit.
    """
    config, verify = plan.config, plan.config.checkpoint.verify
    resume_from, init_from = agree_on_checkpoint(config.training.run_path, verify), None
    problems: list[str] = []
    if resume_from is not None:
        if resume_from != plan.resume_from:
            problems = [*_resume_problems(config, resume_from), *_continue_problems(plan.objectives, resume_from)]
    elif config.checkpoint.init_from is not None:
        init_from = agree_on_checkpoint(config.checkpoint.init_from, verify)
        if init_from is not None and init_from != plan.init_from:
            problems = _init_problems(config, init_from)
    if problems:
        raise ConfigError(problems)
    if resume_from is not None:
        on_first_rank(lambda: folder.set_aside(config.training.run_path, resume_from))
    settled = dataclasses.replace(plan, resume_from=resume_from, init_from=init_from)
    if (resume_from, init_from) != (plan.resume_from, plan.init_from) and torch.distributed.get_rank() == 0:
        # The report before the start was about the checkpoint that is skipped.
        report = describe_weights(config, settled.read_state(), resume_from, init_from)
        print(report, file=sys.stderr, flush=True)
    return settled


def _continue_problems(objectives: list[tuple[ObjectivePlan, Weight]], checkpoint: Path | None) -> list[str]:
    """Return why the data of the objectives can't be continued from a checkpoint."""
    state = _read_state(checkpoint)
    return [problem for plan, _ in objectives for problem in plan.resume_problems(state, checkpoint)]


def build_index(plan: Plan) -> IndexCache:
    """Build what is missing of the sample index that the run will read; needs no process group."""
    index = IndexCache(cache_path(plan.config))
    plan.language_modelling.training_set(plan.read_state(), index)
    if plan.config.training.eval_interval > 0:
        plan.language_modelling.validation_sets(index)
    return index


def build_trainer(plan: Plan, platform: Platform, mesh: Mesh) -> Trainer:
    """Build model, optimizer, data and stage, and load what the plan continues or starts from; collective."""
    plan, config = _settle_start(plan), plan.config
    interruption = Interruption(config.training.exit_duration_minutes)
    state = _read_state(plan.resume_from)
    chunks = build_model_chunks(config, platform.device)
    with_optimizer = plan.resume_from or (plan.init_from if config.checkpoint.init_optimizer else None)
    if plan.init_from is not None and with_optimizer is None:
        load_weights(plan.init_from, chunks)
    chunks = wrap_data_parallel(chunks, config)
    optimizer = build_optimizer(chunks, config)
    taken_over = None
    if with_optimizer is not None:
        taken_over = load_training_state(with_optimizer, chunks, optimizer)
    schedule = build_schedule(optimizer, config)
    # The schedule is a function of the step and the configuration alone.
    schedule.step(state.step)
    taps = cache(lambda: Taps(chunks))
    throughput = Throughput(config, torch.distributed.get_world_size(), platform.peak_flops())
    surroundings = Surroundings(chunks, platform.device, mesh, taps, throughput.waiting)
    parts = [(objective.build(state, surroundings), weight) for objective, weight in plan.objectives]
    validator = Validator(plan.language_modelling, mesh, platform.device) if config.training.eval_interval else None
    word_validator = WordValidator(config, plan.pair_sets, taps(), mesh) if plan.pair_sets else None
    if mesh.rank == 0:
        print(f"Layers: {select_implementation(config.model, platform.name)[1]}.", file=sys.stderr, flush=True)
        if taken_over is not None and plan.resume_from is not None:
            for line in describe_resets(config, taken_over.differences):
                print(line, file=sys.stderr, flush=True)
    # Last: a run that can't be built leaves no record of itself.
    writer = _open_records(config, state.step) if mesh.rank == 0 else None
    if plan.resume_from is not None and taken_over is not None and taken_over.random_states is not None:
        set_random_states(taken_over.random_states)
    return Trainer(
        config=config,
        platform=platform,
        chunks=chunks,
        optimizer=optimizer,
        schedule=schedule,
        stage=Stage(config.training.stage, parts),
        validator=validator,
        word_validator=word_validator,
        metrics=writer,
        throughput=throughput,
        profile=ProfileWindow(config, mesh.rank),
        interruption=interruption,
        guard=Guard(config, state.step, interruption, writer.say if writer is not None else None),
        tokenizer_path=Path(config.data.tokenizer_path),
        state=state,
    )


def _open_records(config: Config, step: int) -> MetricsWriter:
    training = config.training
    Path(training.run_path).mkdir(parents=True, exist_ok=True)
    write_if_possible(Path(training.run_path) / folder.CONFIG, dump_config(config))
    return MetricsWriter(config, step)
