"""Parameters of a model, floating-point operations and memory of its training, from the configuration alone.

Only operations that the model needs are counted (Megatron-LM's formula; PaLM's, minus what a causal mask saves): matrix
products, two operations per multiplication, three times for forward and backward pass. Recomputation, norms,
activations and embedding look-ups are not counted.

Bytes of weights, gradients and optimizer states are exact but for the padding of megatron-core's buffers. Activations
are what autograd keeps of local layers with flash attention (Korthikanti et al., arXiv 2205.05198, sec. 4, for other
layers). Not counted: the CUDA context, NCCL's buffers, workspaces, fragmentation, word and sentence passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from megatron_prealign.config.model import ModelConfig
from megatron_prealign.config.root import Config
from megatron_prealign.config.validation import count_microbatches, model_parallel_size

_OPERATIONS = 2 * 3
"""A multiplication and an addition; forward, gradient of the input and gradient of the weight."""
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_GRADIENT, _MAIN, _MOMENTS, _SECOND_MOMENT = 4, 4, 8, 4
# The loss converts logits to fp32 in blocks: one of them, and its gradient (model/cross_entropy.py).
_LOSS_BLOCK = 2 * 4 * (1 << 26)

PEAK_TERAFLOPS: Mapping[str, float] = {
    # NVIDIA, from the data sheets; a figure with sparsity is halved.
    "GB300": 2500,
    "B300": 2250,
    "GB200": 2500,
    "B200": 2250,
    "B100": 1750,
    "H200 NVL": 835,
    "H200": 989,
    "GH200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A40": 149.7,
    "A30": 165,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "RTX 4090": 165.2,
    "RTX 3090": 71,
    # AMD; of MI250X each half is a GPU of its own.
    "MI355X": 2500,
    "MI350X": 2300,
    "MI325X": 1307,
    "MI300X": 1307,
    "MI300A": 981,
    "MI250X": 191.5,
    "MI250": 181,
    "MI210": 181,
}
"""Dense TFLOP/s in bf16 (fp16 if it has no bf16) by the words of a GPU's name, the more specific first."""


def count_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Count all parameters, including biases, norms and padded embedding rows.

    Args:
        model: Sizes and architecture, preset resolved.
        vocab_size: Vocabulary in tokens before padding.
    """
    rows = replace(model, vocab_size=vocab_size).padded_vocab_size
    num_embeddings = 2 if model.untie_embeddings_and_output_weights else 1
    return num_embeddings * rows * model.hidden_size + count_non_embedding_parameters(model)


def count_layer_matrices(model: ModelConfig) -> int:
    """Count the weights of one layer's matrices, without biases and norms."""
    query = model.num_attention_heads * model.head_size
    key_value = 2 * model.num_key_value_heads * model.head_size
    return model.hidden_size * (2 * query + key_value) + count_mlp_matrices(model)


def count_mlp_matrices(model: ModelConfig) -> int:
    """Count the weights of the matrices of one layer's MLP."""
    return model.hidden_size * (3 if model.traits.has_gated_mlp else 2) * model.ffn_hidden_size  # gate and up


def count_non_embedding_parameters(model: ModelConfig) -> int:
    """Count the parameters of the layers and the final norm, which do not depend on the vocabulary."""
    hidden, ffn, traits = model.hidden_size, model.ffn_hidden_size, model.traits
    attention = model.num_attention_heads * model.head_size
    qkv = attention + 2 * model.num_key_value_heads * model.head_size
    fc1 = 2 * ffn if traits.has_gated_mlp else ffn  # gate and up projection
    norm = hidden if traits.normalization == "RMSNorm" else 2 * hidden  # LayerNorm also has a bias
    biases = qkv if traits.has_qkv_bias else 0
    if traits.has_linear_bias:
        biases += hidden + fc1 + hidden
    qk_norms = 2 * model.head_size if traits.has_qk_norm else 0
    return model.num_layers * (count_layer_matrices(model) + biases + qk_norms + 2 * norm) + norm


