"""What a training of a given size takes, before it is begun: parameters, memory a GPU by part, tokens a second, days.

Everything is counted from the configs alone, in closed form; tests hold the parameters to those of built models (exactly) and the
activations to what autograd keeps (within 10 %).

Axes: B windows a GPU, T steps, P prompt positions, J tokens a step, S = P + J, N = T * S positions, D width, M hidden width of the SwiGLU,
H heads, C width of a token's vector, V ids of a codebook, W width of the text encoder.
"""

from dataclasses import asdict, dataclass, replace

from conditioning.text_config import TextConfig
from data.sources.dashsim import ACTIONS, TELEMETRY
from tokenizer.config import presets as tokenizer_presets
from tokenizer.memory import TRAINED_BYTES, USABLE, batch_advice
from worldgpt.config import ModelConfig, WorldTrainConfig, presets
from worldgpt.layout import Layout
from worldgpt.token_table import CHUNK, WAVES

FRAME_SIZES = {"gaia": (288, 512)}
USUAL_FRAME_SIZE = (64, 128)
CHANNELS = (TELEMETRY, ACTIONS)
"""What a preset is planned with: the channels of dashsim."""


@dataclass(frozen=True)
class Gpu:
    """One card, by its maker's figures."""

    memory_bytes: int
    flops: float
    """Dense bf16 matrix products, floating-point operations a second."""


GPUS = {
    "a100": Gpu(80 * 2**30, 312e12),
    "h100": Gpu(80 * 2**30, 989e12),
    "h200": Gpu(141 * 10**9, 989e12),
    "b200": Gpu(180 * 10**9, 2250e12),
    "l40s": Gpu(48 * 2**30, 362e12),
    "rtx4090": Gpu(24 * 2**30, 165e12),
}
"""Data sheets; SXM where there are several forms."""


def preset_layout(name: str) -> Layout:
    """The layout that a preset is made for: the codes of the tokenizer of its name, one camera, two channels of each kind."""
    tokenizer, size, world = tokenizer_presets()[name].tokenizer, FRAME_SIZES.get(name, USUAL_FRAME_SIZE), presets()[name]
    levels, grids = tokenizer.levels if tokenizer.quantizer == "fsq" else (), {"front": tokenizer.grid(*size)}
    return Layout.build(grids, tokenizer.vocabulary, *CHANNELS, world.text.prompt_tokens, levels, world.model.part_ids)


# -- parameters -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights by part."""

    blocks: int
    tables: int
    """Vectors of the codebooks, and what brings them in and out."""
    places: int
    text: int

    @property
    def total(self) -> int:
        return self.blocks + self.tables + self.places + self.text


def count_parameters(model: ModelConfig, layout: Layout, text: TextConfig) -> Parameters:
    """Exactly those of `WorldGPT` with a trained text encoder; a frozen one's projection is not known before its files are read.

    >>> demo = presets()["demo"]
    >>> count_parameters(demo.model, preset_layout("demo"), demo.text).total
    4997056
    """
    d, c, w = model.width, model.code_width, text.width
    tables = 2 * w * d + d * d  # prompts, looks, hints
    kinds = {s.codebook: s.kind for s in layout.streams}
    for book in layout.codebooks:
        tables += sum(min(WAVES, level) for level in book.levels) * c
        tables += sum((part + 1) * c + d * c + part for part in book.parts)  # rows, out, bias
        tables += ((d + c) * d + d * d) * (len(book.parts) - 1)  # from each part to the next
        tables += c * d + 2 * d * c * layout.hint_count(kinds[book.name]) + (2 * d * c if kinds[book.name] != "frame" else 0)
    places = layout.positions_per_step * d
    return Parameters(model.layers * (4 * d * d + 3 * d * model.mlp_width), tables, places, _text_parameters(text))


def _text_parameters(text: TextConfig) -> int:
    w = text.width
    ends = (text.vocab_size + text.max_pieces + 2 * text.prompt_tokens) * w + 2 * w + 4 * w * w + 2 * w  # tables, queries, null; pool; head
    return ends + text.layers * (4 * w + 4 * w * w + 8 * w * w + 5 * w)


# -- memory ---------------------------------------------------------------------------------------------------------------------


def block_activation_bytes(model: ModelConfig, layout: Layout, windows: int, bf16: bool) -> int:
    """What one block keeps for its backward pass. In bf16 the residual stream stays float32; the rest is what matrix products see."""
    positions = windows * model.context_steps * layout.positions_per_step
    narrow = 2 if bf16 else 4
    # The residual stream before attention and before the MLP, in float32. What the two norms give; queries and keys before and after they
    # are turned, values, the mixture and its copy with the heads side by side.
    wide = 2 * 4 * model.width + (2 + 7) * narrow * model.width
    hidden = 4 * narrow * model.mlp_width  # gate, its SiLU, up, their product
    statistics = 4 * (4 + 5 * model.heads)  # of four norms, and of the softmax
    return positions * (wide + hidden + statistics)


