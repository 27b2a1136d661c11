"""World models on the Hub: pushed with their tokenizer, a sample drive and a card of facts; pulled as the same checkpoint."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.folder import MARKER, atomic_folder, prepare_output, read_json, remove_if_unused
from data.hub import check_repo
from data.hub_card import CARD_FILE, license_lines, table
from data.hub_files import Access, Shipment, check_output, place, send
from tokenizer.checkpoint import checkpoint_folder
from tokenizer.weight_files import CONFIG, is_ours
from worldgpt.command import PLACES, training_command
from worldgpt.generate import generate
from worldgpt.generate_config import GenerateConfig
from worldgpt.model import WorldGPT
from worldgpt.pipeline import WorldGPTPipeline

TOKENIZER = "tokenizer"
SAMPLE = "sample"
SAMPLE_PROMPT, SAMPLE_FRAMES = "rainy night", 60


def push_checkpoint(folder: Path, repo: str, *, private: bool = False, license: str | None = None, token: str | bool | None = None) -> str:
    """Upload a training's checkpoint in one commit and return the page's address; makes the repository if need be.

    The card tells what the checkpoint's configs, run.json and report.json know, and leaves out the rest. After an interruption the next
    call sends only what is missing. UserError where the checkpoint is broken, the repository holds something else, is public though
    `private` is asked, or the Hub refuses.
    """
    check_repo(repo)
    pipeline = WorldGPTPipeline.from_pretrained(folder)
    return push_pipeline(pipeline, repo, private=private, license=license, token=token, records=folder)


def push_pipeline(
    pipeline: WorldGPTPipeline,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    token: str | bool | None = None,
    records: Path | None = None,
) -> str:
    """As `push_checkpoint`, of a pipeline in memory; `records` is the folder of its training, if there is one."""
    check_repo(repo)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline.save_pretrained(folder)
        if pipeline.tokenizer is not None:
            generate(
                GenerateConfig(checkpoint=str(folder), prompt=(SAMPLE_PROMPT,), frames=SAMPLE_FRAMES, output=str(folder / f"{SAMPLE}.mp4"))
            )
        card = model_card(pipeline, repo, license, records)
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        shipment = Shipment(
            large={name: path for name, path in files.items() if not name.endswith(".json")},
            small={**{name: path for name, path in files.items() if name.endswith(".json")}, CARD_FILE: card.encode()},
            message=f"Model {pipeline.model.content_hash()[:12]}",
            stale=lambda name: is_ours(name.rpartition("/")[2]) or name.startswith(f"{SAMPLE}."),
            expected=CONFIG,
            named="a world model of ours",
        )
        return send(repo, "model", shipment, private=private, token=token)


def pull_checkpoint(
    repo: str, output: Path, *, revision: str | None = None, overwrite: bool = False, token: str | bool | None = None
) -> WorldGPTPipeline:
    """Fetch a world model into the folder `output`, whole or not at all, and load it.

    Only configs and safetensors are fetched, and all are looked at before they are loaded. UserError where the repository holds no
    world model, a broken or a hostile one, or `output` is in use and not `overwrite`.
    """
    check_repo(repo)
    check_output(output, overwrite)
    cached = checkpoint_folder(repo, WorldGPT.kind, ("", TOKENIZER), Access(revision, token=token))
    pipeline = WorldGPTPipeline.from_pretrained(cached)
    prepare_output(output, resume=True)
    try:
        with atomic_folder(output) as part:
            for folder in (cached, cached / TOKENIZER):
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if is_ours(path.name):
                        place(path, part / path.relative_to(cached))
            (part / MARKER).touch()
    finally:
        remove_if_unused(output)
    return pipeline


def model_card(pipeline: WorldGPTPipeline, repo: str, license: str | None, records: Path | None) -> str:
    """Markdown with a YAML header; what is not known is left out."""
    model, name = pipeline.model, repo.rpartition("/")[2]
    config, layout = model.config, model.layout
    height, width = config.frame_size
    frame = sum(stream.tokens for stream in layout.of_kind("frame"))
    run, report = (_read(records, file) for file in ("run.json", "report.json"))
    parts = [
        "\n".join(["---", *license_lines(license), "library_name: worldgpt", "tags:", "- driving", "- world-model", "- worldgpt", "---"]),
        f"# {name}",
        f"A driving world model: {model.num_parameters():,} parameters, {config.layers} blocks of width {config.width}, "
        f"{config.context_steps} steps of context; {frame} codes a frame of {height}x{width} pixels at {config.fps:g} frames a second.",
        *([f"![a drive under the prompt '{SAMPLE_PROMPT}']({SAMPLE}.png)"] if pipeline.tokenizer is not None else []),
        table(("channel", "name", "unit", "range"), _channels(model)),
        "## How to use it",
        f'```bash\npython scripts/generate.py --checkpoint {repo} --prompt "{SAMPLE_PROMPT}"\n```',
        f"```python\nfrom worldgpt.pipeline import WorldGPTPipeline\n\n"
        f'pipe = WorldGPTPipeline.from_pretrained("{repo}")\ndrive = pipe("{SAMPLE_PROMPT}", frames=100)\n```',
        *_figures(report),
        *_training(run),
        *_limits(pipeline, run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _channels(model: WorldGPT) -> list[tuple[str, ...]]:
    return [
        (kind, channel.name, channel.unit, f"{channel.low:g} to {channel.high:g}")
        for kind, channels in (("telemetry", model.telemetry), ("action", model.actions))
        for channel in channels.specs
    ]


def _figures(report: dict[str, Any]) -> list[str]:
    """Held-out figures beside those of the baselines, and the tokenizer's own error, as the trainings measured them."""
    columns = {"world model": report.get("held_out"), **report.get("baselines", {})}
    known = {name: values for name, values in columns.items() if isinstance(values, dict)}
    rows = [
        (figure, *(f"{values[figure]:.3f}" if figure in values else "" for values in known.values()))
        for figure in known.get("world model", {})
    ]
    parts = ["## Held-out drives, nats a token", table(("", *known), rows)] if rows else []
    floor = report.get("tokenizer")
    if isinstance(floor, dict) and "psnr_db" in floor:
        masks = {name: values for name, values in (floor.get("masks") or {}).items() if values}
        inside = "".join(f", inside {name} {values['psnr_db']:.1f} dB" for name, values in masks.items())
        parts.append(
            f"The floor of all pictures, the tokenizer's own error: PSNR {floor['psnr_db']:.1f} dB, SSIM {floor['ssim']:.3f}{inside}."
        )
    return parts