def count_flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Count the operations of training per token of language modelling.

    Args:
        model: Sizes and architecture, preset and vocabulary resolved.
        seq_length: Tokens per sequence.
    """
    # A position sees half of the sequence on average: once for the scores, once for the sum of values.
    attention = 2 * model.num_layers * model.num_attention_heads * model.head_size * seq_length // 2
    vocabulary = model.hidden_size * model.padded_vocab_size
    return count_word_flops_per_token(model) + _OPERATIONS * (attention + vocabulary)


def count_word_flops_per_token(model: ModelConfig) -> int:
    """Count the operations of training per token of stage 1's words.

    Words do not pass the vocabulary projection. Attention within the few tokens of a word and the contrastive loss are
    not counted.
    """
    return _OPERATIONS * model.num_layers * count_layer_matrices(model)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's moments or Muon's momentum, and fp32 copies of weights that are not fp32."""
    activations: int
    """Of all microbatches between their forward and backward pass."""
    logits: int
    """Of one microbatch, with the loss's fp32 blocks; on the last pipeline rank only."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def step_memory(config: Config, world_size: int) -> list[StepMemory]:
    """Estimate the memory of a step on each pipeline rank, in their order.

    Args:
        config: Checked for this number of ranks; preset and vocabulary resolved.
        world_size: Number of ranks.
    """
    return [_of_rank(config, world_size, rank) for rank in range(config.parallel.pipeline_model_parallel_size)]


def rank_parameters(config: Config, pipeline_rank: int) -> int:
    """Count the parameters of one rank, its share of split ones and its copy of the others."""
    model, parallel = config.model, config.parallel
    tensor, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    hidden, traits = model.hidden_size, model.traits
    norm = hidden if traits.normalization == "RMSNorm" else 2 * hidden
    query, key_value = _head_widths(model, tensor)
    fc1 = (2 if traits.has_gated_mlp else 1) * model.ffn_hidden_size // tensor
    layer = hidden * (query + 2 * key_value + query + fc1 + model.ffn_hidden_size // tensor) + 2 * norm
    if traits.has_qkv_bias:
        layer += query + 2 * key_value
    if traits.has_linear_bias:
        layer += fc1 + 2 * hidden
    if traits.has_qk_norm:
        layer += 2 * model.head_size
    rows = model.padded_vocab_size // tensor * hidden
    is_first, is_last = pipeline_rank == 0, pipeline_rank == stages - 1
    # The last of several pipeline ranks holds a copy of tied embeddings.
    has_output = is_last and (model.untie_embeddings_and_output_weights or not is_first)
    return model.num_layers // stages * layer + rows * (is_first + has_output) + norm * is_last


def saved_by_muon(config: Config) -> int:
    """Return the bytes of the second moments that the whole model's matrices do not have; 0 with AdamW."""
    has_muon = config.optimizer.name == "muon"
    return _SECOND_MOMENT * config.model.num_layers * count_layer_matrices(config.model) if has_muon else 0


