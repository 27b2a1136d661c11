"""The model prepared to say one token after the other: the same sums as `WorldGPT.extend`, with nothing worked out twice.

What a plain pass spends on a single position is mostly many small operations. So, prepared once a rollout: query, key and value, and gate
and up, are one product each; matrices lie the way a single row reads them fastest; a code's way into the model is a table of V rows instead
of a product. Prepared once a step: the hints that two finished steps give to all its tokens, which are most of them.

Axes: B worlds (all branches), n new positions, J tokens a step, P prompt positions, D width, C width of a token's vector, H heads,
d width of a head, V ids of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer.parallel import gathered
from worldgpt.attention import SHARPNESS
from worldgpt.fused import FOURS, FusedBlocks, library
from worldgpt.kv_cache import RingCache
from worldgpt.layout import SEEN_STEPS, Stream
from worldgpt.model import WorldGPT, WorldGPTBlock
from worldgpt.product import Int8Product, Product, Weights, check_weights, product
from worldgpt.rope import rotate
from worldgpt.token_table import SplitTable, TokenTable

FEW = 64
"""Positions up to which a CPU attends with plain products."""
FUSED_READS = 1 << 15
"""New positions of all worlds times those they look back on, up to which compiled code on one thread beats torch's operations; for a
single position a world it always is (docs/experiments.md)."""


class PreparedTable:
    """A codebook's vectors, its way in and its way out."""

    def __init__(self, table: TokenTable | SplitTable, token_in: Tensor) -> None:
        """`token_in` (D, C) brings a vector to the model's width."""
        self.table = table
        parts = [table] if isinstance(table, TokenTable) else cast(list[TokenTable], list(table.parts))
        self.vectors = [part.vectors().detach() for part in parts]
        self.rows = [vectors @ token_in.detach().t() for vectors in self.vectors]  # (V + 1, D) of each part
        self.ids = [Product(vectors[:-1], part.bias.detach()) for part, vectors in zip(parts, self.vectors, strict=True)]
        outs = [part.out.weight.detach() * vectors.shape[1] ** 0.5 for part, vectors in zip(parts, self.vectors, strict=True)]
        meets = [] if isinstance(table, TokenTable) else [cast(Tensor, meet.weight).detach() for meet in table.meet]
        refines = [] if isinstance(table, TokenTable) else [cast(Tensor, refine.weight).detach() for refine in table.refine]
        self.width, self.code_width = outs[0].shape[1], outs[0].shape[0]
        self.seen = Product(torch.cat([*outs, *(meet[:, : self.width] for meet in meets)]))
        """All that a hidden state says to any part: C numbers of each part's own, then D of each meeting with those told before."""
        self.told = [
            vectors @ torch.cat([meet[:, self.width :] for meet in meets[part:]]).t() for part, vectors in enumerate(self.vectors[:-1])
        ]
        """(V + 1, n * D) of each part but the last: what it says to the n meetings after it."""
        self.refined = [Product(out @ refine) for out, refine in zip(outs[1:], refines, strict=True)]

    def vector(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return _sum(self.vectors, self.table.split(ids))

    def embedded(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return _sum(self.rows, self.table.split(ids))


class Telling:
    """N tokens of a stream on their way from the hidden states (N, D) that predict them: part after part."""

    def __init__(self, table: PreparedTable, hidden: Tensor) -> None:
        self.table, self.parts = table, len(table.ids)
        known = self.parts * table.code_width
        self._known, self._met = table.seen(hidden).tensor_split((known,), dim=1)
        self._told = 0

    def logits(self) -> Tensor:
        """(N, V) of the next part."""
        table, part = self.table, self._told
        known = self._known[:, part * table.code_width : (part + 1) * table.code_width]
        if part:
            met = self._met[:, (part - 1) * table.width : part * table.width]
            known = table.refined[part - 1].onto(known, F.silu(met))
        return table.ids[part](known)

    def tell(self, ids: Tensor) -> None:
        """The next part is `ids` (N,)."""
        if self._told < self.parts - 1:
            self._met[:, self._told * self.table.width :] += F.embedding(ids, self.table.told[self._told])
        self._told += 1


def _rows(product: Product, x: Tensor) -> Tensor:
    """(B, n, in) -> (B, n, out)."""
    return product(x.flatten(0, 1)).view(*x.shape[:2], -1)


def _sum(tables: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, [F.embedding(part, rows) for part, rows in zip(parts, tables, strict=True)])


class PreparedStream:
    """Where a stream stands, and what its tokens are told of those around them; places count from the stream's first token."""

    def __init__(self, model: WorldGPT, stream: Stream, table: PreparedTable) -> None:
        layout, embedding = model.layout, model.embedding
        self.stream, self.table, self.span = stream, table, layout.spans[stream.name]
        self.place = embedding.place(stream).detach()
        self.null_id = layout.codebook(stream).null_id
        device, size = self.place.device, layout.tokens_per_step
        places = torch.as_tensor(layout.hint_places(stream), device=device)  # (tokens, hints)
        step, within = places // size, places % size - self.span.start
        present = step == SEEN_STEPS - 1
        columns = present.any(0)
        outside = step == SEEN_STEPS
        count = stream.tokens
        self.past = torch.where(outside, (SEEN_STEPS - 1) * count, step * count + within)[:, ~columns]
        self.present = torch.where(outside, count, within)[:, columns] if bool(columns.any()) else None
        weights = cast(Tensor, embedding.hint_in[stream.codebook].weight).detach().unflatten(1, (places.shape[1], -1))  # (2 D, hints, C)
        self.past_weights = Product(weights[:, ~columns].flatten(1))
        self.present_weights = Product(weights[:, columns].flatten(1))
        self.null_vector = table.vector(torch.tensor([self.null_id], device=device))

    def past_hints(self, seen: Tensor) -> Tensor:
        """(B, tokens, 2 D): what the two steps before say, from `seen` (B, SEEN_STEPS, J)."""
        known = F.pad(seen[:, : SEEN_STEPS - 1, self.span].flatten(1), (0, 1), value=self.null_id)
        return _rows(self.past_weights, self.table.vector(known[:, self.past]).flatten(2))


@dataclass(frozen=True)
class PreparedBlock:
    """A block's four products."""

    qkv: Product | Int8Product
    out: Product | Int8Product
    gate_up: Product | Int8Product
    down: Product | Int8Product

    @classmethod
    def of(cls, matrices: Sequence[Tensor], weights: Weights) -> "PreparedBlock":
        return cls(*(product(matrix, weights) for matrix in matrices))


def _matrices(block: WorldGPTBlock) -> list[Tensor]:
    """A block's four matrices (out, in)."""
    attention = block.attention
    qkv = (attention.query.weight, attention.key.weight, attention.value.weight)
    ways = (qkv, (attention.out.weight,), (block.gate.weight, block.up.weight), (block.down.weight,))
    return [torch.cat([gathered(weight) for weight in way]) for way in ways]


class StepDecoder:
    """A model's weights as they stand, prepared for steps on a ring cache; later changes of the model do not reach it.

    Of a sharded model every process holds all weights while a rollout lasts, and every process must take part.
    """

    @torch.no_grad()
    def __init__(self, model: WorldGPT, weights: Weights = "float") -> None:
        """With `weights` "int8" the blocks' matrices are rounded to 8 bits, on a CPU only; else UserError."""
        check_weights(weights, model.embedding.prompt_place.device, model.embedding.prompt_place.dtype)
        self.model, self.layout, embedding = model, model.layout, model.embedding
        self.heads, self.head_dim = model.config.heads, model.config.width // model.config.heads
        with torch.autocast(model.device.type, enabled=False):
            matrices = [_matrices(cast(WorldGPTBlock, block)) for block in model.blocks]
            self.blocks = [PreparedBlock.of(block, weights) for block in matrices]
            self.fused = self._fused(matrices, weights)
            tables = {
                name: PreparedTable(cast(TokenTable | SplitTable, table), cast(Tensor, embedding.token_in[name].weight))
                for name, table in embedding.tables.items()
            }
            self.streams = [PreparedStream(model, stream, tables[stream.codebook]) for stream in self.layout.streams]
            self.hint_out = Product(embedding.hint_out.weight.detach())
        self.at = [stream for stream in self.streams for _ in range(stream.stream.tokens)]
        """(J,): the stream that each token belongs to."""
        self._indices: dict[tuple[int, int], list[Tensor | None]] = {}

    def _fused(self, matrices: Sequence[Sequence[Tensor]], weights: Weights) -> FusedBlocks | None:
        """All blocks as one, for passes of few positions on a CPU; None where that cannot be."""
        first = matrices[0][0]
        if first.device.type != "cpu" or first.dtype != torch.float32 or (compiled := library()) is None:
            return None
        if weights == "int8" and not (compiled.worldgpt_int8() and all(m.shape[1] % FOURS == 0 for m in matrices[0])):
            return None
        return FusedBlocks(compiled, matrices, self.heads, SHARPNESS * self.head_dim**-0.5, weights)

    def indices(self, first: int, last: int) -> list[Tensor | None]:
        """Arrangement and scattering of a reading (`Layout.reading`) on the model's device: a recording takes nothing from the host."""
        if (first, last) not in self._indices:
            reading, device = self.layout.reading(first, last), self.model.device
            tables = (reading.arrangement, reading.scattered)
            self._indices[first, last] = [None if table is None else torch.as_tensor(table, device=device) for table in tables]
        return self._indices[first, last]

    def begin(self, by: Tensor, seen: Tensor, prompts: Tensor, cache: RingCache) -> "DecodingStep":
        """The step that `cache` has begun, its positions turned `by`, after `seen` (B, SEEN_STEPS, J; the last one is not looked at) under
        prompts (B, P, D_text)."""
        return DecodingStep(self, by, seen, prompts, cache)

    def telling(self, hidden: Tensor, token: int) -> Telling:
        """What `WorldGPT.logits` says, part by part, of tokens of the stream of token `token`; from hidden states (N, D) before them."""
        return Telling(self.at[token].table, hidden)

    def extend(self, x: Tensor, by: Tensor, cache: RingCache) -> Tensor:
        """As `WorldGPT.extend`, without saying that the positions are filled: (B, n, D) -> (B, n, D), by (1, 1, n, d / 2) complex."""
        batch, new, width = x.shape
        end = cache.filled + new
        if self.fused is not None and torch.get_num_threads() == 1 and (new == 1 or batch * new * end <= FUSED_READS):
            return self.fused(x, by, self._sees(new, end), cache)
        mask = self.model.visible(new, end)
        by, x = by.transpose(1, 2)[:, :, None], x.reshape(batch * new, width)  # by (1, n, 1, 1, d / 2)
        for layer, block in enumerate(self.blocks):
            qkv = block.qkv(_norm(x)).view(batch, new, 3, self.heads, self.head_dim)
            straight = _norm(qkv[:, :, :2])
            q, k = rotate(straight, by).transpose(1, 3).unbind(2)  # (B, H, n, d) each
            raw, v = straight[:, :, 1].transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
            keys, values = cache.write(layer, raw, k, v)
            x = block.out.onto(x, self._mixed(q, keys, values, mask).reshape(batch * new, width))
            gate, up = block.gate_up(_norm(x)).chunk(2, dim=-1)
            x = block.down.onto(x, F.silu(gate).mul_(up))
        return _norm(x).view(batch, new, width)

    def _sees(self, new: int, end: int) -> Tensor:
        """(n,): how many of the first positions each of the last `new` of `end` sees."""
        if new == 1 or self.layout.causal:
            return torch.arange(end - new + 1, end + 1)
        return cast(Tensor, self.model.visible(new, end)).sum(1)

    def _mixed(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, n, H, d): what n positions (B, H, n, d) find in keys and values (B, H, N, d)."""
        new, sharpness = q.shape[2], SHARPNESS * self.head_dim**-0.5
        if q.device.type != "cpu" or new > FEW:
            mixed = F.scaled_dot_product_attention(q, keys, values, mask, is_causal=mask is None and new > 1, scale=sharpness)
            return mixed.transpose(1, 2)
        # By hand it takes half of the time for one position (docs/experiments.md), whose row is turned round: MKL multiplies so fastest.
        rows, keys, values = (q * sharpness).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        logits = torch.bmm(keys, rows.mT).view(len(rows), 1, -1) if new == 1 else torch.bmm(rows, keys.mT)  # (B H, n, N)
        if new > 1:  # without a mask they are causal, and see one another alone
            seen = torch.ones(new, new, dtype=torch.bool).tril() if mask is None else mask
            logits = logits.masked_fill(~seen, -torch.inf)
        shares = torch.softmax(logits, dim=-1)
        found = torch.bmm(values.mT, shares.mT).view(len(rows), 1, -1) if new == 1 else torch.bmm(shares, values)
        return found.view(len(q), self.heads, new, self.head_dim).transpose(1, 2)


def _norm(x: Tensor) -> Tensor:
    """As `attention.norm`, where no autocast is to be switched off."""
    return torch.layer_norm(x, x.shape[-1:], eps=1e-6)


class DecodingStep:
    """One step of all worlds while its tokens are found."""

    def __init__(self, decoder: StepDecoder, by: Tensor, seen: Tensor, prompts: Tensor, cache: RingCache) -> None:
        self.decoder, self.cache, self.by = decoder, cache, by
        embedding = decoder.model.embedding
        conditions = embedding.conditions(seen, prompts)
        self.look, self.layout = conditions.look, decoder.layout
        self.prompts = embedding.prompt_in(prompts) + embedding.prompt_place
        self.starts = None if embedding.start_place is None else embedding.start_place + self.look  # (B, starts, D)
        open_gate = conditions.motion + F.pad(torch.ones_like(self.look), (0, self.look.shape[-1]))
        self.past = torch.cat([stream.past_hints(seen) + open_gate for stream in decoder.streams], dim=1)  # (B, J, 2 D)
        batch = len(seen)
        self.present = {
            stream.stream.name: stream.null_vector.repeat(batch, stream.stream.tokens + 1, 1)
            for stream in decoder.streams
            if stream.present is not None
        }
        """{frame stream: (B, tokens + 1, C)}: vectors of this step's tokens as they come; the last is NULL's."""

    def prompt(self) -> Tensor:
        """Reads the first pass; hidden states (B, n, D) that predict the first n tokens."""
        x, first = self.prompts, self.layout.schedule[0]
        if self.starts is not None:
            x = torch.cat([x, self.starts[:, : first.last - self.layout.prompt_tokens]], dim=1)
        x = torch.cat([x[:, : first.at], x[:, first.at :] + self._hints(first.start, first.stop)], dim=1)
        return self._run(x, 0)[:, first.at :]

    def read(self, tokens: Tensor, first: int, last: int) -> Tensor:
        """Reads the passes first .. last - 1, of those after the prompt's, of the step's tokens (B, J); hidden states (B, n, D) of all."""
        reading, (arrangement, scattered) = self.layout.reading(first, last), self.decoder.indices(first, last)
        x = self._embedded(tokens, reading.tokens.start, reading.tokens.stop) + self.look
        if self.starts is not None and reading.starts.stop > reading.starts.start:
            x = torch.cat([x, self.starts[:, reading.starts]], dim=1)
        if arrangement is not None:
            x = x[:, arrangement]
        start, stop = reading.predicted.start, reading.predicted.stop
        if stop > start:  # the step's last tokens predict nothing and have no hints
            hints = self._hints(start, stop)
            if scattered is None:
                x[:, reading.offset : reading.offset + stop - start] += hints
            else:
                x = x + F.pad(hints, (0, 0, 0, 1))[:, scattered]
        return self._run(x, self.layout.schedule[first].first)

    def _run(self, x: Tensor, first: int) -> Tensor:
        new = x.shape[1]
        hidden = self.decoder.extend(x, self.by[..., first : first + new, :], self.cache)
        self.cache.advance(new)
        return hidden

    def _embedded(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        parts = []
        while start < stop:
            stream = self.decoder.at[start]
            last, first = min(stop, stream.span.stop), start - stream.span.start
            ids = tokens[:, start:last]
            parts.append(stream.table.embedded(ids) + stream.place[first : first + last - start])
            if stream.present is not None:
                self.present[stream.stream.name][:, first : first + last - start] = stream.table.vector(ids)
            start = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _hints(self, start: int, stop: int) -> Tensor:
        """(B, n, D): what is known around the tokens start .. stop - 1 that are to be predicted."""
        told, at = self.past[:, start:stop], start
        parts = []
        while at < stop:
            stream = self.decoder.at[at]
            last, first = min(stop, stream.span.stop), at - stream.span.start
            part = told[:, at - start : last - start]
            if stream.present is not None:
                around = self.present[stream.stream.name][:, stream.present[first : first + last - at]]  # (B, n, hints, C)
                part = part + _rows(stream.present_weights, around.flatten(2))
            parts.append(part)
            at = last
        gate, up = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).chunk(2, dim=-1)
        return _rows(self.decoder.hint_out, F.silu(gate) * up)
