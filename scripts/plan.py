"""What a training takes before it is begun: `python scripts/plan.py --preset gaia --gpus 64`."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

import cli

from data.errors import UserError


@dataclass(frozen=True)
class PlanConfig:
    """Parameters, memory a GPU by part, tokens a second and days of a preset of the world model."""

    preset: Literal["demo", "small", "base", "large", "gaia"] = "gaia"
    """Size of the world model, with the tokenizer, batch and updates of that name."""
    gpus: int = 64
    """Number of GPUs."""
    gpu: Literal["a100", "h100", "h200", "b200", "l40s", "rtx4090"] = "h100"
    """Their kind, which says memory and peak rate."""
    utilisation: float = 0.35
    """Share of the data sheet's peak that the model's own operations reach (a log's flops_utilisation is a share of a measured peak)."""
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"
    """A copy of the model on every GPU, or its weights sharded over them; 'auto' copies where that fits."""
    batch_size: int | None = None
    """Windows a GPU at a time, if not the preset's."""
    gradient_accumulation: int | None = None
    """Micro-batches an update, if not the preset's."""
    steps: int | None = None
    """Updates, if not the preset's."""
    activation_checkpointing: Literal["preset", "on", "off"] = "preset"
    """Whether only the inputs of blocks are kept for the backward pass; as the preset says, if nothing else is asked for."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Numbers of the forward pass."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus: expected at least 1, got {self.gpus}")
        if not 0 < self.utilisation <= 1:
            raise UserError(f"--utilisation: expected more than 0 and at most 1, got {self.utilisation}")


def main() -> None:
    config = cli.parse(PlanConfig)
    from worldgpt import plan
    from worldgpt.config import presets

    given = {name: getattr(config, name) for name in ("batch_size", "gradient_accumulation", "steps") if getattr(config, name) is not None}
    preset = presets()[config.preset]
    asked = config.activation_checkpointing
    checkpointing = preset.activation_checkpointing if asked == "preset" else asked == "on"
    train = replace(preset, activation_checkpointing=checkpointing, loop=replace(preset.loop, **given))
    card, layout, bf16 = plan.GPUS[config.gpu], plan.preset_layout(config.preset), config.precision == "bf16"
    whole = plan.largest_batch(train, layout, card.memory_bytes, bf16=bf16) == train.loop.batch_size
    shards = config.gpus if config.sharding == "fsdp" or (config.sharding == "auto" and not whole) else 1
    if shards > 1:
        train = replace(train, loop=replace(train.loop, optimizer="adamw"))
    made = plan.plan(train, layout, card, gpus=config.gpus, shards=shards, bf16=bf16, utilisation=config.utilisation)
    print("\n".join(lines(config, train, layout, made, shards, card.memory_bytes)))
    if made.memory.total > plan.USABLE * card.memory_bytes:
        print(f"does not fit: {plan.advice(train, layout, card.memory_bytes, shards=shards, bf16=bf16)}")


def lines(config: PlanConfig, train, layout, made, shards: int, memory: int) -> list[str]:
    """The plan as text."""
    gib, loop, steps = 2**30, train.loop, train.model.context_steps
    frames = ", ".join(f"{s.rows}x{s.columns} codes of {layout.codebook(s).size}" for s in layout.of_kind("frame"))
    parts = ", ".join(f"{name} {count:,}" for name, count in asdict(made.parameters).items())
    kind = f"sharded over {shards} (FSDP2)" if shards > 1 else "a copy on each (DDP)" if config.gpus > 1 else "one"
    hours, kept = 24 * made.days, "inputs of blocks kept" if train.activation_checkpointing else "all activations kept"
    duration = f"{made.days:.1f} days" if hours >= 48 else f"{hours:.1f} hours" if hours >= 2 else f"{60 * hours:.1f} min"
    return [
        f"{config.preset}: {made.parameters.total:,} parameters ({parts})",
        f"{steps} steps of {layout.positions_per_step} positions; {frames} a step",
        f"{config.gpus} x {config.gpu} ({memory / gib:.0f} GiB), {kind}; {config.precision}, {loop.optimizer}, {kept}; "
        f"{loop.batch_size} windows x {loop.gradient_accumulation} x {config.gpus} = {made.windows} an update",
        "memory a GPU:",
        *(f"  {name.replace('_', ' '):<14}{count / gib:8.2f} GiB" for name, count in asdict(made.memory).items()),
        f"  {'together':<14}{made.memory.total / gib:8.2f} GiB",
        f"a rollout: {made.decoder / gib:.2f} GiB beside the weights, and {made.cache / gib:.2f} GiB of cache a world",
        f"at {config.utilisation:.0%} of the peak: {made.tokens_per_s:,.0f} tokens/s, {duration} "
        f"for {loop.steps:,} updates ({made.tokens / 1e9:,.1f} billion tokens, {made.flops:.2g} floating-point operations)",
    ]


if __name__ == "__main__":
    cli.main(main)