def count_orthogonalization_flops(config: Config, num_replicas: int) -> int:
    """Count the operations by which one rank orthogonalizes its share of whole matrices in a step; 0 with AdamW.

    Replicas of a pipeline rank share the layers; tensor-parallel ranks do the same work. An iteration takes three
    products: of a matrix and its transpose, of the result with itself and with the matrix.
    """
    if config.optimizer.name != "muon":
        return 0
    model, attention = config.model, config.model.num_attention_heads * config.model.head_size
    fc1 = (2 if model.traits.has_gated_mlp else 1) * model.ffn_hidden_size
    widths = (attention + 2 * model.num_key_value_heads * model.head_size, attention, fc1, model.ffn_hidden_size)
    sides = [sorted((model.hidden_size, width)) for width in widths]
    products = sum(2 * short**2 * long + short**3 for short, long in sides)
    layers = -(-model.num_layers // (config.parallel.pipeline_model_parallel_size * num_replicas))
    return 2 * config.optimizer.muon_ns_steps * layers * products


def _head_widths(model: ModelConfig, tensor: int) -> tuple[int, int]:
    """Return the widths of one tensor-parallel rank's queries, and of its keys; several ranks may share one group."""
    return model.num_attention_heads // tensor * model.head_size, model.num_key_value_heads * model.head_size // tensor


def _of_rank(config: Config, world_size: int, rank: int) -> StepMemory:
    parallel, number_bytes = config.parallel, _BYTES[config.training.precision]
    parameters = rank_parameters(config, rank)
    per_parameter = _MOMENTS + (_MAIN if number_bytes < _MAIN else 0)
    copies = world_size // model_parallel_size(config) * parallel.context_parallel_size
    owned = -(-parameters // copies) if parallel.use_distributed_optimizer else parameters
    is_last = rank == parallel.pipeline_model_parallel_size - 1
    saved = saved_by_muon(config) // (parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size)
    return StepMemory(
        weights=parameters * number_bytes,
        gradients=parameters * _GRADIENT,
        optimizer=owned * per_parameter - saved,
        activations=_activations(config, world_size, rank),
        logits=_logits(config) if is_last else 0,
    )


def _tokens(config: Config) -> int:
    """Return the tokens of a microbatch on one context-parallel rank."""
    return config.training.micro_batch_size * config.data.seq_length // config.parallel.context_parallel_size


def _logits(config: Config) -> int:
    rows = config.model.padded_vocab_size // config.parallel.tensor_model_parallel_size
    numbers = _tokens(config) * rows
    return numbers * _BYTES[config.training.precision] + min(_LOSS_BLOCK, 2 * 4 * numbers)


def _activations(config: Config, world_size: int, rank: int) -> int:
    """Return the bytes that autograd keeps of all microbatches in flight, and what recomputation rebuilds at a time."""
    model, parallel, training = config.model, config.parallel, config.training
    stages, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size or 1
    num_microbatches = count_microbatches(config, world_size)
    if virtual == 1:
        in_flight = min(stages - rank, num_microbatches)
    else:
        in_flight = min(2 * (stages - rank - 1) + (virtual - 1) * stages + 1, num_microbatches * virtual)
    chunk_layers = model.num_layers // (stages * virtual)
    border = model.hidden_size * _BYTES[training.precision]
    if parallel.sequence_parallel:
        border //= parallel.tensor_model_parallel_size
    layer = _layer_bytes_per_token(config)
    if training.recompute == "full":
        each = -(-chunk_layers // training.recompute_num_layers) * border
        rebuilt = training.recompute_num_layers * layer
    else:
        rebuilt = _mlp_bytes_per_token(config) if training.recompute == "mlp" else 0
        each = chunk_layers * (layer - rebuilt)
    # Also the input of the output layer.
    final = border if rank == stages - 1 else 0
    return _tokens(config) * (in_flight * each + rebuilt + final)


def _layer_bytes_per_token(config: Config) -> int:
    """Return what autograd keeps of one layer, in bytes per token of a microbatch on one rank."""
    model, parallel, number_bytes = config.model, config.parallel, _BYTES[config.training.precision]
    tensor, traits = parallel.tensor_model_parallel_size, model.traits
    query, key_value = _head_widths(model, tensor)
    # Inputs and outputs of both norms; split along the sequence under sequence parallelism.
    unsplit = 4 * model.hidden_size // (tensor if parallel.sequence_parallel else 1)
    # The projection, whose values attention keeps; rotated queries and keys; their norms; attention's output.
    attention = (query + 2 * key_value) + (query + key_value) + query
    if traits.has_qk_norm:
        attention += query + key_value
    log_sums = 4 * model.num_attention_heads // tensor
    masks = 2 * model.hidden_size // (tensor if parallel.sequence_parallel else 1) if model.hidden_dropout else 0
    return number_bytes * (unsplit + attention) + _mlp_bytes_per_token(config) + log_sums + masks


def _mlp_bytes_per_token(config: Config) -> int:
    """Return what of that lies between the two matrices of the MLP."""
    model = config.model
    inner = (3 if model.traits.has_gated_mlp else 2) * model.ffn_hidden_size
    return _BYTES[config.training.precision] * inner // config.parallel.tensor_model_parallel_size
