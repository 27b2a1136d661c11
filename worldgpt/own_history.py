"""The model's own draws in the place of the true past: what training shows so that a rollout's mistakes are nothing new.

All steps of a window are drawn at once, each from what the model makes of the true past (scheduled sampling, Bengio et al. 2015; in
parallel, Mihaylova & Martins 2019). Drawn again on top of that, a step stands on a past that is drawn itself: after n passes it looks
as after a rollout of n steps, for n forward passes in the place of n times J.
Axes: B windows, T steps, J tokens a step, V ids of a part.
"""

import torch
from torch import Tensor

from worldgpt.evaluate.teacher_forcing import batch_hidden
from worldgpt.model import WorldGPT


@torch.no_grad()
def with_own_history(model: WorldGPT, batch: dict[str, Tensor], passes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A batch as `windows.model_batch` makes it, with the inputs where `own` is true drawn by the model itself."""
    true = batch["inputs"]
    for _ in range(passes):
        drawn = draw_all(model, batch_hidden(model, batch), generator)
        batch = {**batch, "inputs": torch.where(batch["own"], drawn, true)}
    return batch


def draw_all(model: WorldGPT, hidden: Tensor, generator: torch.Generator) -> Tensor:
    """Frame tokens (B, T, J) drawn from what hidden states (B, T, S, D) predict; other places hold 0."""
    predicting, layout = model.predicting(hidden), model.layout
    tokens = torch.zeros(predicting.shape[:-1], dtype=torch.long, device=hidden.device)
    for stream in layout.of_kind("frame"):
        table, span, told = model.table(stream), layout.spans[stream.name], []
        for _ in table.sizes:
            logits = table.logits(predicting[..., span, :], told).float()
            noise = torch.empty_like(logits).exponential_(generator=generator)  # argmax of p / Exp(1) is a draw from p
            told.append((logits - noise.log()).argmax(-1))
        tokens[..., span] = table.join(told)
    return tokens