def end_activation_bytes(model: ModelConfig, layout: Layout, windows: int, bf16: bool, text: TextConfig, pieces: int = 16) -> int:
    """What embedding, text encoder and heads keep; `pieces` of one prompt a window."""
    steps, narrow, d, c = windows * model.context_steps, 2 if bf16 else 4, model.width, model.code_width
    known = 8 * steps * 3 * layout.tokens_per_step  # ids of the steps that are seen
    total = known + 4 * steps * layout.positions_per_step * (d + 2)  # and the last norm
    for stream in layout.streams:
        tokens, hints = steps * stream.tokens, layout.hint_count(stream.kind)
        ids = layout.codebook(stream).parts
        total += tokens * narrow * (c + hints * c + 5 * d)  # the token, what stands around it, the gate over that
        total += tokens * 8 * hints
        # Into each head, out of it, its softmax.
        total += sum(tokens * (narrow * (d + c) + 8) + 4 * min(tokens * part, CHUNK) for part in ids)
        total += tokens * (len(ids) - 1) * (8 + narrow * (c + (d + c) + 2 * d))  # the parts told, met and refined
    total += steps * layout.prompt_tokens * text.width * (4 + narrow)
    return total + windows * pieces * text.width * text.layers * 16 * narrow


def activation_bytes(config: WorldTrainConfig, layout: Layout, windows: int, bf16: bool, pieces: int = 16) -> int:
    """What is kept for the backward pass of `windows` windows; with checkpointing, the blocks' inputs and one block."""
    block = block_activation_bytes(config.model, layout, windows, bf16)
    ends = end_activation_bytes(config.model, layout, windows, bf16, config.text, pieces)
    if not config.activation_checkpointing:
        return ends + config.model.layers * block
    inputs = windows * config.model.context_steps * layout.positions_per_step * 4 * config.model.width
    return ends + config.model.layers * inputs + block


def cache_bytes(model: ModelConfig, layout: Layout, worlds: int, bf16: bool) -> int:
    """Keys, turned and unturned, and values of a rollout's window."""
    return 3 * (2 if bf16 else 4) * worlds * model.layers * model.context_steps * layout.positions_per_step * model.width


