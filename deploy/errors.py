"""Every failure a user can see, as one line that says what to do, with its exit code.

`explain` is the one place that turns the errors of boto3 into such a line.
"""

from collections.abc import Callable
from typing import Any

REGION_HINT = "name one with --region, `region` in deploy.toml or AWS_DEFAULT_REGION"
SIGN_IN = "sign in (aws configure, aws sso login), set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile"
THROTTLED = "AWS is throttling this account even after several tries; wait a minute and run the command again"

# Error code -> what to do about it.
ADVICE = {
    "AccessDenied": "allow it: `python -m deploy policy deployer` prints what the commands need",
    "ExpiredToken": f"the credentials have expired; {SIGN_IN}",
    "InvalidClientTokenId": f"AWS does not know these credentials; {SIGN_IN}",
    "SignatureDoesNotMatch": f"the secret key is wrong; {SIGN_IN}",
    "ResourceLimitExceeded": "ask for more under Service Quotas (Amazon SageMaker, '<type> for endpoint usage'), or "
    "choose another type: --set chat.instance_type=...",
    "Throttling": THROTTLED,
    "BucketAlreadyExists": "the bucket name is taken by another account; name a bucket of yours: --set bucket=NAME",
    "OptInRequired": "this account has not opted in to the region; enable it or choose another --region",
    "BadDigest": "the data changed on its way; run the command again",
}
SAME_AS = {
    "AccessDeniedException": "AccessDenied",
    "403": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidAccessKeyId": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "ThrottlingException": "Throttling",
    "TooManyRequestsException": "Throttling",
    "RequestLimitExceeded": "Throttling",
    "SlowDown": "Throttling",
}


class DeployError(Exception):
    """Something failed: AWS, Docker, the network. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(DeployError):
    """The configuration or a flag cannot be used. Exit code 2, as for a wrong option."""

    exit_code = 2


class EndpointFailed(DeployError):  # noqa: N818 - named after SageMaker's status
    """An endpoint ended in a failure, or an update was rolled back. Exit code 3; the lines are the end of its log."""

    exit_code = 3

    def __init__(self, message: str, log: list[str] | None = None) -> None:
        super().__init__(message)
        self.log = log or []


class TimeLimit(DeployError):  # noqa: N818 - waiting too long is nobody's error
    """The time to wait is over, the endpoint is still at work. Exit code 4."""

    exit_code = 4


def explain(error: BaseException) -> DeployError | None:
    """The one line for an error of boto3; None for any other, which is a bug."""
    if isinstance(error, DeployError):
        return error
    return next((wrap(error) for kinds, wrap in _kinds() if isinstance(error, kinds)), None)


def _kinds() -> list[tuple[tuple[type[Exception], ...], Callable[[Any], DeployError]]]:
    from botocore import exceptions as aws  # noqa: PLC0415 - only where something failed

    sign_in = (aws.ProfileNotFound, aws.TokenRetrievalError, aws.SSOError, aws.CredentialRetrievalError)
    return [
        ((aws.ClientError,), lambda e: DeployError(_client_error(e))),
        (
            (aws.NoCredentialsError, aws.PartialCredentialsError),
            lambda e: ConfigError(f"no AWS credentials ({e}); {SIGN_IN}"),
        ),
        (sign_in, lambda e: ConfigError(f"{e}; {SIGN_IN}")),
        ((aws.NoRegionError, aws.InvalidRegionError), lambda e: ConfigError(f"{e}; {REGION_HINT}")),
        (
            (aws.HTTPClientError, aws.ConnectionError, aws.ResponseStreamingError),
            lambda e: DeployError(
                f"cannot reach AWS: {e}; check the network, the proxy and the region; then run it again"
            ),
        ),
        ((aws.BotoCoreError,), lambda e: DeployError(str(e))),
    ]


def _client_error(error: Any) -> str:
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    message = str(details.get("Message", error)).rstrip(".")
    advice = ADVICE.get(SAME_AS.get(code, code))
    if code == "ValidationException" and "already exist" in message:
        advice = "the name is taken; choose another one: --set name=NAME"
    return f"{error.operation_name}: {code}: {message}" + (f"; {advice}" if advice else "")
