"""Chooses the next token of each request in a running batch, by that request's own parameters and seed.

Transformers' continuous batching applies one set of warpers to a whole batch; this takes their place in its manager
and runs transformers' own processors row by row, in float32, so an answer equals that of plain `generate`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatglm2.engines.base import Logprobs, Sampling

NON_FINITE = "the model gave logits that are not finite"


class NonFiniteLogitsError(RuntimeError):
    """The model gave NaN or infinity; no token can be chosen from that."""


def require_finite(logits: torch.Tensor) -> torch.Tensor:
    """`logits` as they came. Raises NonFiniteLogitsError unless all are finite.

    Their least and greatest tell, for either is NaN where any is, in a tenth of the time of looking at each.
    """
    if logits.numel() and not bool(torch.stack(logits.aminmax()).isfinite().all()):
        raise NonFiniteLogitsError(NON_FINITE)
    return logits


class TopPOfKept(TopPLogitsWarper):  # type: ignore[misc]
    """Top-p over the tokens that top-k left. The rest have no probability, so the result is that of the whole row
    and the sort is a thousand times shorter."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape [1, vocabulary], with minus infinity for what is left out."""
        kept = scores[0].isfinite().nonzero()[:, 0]
        scores[:, kept] = super().__call__(input_ids, scores[:, kept])
        return scores


class PresenceFrequencyPenalty(LogitsProcessor):  # type: ignore[misc]
    """OpenAI's penalties on tokens that the answer has already; the `prompt_tokens` before it do not count."""

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self._presence, self._frequency, self._prompt_tokens = presence, frequency, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape [1, vocabulary] less the penalties, given prompt and answer of shape [1, tokens]."""
        counts = torch.bincount(input_ids[0, self._prompt_tokens :], minlength=scores.shape[1])
        return scores - self._presence * (counts > 0) - self._frequency * counts


@dataclass
class Chooser:
    """The parameters of one request, ready to apply to a row of logits."""

    processors: LogitsProcessorList
    generator: torch.Generator | None = None
    """None is greedy."""
    logprobs: int | None = None
    """How many of the most probable tokens to record."""
    recorded: list[Logprobs] = field(default_factory=list)
    """One for each token chosen, if `logprobs` is set."""

    @classmethod
    def of(cls, sampling: Sampling, device: torch.device, prompt_tokens: int) -> "Chooser":
        """The processors transformers itself would build for `sampling`, in its order, after OpenAI's penalties."""
        processors = LogitsProcessorList()
        if sampling.presence_penalty or sampling.frequency_penalty:
            penalty = PresenceFrequencyPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_tokens)
            processors.append(penalty)
        if sampling.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if not sampling.do_sample:
            return cls(processors, logprobs=sampling.logprobs)
        if sampling.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k > 0:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            processors.append(TopPOfKept(sampling.top_p))
        generator = torch.Generator(device)
        generator.manual_seed(sampling.seed) if sampling.seed is not None else generator.seed()
        return cls(processors, generator, sampling.logprobs)

    @property
    def plain(self) -> bool:
        """Whether the highest logit is the answer, as the manager chooses by itself."""
        return self.generator is None and not self.processors and self.logprobs is None

    def choose(self, ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """The next token after `ids` from float32 `logits` of shape [1, vocabulary]; a tensor of shape [1]."""
        by_model = None if self.logprobs is None else logits[0].log_softmax(dim=-1)
        history = torch.tensor([ids], device=logits.device) if self.processors else None
        scores: torch.Tensor = self.processors(history, logits)
        if self.generator is None:
            token = torch.argmax(scores, dim=-1)
        else:
            token = torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator)[0]
        if by_model is not None:
            self._record(by_model, token)
        return token

    def _record(self, logprobs: torch.Tensor, token: torch.Tensor) -> None:
        values, ids = logprobs.topk(min(self.logprobs or 0, len(logprobs)))
        self.recorded.append(Logprobs(float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True))))


class Sampler(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """Stands in the manager's place for logits processors. The generation thread calls it; `add` and `drop` may come
    from any other."""

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self.spoiled: set[str] = set()
        """Requests that shared a batch with non-finite logits: their cached keys and values cannot be trusted."""
        self._choosers: dict[str, Chooser] = {}
        self._batch: list[Any] = []

    def add(self, request_id: str, chooser: Chooser) -> None:
        """Make a request known before the manager gets it."""
        self._choosers[request_id] = chooser

    def drop(self, request_id: str) -> None:
        """Forget a request that ended."""
        self._choosers.pop(request_id, None)
        self.spoiled.discard(request_id)

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """The manager announces the batch whose logits come next."""
        self._batch = requests_in_batch
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] -> scores whose argmax is each row's next token. Raises NonFiniteLogitsError."""
        try:
            require_finite(scores)
        except NonFiniteLogitsError:
            self.spoiled.update(request.state.request_id for request in self._batch)
            raise
        rows = (request.state for request in self._batch if request.has_new_token)
        for row, state in enumerate(rows):
            chooser = self._choosers.get(state.request_id)
            if chooser is not None and not chooser.plain:
                token = chooser.choose(state.initial_tokens + state.generated_tokens, scores[row : row + 1])
                scores[row] = float("-inf")
                scores[row, token] = 0.0
        return scores
