"""Command line of deploying: `python -m deploy COMMAND`."""

import json
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy import endpoint_commands, image, policy, removal, weights
from deploy.answers import confirm
from deploy.options import Result, Yes, command
from deploy.settings import SERVICES, ServiceName, flat
from deploy.stack import Stack

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From pinned weights to SageMaker endpoints. Every command can be run again.",
)
groups = {
    "weights": typer.Typer(no_args_is_help=True, help="The chat weights: download, convert, upload."),
    "image": typer.Typer(no_args_is_help=True, help="The custom image: build, push to ECR."),
    "config": typer.Typer(no_args_is_help=True, help="The settings."),
}
for group_name, group in groups.items():
    app.add_typer(group, name=group_name)
app.add_typer(endpoint_commands.app, name="endpoint")


@command(app)
def up(stack: Stack) -> Result:
    """All of it: weights, image, endpoints. A second run changes nothing."""
    made = stack.up()
    return {**made, "changed": stack.aws.journal.summary() or "nothing"}


@command(app)
def down(stack: Stack, yes: Yes = False) -> Result:
    """Remove everything that carries the project's tag, after asking."""
    endpoints = [removal.of_project(stack.endpoint(service)) for service in SERVICES]
    storage = removal.of_storage(stack.aws, stack.names)
    parts: list[removal.Belongings | removal.Storage] = [*endpoints, storage]
    lines = [line for part in parts for line in part.lines()]
    confirm(lines, yes or stack.aws.journal.dry_run)
    for part in parts:
        part.delete()
    return {"deleted": lines}


@command(groups["weights"])
def download(stack: Stack) -> Result:
    """Fetch the pinned revision from the hub; files that are whole are not fetched again."""
    return {"folder": weights.download(stack.settings, stack.aws.journal)}


@command(groups["weights"])
def convert(stack: Stack) -> Result:
    """Turn original ChatGLM2 files into a native checkpoint."""
    return {"folder": weights.convert(stack.settings, stack.aws.journal)}


@command(groups["weights"])
def upload(
    stack: Stack, service: Annotated[ServiceName, typer.Argument(help="chat or denoiser (its encoder).")] = "chat"
) -> Result:
    """Bring the model data to S3; goes on where it stopped."""
    return {"uri": stack.send_data([service])[service]}


@command(groups["image"])
def build(stack: Stack) -> Result:
    """Build the image with Docker."""
    return {"image": image.build(stack.aws, stack.names, stack.custom_image)}


@command(groups["image"])
def push(stack: Stack) -> Result:
    """Bring the image to ECR."""
    return {"image": image.push(stack.aws, stack.names, stack.custom_image)}


@command(app, changes=False, name="package")
def package_(
    stack: Stack, output: Annotated[Path, typer.Option(help="File to write.")] = Path("build/model.tar.gz")
) -> Result:
    """Write model.tar.gz for the stock DJL image: this project's handler, code only."""
    address = weights.uri(stack.names)
    return {"package": stack.archive.write(output), "weights": address}


@command(groups["config"], changes=False)
def show(stack: Stack) -> Result:
    """Print the settings of this run, and the names made from them."""
    names = stack.names
    return {
        **flat(stack.settings),
        "account": names.account,
        "partition": names.partition,
        "region": names.region,
        "bucket": names.bucket,
        "repository": names.repository,
        "endpoints": [names.endpoint(service) for service in stack.settings.enabled()],
    }


@command(app, changes=False, name="policy")
def policy_(
    stack: Stack,
    kind: Annotated[
        Literal["deployer", "endpoint", "trust"],
        typer.Argument(help="Of who deploys, of the endpoint's role, or who may take that role on."),
    ],
) -> str:
    """Print an IAM policy for this account and project."""
    return json.dumps(policy.render(kind, stack.names), indent=2)


def main() -> None:
    """Run a command; Ctrl-C ends it even where a script's background job would ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
