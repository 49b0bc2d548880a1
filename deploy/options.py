"""What every command shares: its options, the settings made from them, its output and its exit code.

Results go to standard output, everything else to standard error. No error shows a stack trace but a bug.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.errors import DeployError, EndpointFailed, explain
from deploy.journal import Journal
from deploy.progress import say
from deploy.settings import read_settings
from deploy.stack import Stack

Result = Mapping[str, Any] | str
Action = Callable[..., Result]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_SHARED: dict[str, tuple[Any, Any]] = {
    "config": (Annotated[Path | None, typer.Option(help="TOML file. (default: deploy.toml, if there)")], None),
    "set": (Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="One setting; repeatable.")], None),
    "name": (Annotated[str | None, typer.Option(help="Project: starts all names, and marks what is its own.")], None),
    "region": (Annotated[str | None, typer.Option(help="AWS region.")], None),
    "profile": (Annotated[str | None, typer.Option(help="AWS profile.")], None),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print the result as JSON.")], False),
}
_DRY_RUN = Annotated[bool, typer.Option("--dry-run", help="Print the requests as JSON and change nothing.")]


def command(app: typer.Typer, *, changes: bool = True, name: str | None = None) -> Callable[[Action], Action]:
    """Register a function of a Stack and its own options as a command that also takes the shared ones.

    What it returns is the result to print, text as it is. `changes` says that it changes something, which
    a dry run only prints.
    """
    shared = dict(_SHARED, dry_run=(_DRY_RUN, False)) if changes else _SHARED

    def register(action: Action) -> Action:
        @functools.wraps(action)
        def run(context: typer.Context, **given: Any) -> None:
            options = {key: given.pop(key) for key in shared}
            raise typer.Exit(_run(action, given, options, context.obj))

        own = [p for key, p in inspect.signature(action).parameters.items() if key != "stack"]
        parameters = [_parameter("context", typer.Context), *(p.replace(kind=p.KEYWORD_ONLY) for p in own)]
        parameters += [_parameter(key, kind, default) for key, (kind, default) in shared.items()]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        app.command(name)(run)
        return action

    return register


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _run(action: Action, given: dict[str, Any], options: dict[str, Any], session: Any) -> int:
    journal = Journal(dry_run=options.get("dry_run", False))
    try:
        result = action(_stack(options, journal, session), **given)
    except KeyboardInterrupt:
        say("interrupted")
        _admit(journal)
        return 130
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        _show(known, journal)
        return known.exit_code
    if journal.dry_run:
        print(json.dumps(journal.entries, indent=2, ensure_ascii=False, default=str))
    else:
        _print(result, options["as_json"])
    return 0


def _stack(options: Mapping[str, Any], journal: Journal, session: Any) -> Stack:
    import boto3  # noqa: PLC0415 - slow to import, and `--help` needs none of it

    from deploy.aws import Aws  # noqa: PLC0415
    from deploy.names import Names  # noqa: PLC0415

    named = {key: options[key] for key in ("name", "region", "profile")}
    settings = read_settings(options["config"], options["set"] or [], **named)
    session = session or boto3.Session(profile_name=settings.profile or None)
    aws = Aws(session, settings.region, journal, settings.attempts)
    account = aws.account
    if aws.offline:
        account = settings.role_arn.split(":")[4] if settings.role_arn else account
        say(f"no AWS credentials: this dry run assumes that account {account} is empty")
    return Stack(aws, Names(settings, aws.partition, aws.domain, aws.region, account))


def _show(error: DeployError, journal: Journal) -> None:
    say(f"deploy: {error}")
    if isinstance(error, EndpointFailed) and error.log:
        say("the end of its log:")
        for line in error.log:
            say(f"  {line}")
    _admit(journal)


def _admit(journal: Journal) -> None:
    """Say what was made before a failure, so that nothing is left unsaid."""
    if journal.entries and not journal.dry_run:
        removal = ", `python -m deploy down` removes what carries the project's tag" if journal.has_made() else ""
        say(f"done before that: {journal.summary()}; the same command goes on from there{removal}")


def _print(result: Result, as_json: bool) -> None:
    if isinstance(result, str):
        print(result)
    elif as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, default=str))
    else:
        for key, value in result.items():
            print("\n  ".join([f"{key}:", *map(str, value)]) if isinstance(value, list) else f"{key}: {value}")
