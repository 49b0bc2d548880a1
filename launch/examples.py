"""The curl lines that a fresh start prints, each of which works as pasted."""


def examples(chat_port: int, denoiser_port: int) -> str:
    """Text with one request for each service."""
    return f"""
Both services answer. Try, in another terminal:

  curl -s localhost:{chat_port}/invocations -H 'Content-Type: application/json' \\
    -d '{{"inputs": "What is a data warehouse?",
         "parameters": {{"max_new_tokens": 48, "do_sample": false}}, "history": []}}'

  curl -s localhost:{denoiser_port}/denoise/text -H 'Content-Type: application/json' \\
    -d '{{"texts": ["A data warehouse stores data from many sources."], "noise_level": 0.1}}'

Stop both with Ctrl-C.
"""
