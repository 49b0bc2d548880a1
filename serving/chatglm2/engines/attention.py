"""Attention of a running batch on a CPU: each request over its own keys and values, by PyTorch's flash kernel.

Transformers' own attention for a batch without the flash-attn package multiplies every request's queries with the keys
of all requests and masks the rest away: work and memory grow with the square of the batch. Here both grow with what
each request has. Requests that extend their answer by one token go together with others of up to twice their length,
padded to the longest: a call for each would cost more in waking threads than in products.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.generation.continuous_batching.cache import PagedAttentionCache, group_layers_by_attn_type
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "flash_by_request"
"""Transformers gives an attention that has "flash" in its name the lengths of the sequences, and makes no mask."""


@dataclass(frozen=True)
class Prefill:
    """One request with several new tokens: where they are in the batch, and its keys among those read."""

    queries: slice
    keys: slice
    seen: Tensor | None
    """[queries, keys]: whether a query sees a key. None where the request has no keys but those of its new tokens."""

    @classmethod
    def of(cls, queries: slice, keys: slice) -> "Prefill":
        """For new tokens that are the last of those with `keys`."""
        new, all_ = queries.stop - queries.start, keys.stop - keys.start
        return cls(queries, keys, None if new == all_ else torch.ones(new, all_, dtype=torch.bool).tril(all_ - new))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, out: Tensor) -> None:
        """Causal attention of the request's new tokens over all its tokens, written to `out`."""
        copies = query.shape[1] // key.shape[1]
        out[:, :, self.queries] = scaled_dot_product_attention(
            query[:, :, self.queries],
            repeat_kv(key[:, :, self.keys], copies),
            repeat_kv(value[:, :, self.keys], copies),
            attn_mask=self.seen,
            is_causal=self.seen is None,
            scale=scale,
        )


@dataclass(frozen=True)
class Decode:
    """Requests with one new token each: their places in the batch, their keys among those read, padded alike."""

    queries: Tensor | slice
    keys: slice
    seen: Tensor | None
    """[requests, 1, 1, padded keys]: whether a key is the request's own. None where all are."""

    @classmethod
    def of(cls, places: list[int], keys: slice, seen: Tensor) -> "Decode":
        """For new tokens at rising `places`, that see [requests, padded keys]; reading a slice copies nothing."""
        together = places[-1] - places[0] == len(places) - 1
        queries = slice(places[0], places[-1] + 1) if together else torch.tensor(places)
        return cls(queries, keys, None if seen.all() else seen[:, None, None])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, out: Tensor) -> None:
        """Attention of each request's new token over all its tokens, written to `out`."""
        new = query[0, :, self.queries]
        (heads, requests, width), groups = new.shape, key.shape[1]
        # Heads that share keys are to the kernel as several queries, so no key is copied.
        shared = new.transpose(0, 1).reshape(requests, groups, heads // groups, width)
        key, value = (each[0, :, self.keys].view(groups, requests, -1, width).transpose(0, 1) for each in (key, value))
        attended = scaled_dot_product_attention(shared, key, value, attn_mask=self.seen, scale=scale)
        out[0, :, self.queries] = attended.reshape(requests, heads, width).transpose(0, 1)


@dataclass(frozen=True)
class Plan:
    """How the attention of one batch is computed, the same in each layer."""

    parts: list[Prefill | Decode]
    read: Tensor
    """The places of the cache that are read, in the order of the parts; none where all requests are new."""

    @classmethod
    def of(cls, query_ends: list[int], key_ends: list[int], read: Tensor) -> "Plan":
        """For requests whose new tokens, and whose keys in `read` [keys], end there; both lists start with 0."""
        queries = [slice(*ends) for ends in pairwise(query_ends)]
        if not len(read):
            return cls([Prefill.of(new, new) for new in queries], read)
        parts, reads, place = list[Prefill | Decode](), list[Tensor](), 0
        decoding = defaultdict[int, list[int]](list)
        for request, new in enumerate(queries):
            start, end = key_ends[request : request + 2]
            if new.stop - new.start == 1:
                decoding[(end - start - 1).bit_length()].append(request)
            else:
                parts.append(Prefill.of(new, slice(place, place + end - start)))
                reads.append(read[start:end])
                place += end - start
        for requests in decoding.values():
            starts = torch.tensor([key_ends[request] for request in requests])[:, None]
            ends = torch.tensor([key_ends[request + 1] for request in requests])[:, None]
            padded = starts + torch.arange(int((ends - starts).max()))
            seen = padded < ends
            keys = slice(place, place + padded.numel())
            parts.append(Decode.of([queries[request].start for request in requests], keys, seen))
            reads.append(read[torch.where(seen, padded, starts).flatten()])
            place = keys.stop
        return cls(parts, torch.cat(reads))


class AttentionByRequest(threading.local):
    """Called layer after layer; the plan made at the first of a batch is that of the calling generation thread."""

    _plan: Plan | None = None

    def __call__(  # noqa: PLR0913, PLR0917 - the signature is transformers'
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        cache: PagedAttentionCache | None = None,
        **batch: Any,
    ) -> tuple[Tensor, None]:
        """As transformers calls it: new tokens of all requests, one after the other, [1, heads, tokens, width].

        Outside a running batch, as in a beam search, it is transformers' own.
        """
        if cache is None:
            result: tuple[Tensor, None] = sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, **batch
            )
            return result
        if module.layer_idx == 0 or self._plan is None:
            key_ends = batch["cu_seq_lens_k"]["full_attention"]
            self._plan = Plan.of(batch["cu_seq_lens_q"].tolist(), key_ends.tolist(), batch["read_index"][0])
        batch["read_index"] = [self._plan.read]
        key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=batch)
        attended = torch.empty_like(query)
        for part in self._plan.parts:
            part.attend(query, key, value, scaling, attended)
        return attended.transpose(1, 2).contiguous(), None


def use(model: Any) -> None:
    """Give a transformers model this attention, if all its layers attend to everything before.

    Transformers' own setter takes no name with "flash" in it that is no kernel.
    """
    if set(group_layers_by_attn_type(model.config)) == {"full_attention"}:
        AttentionInterface.register(NAME, AttentionByRequest())
        AttentionMaskInterface.register(NAME, flash_attention_mask)
        model.config._attn_implementation = NAME
