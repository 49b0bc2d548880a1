"""One answer while it is made: an engine's steps in, changes for the client out, and the result at the end."""

from chatglm2.answer import Answer
from chatglm2.contracts.base import Change, Result, ScoredToken
from chatglm2.detokenizer import TokenTexts
from chatglm2.engines.base import Finish, Logprobs, Step


class Writer:
    """Writes the answer number `number` of a request; several of them may be on their way at once."""

    def __init__(self, number: int, prompt_tokens: int, tokens: TokenTexts, stop: tuple[str, ...]) -> None:
        self._number = number
        self._prompt_tokens = prompt_tokens
        self._tokens = tokens
        self._answer = Answer(tokens.detokenizer(), stop)
        self._finish: Finish | None = None
        self._taken = 0
        self._scored: list[ScoredToken] = []
        self._told = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._answer.stopped

    def take(self, made: list[Step]) -> list[Change]:
        """What becomes visible with these steps; what follows a stop string is not looked at."""
        changes = list[Change]()
        for step in made:
            if self.stopped:
                break
            self._taken, self._finish = self._taken + 1, step.finish
            if step.logprobs is not None and step.finish != "stop":
                self._scored.append(self._score(step.token, step.logprobs))
            if delta := self._answer.push(step.token):
                changes.append(self._change(delta))
        return changes

    def end(self) -> Change:
        """What was held back, and the result."""
        delta = self._answer.finish()
        finish: Finish = "stop" if self.stopped else self._finish or "length"
        result = Result(self._answer.text, finish, self._prompt_tokens, self._taken, tuple(self._scored))
        return self._change(delta, result)

    def _change(self, delta: str, result: Result | None = None) -> Change:
        scored, self._told = tuple(self._scored[self._told :]), len(self._scored)
        return Change(self._number, delta, self._answer.text, scored, result)

    def _score(self, token: int, logprobs: Logprobs) -> ScoredToken:
        top = tuple((self._tokens.piece(other), logprob) for other, logprob in logprobs.top)
        return ScoredToken(self._tokens.piece(token), logprobs.token, top)
