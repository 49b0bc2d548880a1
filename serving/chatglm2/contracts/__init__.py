"""The formats in which clients talk to the service: each reads its requests and writes its replies.

All of them are sent to the same routes (DJL Serving does not say which one was used), so the body tells them apart.
"""

from chatglm2.contracts import openai, seed
from chatglm2.contracts.base import ChatRequest
from chatglm2.contracts.body import json_object
from chatglm2.errors import BadRequest


def parse(body: bytes, request_id: str) -> ChatRequest:
    """The request in a body of either contract. Raises BadRequest."""
    fields = json_object(body)
    if "messages" in fields and "inputs" in fields:
        raise BadRequest("the body has inputs and messages; send one of them")
    if "messages" in fields:
        return openai.parse(fields, request_id)
    if "inputs" in fields:
        return seed.parse(fields)
    raise BadRequest(
        'inputs: missing; send {"inputs": "<question>", "parameters": {...}, "history": [...]}, '
        'or an OpenAI chat body with "messages"'
    )
