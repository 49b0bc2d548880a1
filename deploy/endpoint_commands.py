"""Command line of one endpoint: `python -m deploy endpoint COMMAND SERVICE`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from deploy import invoke as runtime
from deploy import logs as cloudwatch
from deploy import removal, scaling
from deploy.answers import confirm
from deploy.errors import ConfigError, DeployError
from deploy.options import Result, Yes, command
from deploy.settings import Autoscaling, ServiceName
from deploy.stack import Stack

app = typer.Typer(no_args_is_help=True, help="One endpoint: create, wait, invoke, update, scale, logs, delete.")

Which = Annotated[ServiceName, typer.Argument(help="chat or denoiser.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as SageMaker has taken it up.")]


@command(app)
def create(stack: Stack, service: Which, no_wait: NoWait = False) -> Result:
    """Make the endpoint and wait until it serves. Weights and image have to be there."""
    return _ensure(stack, service, no_wait)


@command(app)
def update(stack: Stack, service: Which, no_wait: NoWait = False) -> Result:
    """Replace what the endpoint runs by what the settings say; goes back by itself when that fails."""
    stack.endpoint(service).require()
    return _ensure(stack, service, no_wait)


def _ensure(stack: Stack, service: ServiceName, no_wait: bool) -> Result:
    artifacts = stack.require_artifacts(service)
    what = stack.endpoint(service).ensure(artifacts)
    if what == "unchanged" or not no_wait:  # nothing to wait for, then
        stack.finish(service, *stack.endpoint(service).definition(artifacts))
    return {stack.names.endpoint(service): what}


@command(app, changes=False)
def status(stack: Stack, service: Which) -> Result:
    """Say how the endpoint is."""
    found = stack.endpoint(service).require()
    variants = found.get("ProductionVariants") or [{}]
    return {
        "endpoint": found["EndpointName"],
        "status": found["EndpointStatus"],
        "configuration": found["EndpointConfigName"],
        "instances": f"{variants[0].get('CurrentInstanceCount')} of {variants[0].get('DesiredInstanceCount')}",
        **({"reason": found["FailureReason"]} if found.get("FailureReason") else {}),
    }


@command(app)
def wait(stack: Stack, service: Which) -> Result:
    """Wait until the endpoint serves; finish a `create` or `update` that did not wait, autoscaling included."""
    endpoint = stack.endpoint(service)
    config, model = endpoint.asked_for()
    if endpoint.is_finished(config):
        endpoint.wait(config)
    else:
        stack.finish(service, config, model)
    return {"endpoint": endpoint.name, "status": endpoint.require()["EndpointStatus"]}


@command(app, changes=False)
def invoke(
    stack: Stack,
    service: Which,
    text: Annotated[str | None, typer.Option(help="The question, or the text to embed.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with it. (default: a sample question)")] = None,
    parameters: Annotated[str, typer.Option(help="More fields of the request, as a JSON object.")] = "{}",
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
) -> Result:
    """Ask the endpoint something."""
    more = _object(parameters)
    if stream and service != "chat":
        raise ConfigError("--stream: only chat streams")
    content = runtime.body(service, _text(text, file), {**more, "stream": True} if stream else more)
    name = stack.names.endpoint(service)
    if not stream:
        reply = runtime.invoke(stack.aws, name, content)
        return reply if isinstance(reply, dict) else json.dumps(reply, ensure_ascii=False)
    for part in runtime.stream(stack.aws, name, content):
        if "error" in part:
            raise DeployError(f"{name} answered {part.get('code')}: {part['error']}")
        sys.stdout.write(part.get("delta", part.get("token", {}).get("text", "")))
        sys.stdout.flush()
    print()
    return {}


def _text(text: str | None, file: Path | None) -> str:
    if text is not None:
        return text
    try:
        return (file or runtime.QUESTION).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file {file}: {error}; name a UTF-8 text file") from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--parameters {text}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--parameters {text}: not a JSON object")
    return value


@command(app, changes=False)
def logs(
    stack: Stack,
    service: Which,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the last lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new lines until Ctrl-C.")] = False,
) -> Result:
    """Print what the containers printed."""
    group = stack.names.log_group(service)
    if not follow:
        return {"lines": cloudwatch.last_lines(stack.aws, group, lines)}
    for line in cloudwatch.follow(stack.aws, group, lines, stack.settings.poll_seconds):
        print(line, flush=True)
    return {}


@command(app)
def scale(
    stack: Stack,
    service: Which,
    count: Annotated[int | None, typer.Option(min=1, help="A fixed number of instances.")] = None,
    least: Annotated[int | None, typer.Option("--min", min=1, help="Autoscaling: fewest instances.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Autoscaling: most instances.")] = None,
    target: Annotated[float | None, typer.Option(min=0.1, help="Autoscaling: requests per instance.")] = None,
) -> Result:
    """Set the number of instances, or autoscaling; without options what the settings say."""
    endpoint = stack.endpoint(service)
    endpoint.require()
    chosen = stack.settings.service(service)
    if count and (least or most or target):
        raise ConfigError("--count is a fixed number: leave out --min, --max and --target")
    if count or not (chosen.autoscaling or most):
        if least or target:
            raise ConfigError("--max is missing: autoscaling needs both ends")
        endpoint.set_count(count or chosen.instance_count)
        return {"instances": count or chosen.instance_count}
    given = {"min": least, "max": most, "target": target}
    base = chosen.autoscaling.model_dump() if chosen.autoscaling else {}
    wanted = _autoscaling(base | {key: value for key, value in given.items() if value is not None})
    scaling.ensure(stack.aws, stack.names, service, wanted)
    return {"min": wanted.min, "max": wanted.max, "target": wanted.target}


def _autoscaling(fields: Mapping[str, Any]) -> Autoscaling:
    try:
        return Autoscaling(**fields)
    except ValidationError as error:
        raise ConfigError(f"--min, --max, --target: {error.errors()[0]['msg']}") from None


@command(app)
def delete(stack: Stack, service: Which, yes: Yes = False) -> Result:
    """Delete the endpoint and what belongs to it, after asking; weights and image stay."""
    found = removal.of_endpoint(stack.endpoint(service))
    confirm(found.lines(), yes or stack.aws.journal.dry_run)
    found.delete()
    return {"deleted": found.lines()}
