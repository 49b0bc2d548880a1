"""Messages to prompt token ids, by the model's own chat template.

A converted ChatGLM2 carries the original's rounds as its template, so this is the same for every model.
"""

from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from chatglm2.errors import BadRequest, SetupError, one_line

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


class Prompter:
    """Writes prompts for one tokenizer. Raises SetupError where its template is missing or takes no question."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        question = Message("user", "Hi")
        try:
            self._fill_in([question])
        except Exception:  # a template is a program, and may want a system message
            try:
                self._fill_in([Message("system", "Hi"), question])
            except Exception as error:
                raise SetupError(f"the model has no chat template that can be used: {one_line(error)}") from error
        self.takes_empty_question = "[Round " in str(tokenizer.chat_template)
        """ChatGLM2 has an answer even to that, and gives it here too; for other models it is a mistake."""

    def encode(self, messages: list[Message]) -> list[int]:
        """Token ids of a prompt after which the model speaks. Raises BadRequest for what the template refuses."""
        try:
            return self._fill_in(messages)
        except TemplateError as error:
            constant = str(error) in str(self._tokenizer.chat_template)  # what it makes up may repeat a prompt
            reason = f": {one_line(error)}" if constant else ""
            raise BadRequest(f"messages: the model's chat template refuses them{reason}") from error

    def _fill_in(self, messages: list[Message]) -> list[int]:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        ids = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        return [int(token) for token in ids]