def decoder_bytes(model: ModelConfig, layout: Layout, bf16: bool) -> int:
    """What worldgpt/decoder.py keeps beside the model's own weights while worlds are rolled out: the blocks' matrices and the ways in and
    out as they are read fastest, and each codebook's vectors as rows of the model's width. A CPU in float32 keeps the matrices in a second
    form for several rows."""
    d, c = model.width, model.code_width
    numbers = model.layers * (4 * d * d + 3 * d * model.mlp_width)
    for book in layout.codebooks:
        ids = sum(part + 1 for part in book.parts)
        numbers += ids * (c + d) + sum(part * c + d * c for part in book.parts)  # vectors, rows; ids and ways out
        told = [sum(part + 1 for part in book.parts[: k + 1]) for k in range(len(book.parts) - 1)]
        numbers += sum(told) * d + (len(book.parts) - 1) * d * d  # what each part told adds to the next
    numbers += sum(2 * d * c * layout.hint_count(s.kind) for s in layout.streams)
    return (2 if bf16 else 4) * numbers


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU while it trains."""

    weights: int
    gradients: int
    optimizer: int
    running_mean: int
    gathered: int
    """Sharded: weights that are brought together for their turn. In bf16: their casts, which autocast holds through a forward pass."""
    activations: int
    working: int
    """Logits and the gradients that are on their way, at their largest."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def training_memory(config: WorldTrainConfig, layout: Layout, *, shards: int, bf16: bool) -> Memory:
    """Of `config.loop.batch_size` windows a GPU."""
    count, model, windows = count_parameters(config.model, layout, config.text), config.model, config.loop.batch_size
    moments = 8 * count.total if config.loop.optimizer == "adamw" else 4 * count.blocks + 8 * (count.total - count.blocks)
    gathered = 2 * count.total if bf16 else 0
    if shards > 1:
        gathered += 8 * (count.total - count.blocks + 2 * count.blocks // model.layers)  # weights and gradients of the ends and two blocks
    positions = windows * model.context_steps * layout.positions_per_step
    logits = max(windows * model.context_steps * s.tokens * max(layout.codebook(s).parts) for s in layout.streams)
    working = max(2 * 4 * logits, positions * 3 * model.mlp_width * (2 if bf16 else 4))
    return Memory(
        weights=4 * count.total // shards,
        gradients=4 * count.total // shards,
        optimizer=moments // shards,
        running_mean=4 * count.total // shards if config.loop.ema_decay else 0,
        gathered=gathered,
        activations=activation_bytes(config, layout, windows, bf16),
        working=working,
    )


# -- time -----------------------------------------------------------------------------------------------------------------------


def window_flops(model: ModelConfig, layout: Layout) -> float:
    """Forward and backward of one window: 6 a weight and position (Kaplan et al. 2020), and the causal half of attention's products."""
    steps, d, c = model.context_steps, model.width, model.code_width
    positions = steps * layout.positions_per_step
    blocks = positions * model.layers * (4 * d * d + 3 * d * model.mlp_width)
    # A token is brought in, its hints too, and compared with every id of its codebook.
    around = [c * d + layout.hint_count(s.kind) * c * 2 * d + d * d + d * c for s in layout.streams]
    ends = steps * sum(s.tokens * (a + c * sum(layout.codebook(s).parts)) for s, a in zip(layout.streams, around, strict=True))
    return 6.0 * (blocks + ends + positions**2 * d * model.layers)


@dataclass(frozen=True)
class Plan:
    """A training on so many GPUs."""

    parameters: Parameters
    memory: Memory
    cache: int
    """Bytes of a rollout's cache, one world."""
    decoder: int
    """Bytes that a rollout keeps beside the weights, however many worlds."""
    windows: int
    """In one update, over all GPUs."""
    tokens: float
    """In the whole training."""
    flops: float
    """Floating-point operations that the model needs for them; what checkpointing computes again is not counted."""
    tokens_per_s: float
    days: float


def plan(config: WorldTrainConfig, layout: Layout, gpu: Gpu, *, gpus: int, shards: int, bf16: bool, utilisation: float) -> Plan:
    """`utilisation` is the share of the GPU's rate at which the model's own operations are done.

    >>> made = plan(presets()["base"], preset_layout("base"), GPUS["h100"], gpus=1, shards=1, bf16=True, utilisation=0.4)
    >>> made.windows, 1 < 24 * made.days < 4
    (16, True)
    """
    loop, model = config.loop, config.model
    windows = loop.batch_size * loop.gradient_accumulation * gpus
    tokens = float(loop.steps) * windows * model.context_steps * layout.tokens_per_step
    flops = loop.steps * windows * window_flops(model, layout)
    again = 4 / 3 if config.activation_checkpointing else 1.0
    seconds = flops * again / (gpus * gpu.flops * utilisation)
    return Plan(
        count_parameters(model, layout, config.text),
        training_memory(config, layout, shards=shards, bf16=bf16),
        cache_bytes(model, layout, 1, bf16),
        decoder_bytes(model, layout, bf16),
        windows,
        tokens,
        flops,
        tokens / seconds,
        seconds / 86400,
    )


def largest_batch(config: WorldTrainConfig, layout: Layout, memory: int, *, shards: int = 1, bf16: bool = True) -> int:
    """Windows a GPU, at most `config.loop.batch_size`, whose training fits into `memory` bytes; 0 where not even one does."""
    for windows in range(config.loop.batch_size, 0, -1):
        smaller = replace(config, loop=replace(config.loop, batch_size=windows))
        if training_memory(smaller, layout, shards=shards, bf16=bf16).total <= USABLE * memory:
            return windows
    return 0


def advice(config: WorldTrainConfig, layout: Layout, memory: int, *, shards: int = 1, bf16: bool = True) -> str:
    """What to do where a training has run out of `memory` bytes: a batch that fits, checkpointing, or a smaller preset."""

    def fits(tried: WorldTrainConfig) -> int:
        return largest_batch(tried, layout, memory, shards=shards, bf16=bf16)

    if batch := fits(config):
        return batch_advice(config.loop, batch)
    if not config.activation_checkpointing and (batch := fits(replace(config, activation_checkpointing=True))):
        return f"--activation-checkpointing and --loop.batch-size {batch} should fit"
    own = count_parameters(config.model, layout, config.text).total
    for name, preset in reversed(presets().items()):
        smaller = count_parameters(preset.model, layout, preset.text).total < own
        if smaller and (batch := fits(preset)):
            return f"--preset {name} --loop.batch-size {batch} should fit"
    return f"no preset fits: the smallest needs {TRAINED_BYTES} bytes a parameter and its activations"
