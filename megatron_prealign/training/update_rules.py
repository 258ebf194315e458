"""What a step makes of the gradients: AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest.

megatron-core's distributed optimizer cannot reload torch's AdamW, which keeps a `step` for each parameter. Apex and
Transformer Engine keep one for each parameter group, and so does this AdamW, which is registered in apex's place where
neither is installed. megatron-core's Muon needs a package that is not on PyPI.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from megatron_prealign.errors import CheckpointError
from megatron_prealign.optional_packages import is_usable
from megatron_prealign.platform.megatron.optimizer import use_adamw
from megatron_prealign.platform.mesh import Axis, is_split

# Numbers that one rank orthogonalizes together, and that it gathers from the others: 256 MiB in fp32, and in bf16.
_ORTHOGONALIZED, _GATHERED = 1 << 26, 1 << 27


def orthogonalize(matrices: Tensor, num_iterations: int) -> Tensor:
    """Return the matrices with all singular values near 1.

    The Newton-Schulz iteration of Keller Jordan's Muon (https://kellerjordan.github.io/posts/muon) with his polynomial,
    which is steep at 0 rather than exact at 1. torch.optim's takes one matrix, and computes in bf16 only. Permuting
    rows or columns permutes the result.

    Args:
        matrices: [N, rows, columns] of the type to compute in.
        num_iterations: 5 bring singular values of at least a 500th of the matrix's norm to between 0.68 and 1.21.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    result = matrices.mT if is_tall else matrices
    result = result / torch.linalg.vector_norm(result, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(num_iterations):
        gram = result @ result.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        result = torch.baddbmm(result, polynomial, result, beta=3.4445)
    return result.mT if is_tall else result


def adamw_scale(rows: int, columns: int) -> float:
    """Return the factor that gives an orthogonal matrix the root mean square of AdamW's updates (arXiv 2502.16982)."""
    return 0.2 * math.sqrt(max(rows, columns))


class GroupStepAdamW(torch.optim.Optimizer):
    """torch's fused AdamW kernel with one `step` per parameter group."""

    def __init__(self, params: Any, adam_w_mode: bool = True, capturable: bool = False, **defaults: Any) -> None:
        """Take apex's arguments: lr, weight_decay, betas, eps; weight decay must be decoupled.

        From 0.19 on megatron-core passes `capturable` too; other AdamWs keep no such entry in their groups.
        """
        assert adam_w_mode, "only decoupled weight decay"
        assert not capturable, "no CUDA graphs of the optimizer's step"
        # Apex's and Transformer Engine's AdamW read it from the groups, which this one may have saved.
        super().__init__(params, {**defaults, "bias_correction": True})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of any AdamW that keeps `step` in the parameter group.

        Raises:
            CheckpointError: It was saved with an option that this one lacks.
        """
        if not all(group.get("bias_correction", True) for group in state_dict["param_groups"]):
            raise CheckpointError(
                "the optimizer was saved with bias_correction off, which only the AdamW of Transformer Engine and apex "
                "offer; resume where one of them is installed, or load only the weights with checkpoint.init_from"
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; count one step for every group.

        Groups without parameters count too: in the distributed optimizer other ranks may hold their parameters, and
        rank 0's groups are saved for all.
        """
        assert closure is None, "megatron-core's optimizers call step without a closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
            step = group.get("step", 0)
            if parameters:
                self._update(group, parameters, step)
            group["step"] = step + 1

    def _update(self, group: dict[str, Any], parameters: list[torch.Tensor], step: int) -> None:
        # The kernel increments the steps that it gets; these are copies of the group's one.
        steps = torch.full((len(parameters),), float(step), device=parameters[0].device).unbind()
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [self.state[parameter]["exp_avg"] for parameter in parameters],
            [self.state[parameter]["exp_avg_sq"] for parameter in parameters],
            [],
            list(steps),
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


class Muon(GroupStepAdamW):
    """Muon (arXiv 2502.16982) for hidden matrices; AdamW with the same learning rate and weight decay for the rest.

    The state of a matrix is its momentum alone, and only by that a step knows it from the other parameters:
    megatron-core puts fp32 copies in the place of the parameters, and keeps their state.
    """

    def __init__(
        self,
        params: Any,
        *,
        matrices: Collection[Tensor],
        momentum: float,
        num_iterations: int,
        dtype: torch.dtype,
        tensor: Axis,
        replicas: Axis,
        **options: Any,
    ) -> None:
        """Take the arguments of AdamW, and those of Muon, which apply to a continued run too.

        Args:
            params: groups, of the model's parameters.
            matrices: parameters that Muon updates.
            momentum: decay of the averaged gradients, with Nesterov's look-ahead.
            num_iterations: of the orthogonalization.
            dtype: in which it computes.
            tensor: ranks that hold the parts of split matrices.
            replicas: ranks that hold the same parameters and gradients.
            options: of AdamW.
        """
        super().__init__(params, **options)
        self._momentum, self._num_iterations, self._dtype = momentum, num_iterations, dtype
        self._tensor, self._replicas = tensor, replicas
        chosen = {id(matrix) for matrix in matrices}
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if id(parameter) in chosen:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], step: int) -> None:
        others = [parameter for parameter in parameters if "exp_avg_sq" in self.state[parameter]]
        if others:
            super()._update(group, others, step)
        matrices = [parameter for parameter in parameters if "exp_avg_sq" not in self.state[parameter]]
        for batch in self._batches(matrices):
            self._update_batch(group, batch)

    def _batches(self, matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Yield matrices that have one shape and are split alike, as many as are orthogonalized together."""
        alike: dict[Any, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            alike[matrix.shape, self._split_dim(matrix)].append(matrix)
        for (shape, dim), found in alike.items():
            numbers = math.prod(shape)
            each = _ORTHOGONALIZED // (numbers if dim is None else numbers * self._tensor.size)
            count = max(min(each * self._replicas.size, _GATHERED // numbers), 1)
            yield from (found[start : start + count] for start in range(0, len(found), count))

    def _split_dim(self, matrix: Tensor) -> int | None:
        """Return the dimension in which tensor-parallel ranks hold parts of a matrix; None if each holds the whole."""
        return int(matrix.partition_dim) if is_split(matrix) else None  # type: ignore[attr-defined,arg-type]

    def _update_batch(self, group: dict[str, Any], matrices: list[Tensor]) -> None:
        dim = self._split_dim(matrices[0])
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        averages = [self.state[matrix]["exp_avg"] for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - self._momentum)
        updates = self._updates(gradients, averages, dim)
        sides = [self._tensor.size * side if axis == dim else side for axis, side in enumerate(matrices[0].shape)]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, updates.unbind(), alpha=-group["lr"] * adamw_scale(*sides))

    def _updates(self, gradients: list[Tensor], averages: list[Tensor], dim: int | None) -> Tensor:
        """Return this rank's parts of orthogonal matrices; collective.

        Each replica orthogonalizes its share of the matrices, and all get all.

        Args:
            gradients: N parts of matrices, [rows, columns].
            averages: of the gradients.
            dim: in which the matrices are split, of [rows, columns]; None if they are whole.

        Returns:
            [N, rows, columns].
        """
        count = -(-len(gradients) // self._replicas.size)
        share = slice(self._replicas.rank * count, (self._replicas.rank + 1) * count)
        # A gather would take a place for each replica, and there may be far more replicas than matrices.
        is_summed = len(gradients) < self._replicas.size
        slots = len(gradients) if is_summed else count
        updates = gradients[0].new_zeros((slots, *gradients[0].shape), dtype=self._dtype)
        if gradients[share]:
            # Nesterov's look-ahead: the next average if the gradient came once more.
            ahead = torch._foreach_lerp(gradients[share], averages[share], self._momentum)
            whole = self._join(torch.stack(ahead).to(self._dtype), dim)
            start = share.start if is_summed else 0
            updates[start : start + len(ahead)] = self._part(orthogonalize(whole, self._num_iterations), dim)
        if is_summed:
            torch.distributed.all_reduce(updates, group=self._replicas.group)
            return updates
        return _gather(updates, self._replicas)[: len(gradients)]

    def _join(self, parts: Tensor, dim: int | None) -> Tensor:
        """Return the whole matrices [N, ...] from this rank's parts [N, rows, columns]; collective.

        Parts follow each other in the order of ranks. In the model some interleave (a gated MLP's first layer); those
        rows are only permuted.
        """
        if dim is None:
            return parts
        return torch.cat(_gather(parts, self._tensor).chunk(self._tensor.size), dim=1 + dim)

    def _part(self, whole: Tensor, dim: int | None) -> Tensor:
        """Return this rank's part of matrices; the inverse of `_join`."""
        return whole if dim is None else whole.chunk(self._tensor.size, dim=1 + dim)[self._tensor.rank]


def _gather(own: Tensor, axis: Axis) -> Tensor:
    """Join the tensors [N, ...] of all ranks to [ranks * N, ...]; collective."""
    if axis.size == 1:
        return own
    joined = own.new_empty((axis.size * len(own), *own.shape[1:]))
    torch.distributed.all_gather_into_tensor(joined, own, group=axis.group)
    return joined


def register(device: torch.device) -> None:
    """Make megatron-core use `GroupStepAdamW` if no other AdamW is installed or can run."""
    if device.type == "cpu" or not (is_usable("transformer_engine") or is_usable("apex")):
        use_adamw(GroupStepAdamW)
