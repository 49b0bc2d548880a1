"""The curl lines that a fresh start prints, each of which works as pasted."""

from collections.abc import Mapping

_PROXIES = ("http_proxy", "all_proxy", "ALL_PROXY")  # those that curl takes for http


def examples(chat_port: int, denoiser_port: int, environment: Mapping[str, str]) -> str:
    """Text with one request for each service, with what a key or a proxy in the environment makes necessary."""
    options = "-s"
    if any(environment.get(name) for name in _PROXIES):
        options += " --noproxy localhost"
    if environment.get("API_KEY"):
        options += ' -H "Authorization: Bearer $API_KEY"'
    return f"""
Both services answer. Try, in another terminal:

  curl {options} localhost:{chat_port}/invocations -H 'Content-Type: application/json' \\
    -d '{{"inputs": "What is a data warehouse?",
         "parameters": {{"max_new_tokens": 48, "do_sample": false}}, "history": []}}'

  curl {options} localhost:{denoiser_port}/denoise/text -H 'Content-Type: application/json' \\
    -d '{{"texts": ["A data warehouse stores data from many sources."], "noise_level": 0.1}}'

Stop both with Ctrl-C.
"""