def _limits(pipeline: WorldGPTPipeline, run: dict[str, Any]) -> list[str]:
    """What the checkpoint's own numbers say that it cannot know."""
    config, words = pipeline.model.config, pipeline.model.caption_words
    seen = config.context_steps / config.fps
    lines = [f"It remembers {config.context_steps} steps ({seen:.1f} s); what it saw earlier it may dream anew."]
    lines.append(
        f"It knows frames of {config.frame_size[0]}x{config.frame_size[1]} pixels at {config.fps:g} a second, and no other cameras."
    )
    if words is not None:
        lines.append(f"It has read {len(words.counts)} different words; prompts of others mean little to it, and say so.")
    sets = [one for one in run.get("data", []) if isinstance(one, dict) and "train" in one]
    if sets:
        hours = sum(one["train"]["steps"] / one["fps"] / 3600 for one in sets)
        drives = sum(one["train"]["drives"] for one in sets)
        lines.append(f"It has seen {hours:.1f} hours of driving in {drives} drives; what did not happen there it has not learned.")
    return ["## Limits", "\n".join(f"- {line}" for line in lines)]


def _training(run: dict[str, Any]) -> list[str]:
    config = run.get("config")
    if not isinstance(config, dict):
        return []
    settings = {name: value for name, value in config.items() if name not in (*PLACES, "from_run", "resume", "overwrite")}
    facts = [f"Data: `{run['data_hash']}`."] if "data_hash" in run else []
    facts += [f"Tokenizer: `{run['tokenizer_hash']}`."] if "tokenizer_hash" in run else []
    facts += [f"```bash\n{training_command(config)}\n```", "All settings:", f"```json\n{json.dumps(settings, indent=1)}\n```"]
    return ["## How it was trained", *facts]


def _read(records: Path | None, name: str) -> dict[str, Any]:
    if records is None or not (records / name).is_file():
        return {}
    found = read_json(records / name)
    return found if isinstance(found, dict) else {}
