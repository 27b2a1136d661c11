"""Does a world model do what it is told: prompts, actions and its own telemetry, read back from the pictures.

Every figure stands beside what the measuring networks reach on real frames and on the tokenizer's reconstructions of them, and beside
rollouts with other actions and with none: the context alone gives much of the true path away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.dashsim.captions import LOOK_WORDS, TIME_WORDS
from data.store import EpisodeStore
from worldgpt.evaluate.control_actions import measure_actions, measure_lateral, measure_path, measure_telemetry
from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.control_prompts import measure_disentanglement, measure_prompts
from worldgpt.evaluate.control_scene import Scene, context_steps, reconstructed
from worldgpt.evaluate.counterfactuals import COUNTERFACTUALS, lateral_commands
from worldgpt.evaluate.logged import Logged, find_places, read_logged, straight_places
from worldgpt.evaluate.networks import ready_networks
from worldgpt.evaluate.prompt_cases import PromptCase, cases_of
from worldgpt.evaluate.read_back import read_drives
from worldgpt.evaluate.trips import Drawing, Driven, Trip, expected_minutes, run_trips
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.placement import settle_threads
from worldgpt.sampling import SamplingConfig


def evaluate_control(config: ControlConfig) -> dict[str, Any]:
    """Measure, and write the report; a line says before how long it will take."""
    from data.folder import prepare_output
    from worldgpt.evaluate.control_report import write_control_report

    config = config.shortened()
    pipeline = WorldGPTPipeline.from_pretrained(config.checkpoint)
    store = EpisodeStore.open(config.data)
    frames = config.frames
    logged = read_logged(pipeline, store, find_places(store, config.split, context_steps(pipeline) + frames, config.rollouts), frames)
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    settle_threads(pipeline.model.device, min(config.batch, config.rollouts))
    cases = cases_of(store, config.split, config.heldout_split, config.rollouts, config.seed)
    straight = _straight(pipeline, store, config)
    trips = plan_trips(pipeline, config, logged, straight, cases)
    drawing = Drawing(SamplingConfig(config.temperature, top_p=config.top_p), config.batch)
    minutes = expected_minutes(pipeline, trips, drawing)
    rolled = sum(len(trip.prompts) * trip.frames for trip in trips.values())
    print(f"{len(trips)} sets of up to {config.rollouts} rollouts, {rolled} frames in all: about {minutes:.1f} minutes")
    scene = Scene(
        pipeline,
        ready_networks(config.probes, store, pipeline.tokenizer, output / "probes" if config.quick else None),
        config,
        store,
        logged,
        straight,
        cases,
    )
    driven = run_trips(pipeline, scene.probes, trips, drawing)
    return write_control_report(output, scene, driven, measure_control(scene, driven))


def plan_trips(
    pipeline: WorldGPTPipeline, config: ControlConfig, logged: Logged, straight: Logged | None, cases: Mapping[str, Sequence[PromptCase]]
) -> dict[str, Trip]:
    """{name: trip} of everything that has to be rolled out.

    prompts/KIND: dreamed from prompts alone; guidance/SCALE: the first kind under other scales; look/...: another prompt, and another
    seed, for the same context and actions; actions/...: true, free and other actions; lateral/...: deviations from a straight course.
    """
    specs, frames = pipeline.model.actions.specs, config.frames
    captions = logged.captions
    trips = {
        f"prompts/{kind}": Trip([c.text for c in some], frames, guidance=config.guidance, seed=config.seed) for kind, some in cases.items()
    }
    first = next(iter(cases.values()), [])
    for scale in config.guidance_curve if first else ():
        trips[f"guidance/{scale:g}"] = Trip([c.text for c in first], frames, guidance=scale, seed=config.seed)
    own, others = look_prompts(logged)
    base = Trip(own, frames, logged.context, logged.actions, config.guidance, config.seed)
    trips |= {"look/base": base, "look/prompt": replace(base, prompts=others), "look/seed": replace(base, seed=config.seed + 1)}
    true = Trip(captions, frames, logged.context, logged.actions, seed=config.seed)
    trips |= {"actions/true": true, "actions/free": replace(true, actions=None)}
    if len(specs):
        trips |= {f"actions/{name}": replace(true, actions=change(logged.actions, specs)) for name, change in COUNTERFACTUALS.items()}
    if straight is not None:
        steps = config.deviation_steps
        for deviation in (0.0, *(side * d for d in config.deviations_m for side in (1, -1))):
            actions = lateral_commands(straight.actions, specs, straight.follows("speed_mps"), deviation, steps, pipeline.model.config.fps)
            trips[f"lateral/{deviation:+g}"] = Trip(straight.captions, steps, straight.context, actions, seed=config.seed)
    return trips


def look_prompts(logged: Logged) -> tuple[list[str], list[str]]:
    """(what each drive looks like, what another drive that looks otherwise does): of the weather and the light alone where they are
    told; else captions."""
    labels = [{k: v for k, v in one.items() if k in ("weather", "time_of_day")} for one in logged.labels]
    texts = [_look_text(one) or caption for one, caption in zip(labels, logged.captions, strict=True)]
    others = []
    for k, one in enumerate(labels):
        order = [(k + step) % len(labels) for step in range(1, len(labels))]
        most = max(order, key=lambda i: sum(labels[i].get(name) != value for name, value in one.items()), default=k)
        others.append(texts[most])
    return texts, others


def _look_text(labels: Mapping[str, str]) -> str | None:
    weather, time = labels.get("weather"), labels.get("time_of_day")
    if weather not in LOOK_WORDS or time not in TIME_WORDS:
        return None
    return f"{LOOK_WORDS[weather]['adjective'][0]} {TIME_WORDS[time][0]}"  # type: ignore[index]


def measure_control(scene: Scene, driven: Mapping[str, Driven]) -> dict[str, Any]:
    """All figures, as JSON takes them."""
    real = {"real": read_drives(scene.probes, scene.logged.frames), "reconstructed": reconstructed(scene, scene.logged)}
    return {
        "prompts": measure_prompts(scene, driven),
        "disentanglement": measure_disentanglement(scene, driven),
        "actions": measure_actions(scene, driven, real),
        "lateral": measure_lateral(scene, driven),
        "telemetry": measure_telemetry(scene, driven["actions/true"], real["reconstructed"]),
        "path": measure_path(scene, driven["actions/free"]),
    }


def _straight(pipeline: WorldGPTPipeline, store: EpisodeStore, config: ControlConfig) -> Logged | None:
    """Drives for lateral deviations; a line says why where there are none."""
    context, specs = context_steps(pipeline), pipeline.model.actions.specs
    places = straight_places(store, config.split, context, config.deviation_steps, config.rollouts)
    logged = read_logged(pipeline, store, places, config.deviation_steps) if places else None
    if logged is None or lateral_commands(logged.actions, specs, logged.follows("speed_mps"), 0.5, config.deviation_steps, 10.0) is None:
        print(
            "lateral deviations left out: they need drives with speed_mps and yaw_rate_rps, and steering_rad or curvature_inv_m as action"
        )
        return None
    return logged
