"""The measuring networks made ready: read from their folder, or trained first."""

from pathlib import Path

from data.store import EpisodeStore
from tokenizer.model import FrameTokenizer
from worldgpt.evaluate.probe_training import train_probes
from worldgpt.evaluate.probes import LOOKS, ProbeConfig, Probes

QUICK = ProbeConfig(steps=300, road_steps=60, floor_steps=800, floor_frames=400)
MINUTES, QUICK_MINUTES = 6, 1


def ready_networks(folder: str | Path, store: EpisodeStore, tokenizer: FrameTokenizer | None, quick: Path | None = None) -> Probes:
    """The networks in `folder`; trained now where there are none, and a line says so, and what they do not read.

    With a folder `quick`, small ones are trained into that instead, so that no rough network is taken for a good one later.
    """
    if Path(folder).exists():
        probes = Probes.load(folder)
    else:
        settings, kept, minutes = (QUICK, quick, QUICK_MINUTES) if quick else (ProbeConfig(), Path(folder), MINUTES)
        print(f"{folder}: no measuring networks there; training them into {kept}, about {minutes} minutes on one CPU core")
        probes = train_probes(settings, store, kept, tokenizer)
    told = {look for drive in store.drives("train") for look in drive.labels} & set(LOOKS) if "train" in store.splits else set()
    unread = sorted(told - set(probes.look_names))
    if unread:
        print(f"{folder}: these networks were trained without {', '.join(unread)}, which is not measured; train them again to have it")
    return probes
