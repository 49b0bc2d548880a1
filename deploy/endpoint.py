"""One SageMaker endpoint: model, configuration, endpoint; made, replaced and removed in steps that can be repeated.

Models and configurations never change; a new definition gets a new name, and the old one is removed once the endpoint
has taken the new one over.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deploy import definitions, logs, scaling
from deploy.aws import Aws
from deploy.definitions import Artifacts
from deploy.errors import ConfigError, EndpointFailed, TimeLimit
from deploy.names import Names
from deploy.progress import say
from deploy.settings import ServiceName

AT_WORK = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}
LOG_LINES = 20


def check_role(aws: Aws, names: Names) -> None:
    """Raises ConfigError that says what is wrong with the role SageMaker would run the endpoints with."""
    arn = names.settings.role_arn
    if not arn:
        raise ConfigError(
            "role_arn is not set: SageMaker runs the endpoint with that role; `python -m deploy policy trust` and "
            "`policy endpoint` print what it needs"
        )
    if not arn.startswith(f"arn:{names.partition}:"):
        raise ConfigError(f"role_arn {arn} is not of the partition {names.partition} of {aws.region}")
    if aws.read("iam", "GetRole", RoleName=arn.rpartition("/")[2]) is None and not aws.offline:
        raise ConfigError(
            f"role_arn: there is no role {arn}; make it from what `python -m deploy policy trust` and `policy "
            "endpoint` print"
        )


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of the settings and the calls that manage it."""

    aws: Aws
    names: Names
    service: ServiceName
    sleep: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        """In SageMaker."""
        return self.names.endpoint(self.service)

    def describe(self) -> dict[str, Any] | None:
        """SageMaker's description; None where there is none. Raises ConfigError when it is somebody else's."""
        found = self.aws.read("sagemaker", "DescribeEndpoint", EndpointName=self.name)
        if found and not self._owns(found["EndpointArn"]):
            raise ConfigError(
                f"endpoint {self.name} exists and is not of this project (it has no tag "
                f"{self.names.tag_list[-1]['Key']}={self.names.settings.name}); choose another name: --set name=NAME"
            )
        return found

    def require(self) -> dict[str, Any]:
        """The description. Raises ConfigError where there is no endpoint."""
        found = self.describe()
        if found is None:
            raise ConfigError(
                f"there is no endpoint {self.name} in {self.aws.region}; run: python -m deploy endpoint create "
                f"{self.service}"
            )
        return found

    def _owns(self, arn: str) -> bool:
        tags = self.aws.read("sagemaker", "ListTags", ResourceArn=arn)
        return self.names.owns(tags["Tags"] if tags else [])

    def ensure(self, artifacts: Artifacts) -> str:
        """Bring the endpoint to its definition: what was done, as a word. Does not wait for what it starts."""
        check_role(self.aws, self.names)
        found = self.describe()
        if found and found["EndpointStatus"] in AT_WORK:
            found = self.settle()
        if found and found["EndpointStatus"] == "Failed":
            say(f"{self.name} failed earlier ({found.get('FailureReason', 'no reason given')}); making it anew")
            self.delete()
            found = None
        config = self._ensure_config(artifacts, found["EndpointConfigName"] if found else "")
        if found is None:
            if self._has_alarm():  # of an endpoint that is gone; `is_finished` goes by this one's own
                self.aws.change("cloudwatch", "DeleteAlarms", AlarmNames=[self.names.alarm(self.service)])
            creation = definitions.endpoint(self.names, self.service, config)
            self.aws.change("sagemaker", "CreateEndpoint", **creation)
            return "created"
        if found["EndpointConfigName"] == config:
            return "unchanged"
        self.ensure_alarm()
        self.aws.change("sagemaker", "UpdateEndpoint", **definitions.update(self.names, self.service, config))
        return "updated"

    def _ensure_config(self, artifacts: Artifacts, serving: str) -> str:
        """The configuration's name. One left by an earlier update is made anew: `asked_for` goes by the newest."""
        model = definitions.model(self.names, self.service, artifacts)
        if self.aws.read("sagemaker", "DescribeModel", ModelName=model["ModelName"]) is None:
            self.aws.change("sagemaker", "CreateModel", **model)
        config = definitions.endpoint_config(self.names, self.service, model["ModelName"])
        name = str(config["EndpointConfigName"])
        if name == serving:
            return name
        if self.aws.read("sagemaker", "DescribeEndpointConfig", EndpointConfigName=name):
            self.aws.change("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name)
        self.aws.change("sagemaker", "CreateEndpointConfig", **config)
        return name

    def ensure_alarm(self) -> None:
        """Make the alarm that rolls an update back: before an update, or as the last step of a creation."""
        if not self._has_alarm():
            self.aws.change("cloudwatch", "PutMetricAlarm", **definitions.alarm(self.names, self.service))

    def _has_alarm(self) -> bool:
        found = self.aws.read("cloudwatch", "DescribeAlarms", AlarmNames=[self.names.alarm(self.service)])
        return bool(found and found["MetricAlarms"])

    def settle(self) -> dict[str, Any] | None:
        """Wait until SageMaker is done with it; None when it is gone. Raises TimeLimit."""
        if self.aws.journal.dry_run:
            return self.describe()
        started, shown = time.monotonic(), ""
        while (found := self.describe()) and found["EndpointStatus"] in AT_WORK:
            seconds = time.monotonic() - started
            if found["EndpointStatus"] != shown:
                shown = found["EndpointStatus"]
                say(f"{self.name}: {shown} ({seconds:.0f} s)")
            if seconds > self.names.settings.wait_seconds:
                raise TimeLimit(
                    f"{self.name} is still {shown} after {seconds:.0f} s; go on waiting with: python -m deploy "
                    f"endpoint wait {self.service}"
                )
            self.sleep(self.names.settings.poll_seconds)
        if found:
            say(f"{self.name}: {found['EndpointStatus']} ({time.monotonic() - started:.0f} s)")
        return found

    def wait(self, config: str) -> dict[str, Any]:
        """Wait until it serves with that configuration. Raises EndpointFailed with the reason and the last log lines,
        after removing the definition that an update could not bring up."""
        if self.aws.journal.dry_run:
            return self.describe() or {}
        found = self.settle()
        if found is None:
            raise EndpointFailed(f"{self.name} is gone: somebody deleted it")
        status, reason = found["EndpointStatus"], found.get("FailureReason", "SageMaker gives no reason")
        if status != "InService":
            raise EndpointFailed(f"{self.name} is {status}: {reason}", self.log())
        if (serving := found["EndpointConfigName"]) != config:
            self.remove_unused(serving, self._model_of(serving), found["LastModifiedTime"])
            raise EndpointFailed(
                f"the update of {self.name} failed and was rolled back; it serves as before with {serving}: {reason}",
                self.log(),
            )
        return found

    def finish_update(self, config: str, model: str) -> None:
        """Wait until it serves that definition, then remove every other one that it may have been told to run."""
        found = self.wait(config)
        self.remove_unused(config, model, found.get("LastModifiedTime"))

    def definition(self, artifacts: Artifacts) -> tuple[str, str]:
        """Names of the configuration and the model that the settings make."""
        model = str(definitions.model(self.names, self.service, artifacts)["ModelName"])
        return str(definitions.endpoint_config(self.names, self.service, model)["EndpointConfigName"]), model

    def asked_for(self) -> tuple[str, str]:
        """Names of the configuration and the model that it was last told to run, by whatever settings.

        It was not told of a configuration newer than its own last change: SageMaker refused that, or a run prepares it.
        """
        found = self.require()
        config = (self.configs(found["LastModifiedTime"]) or [found["EndpointConfigName"]])[0]
        return config, self._model_of(config)

    def is_finished(self, config: str) -> bool:
        """Whether no step is left of its creation, or of an update to that configuration."""
        others = set(self.configs(self.require()["LastModifiedTime"])) - {config}
        return not others and self._has_alarm()

    def _model_of(self, config: str) -> str:
        found = self.aws.ask("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)
        return str(found["ProductionVariants"][0]["ModelName"])

    def log(self) -> list[str]:
        """The end of what its containers printed."""
        return logs.last_lines(self.aws, self.names.log_group(self.service), LOG_LINES)

    def configs(self, until: datetime | None = None) -> list[str]:
        """Names of the project's configurations for this endpoint, newest first; with a time, only those until then."""
        order = {"SortBy": "CreationTime", "SortOrder": "Descending", "NameContains": f"{self.name}-"}
        found = self.aws.pages("sagemaker", "ListEndpointConfigs", "EndpointConfigs", **order)
        return self._mine(found, "EndpointConfig", until)

    def models(self, until: datetime | None = None) -> list[str]:
        """Names of the project's models for this endpoint; with a time, only those until then."""
        found = self.aws.pages("sagemaker", "ListModels", "Models", NameContains=f"{self.name}-")
        return self._mine(found, "Model", until)

    def _mine(self, found: Iterable[dict[str, Any]], kind: str, until: datetime | None) -> list[str]:
        named = [item for item in found if item[f"{kind}Name"].startswith(f"{self.name}-")]
        made = [item for item in named if until is None or item["CreationTime"] <= until]
        return [item[f"{kind}Name"] for item in made if self._owns(item[f"{kind}Arn"])]

    def remove_unused(self, config: str, model: str, until: datetime | None = None) -> None:
        """Delete every configuration and model of the project for this endpoint but these.

        With a time, what was made since stays, and the models that it names.
        """
        unused = set(self.configs(until)) - {config}
        for name in unused:
            self.aws.change("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name)
        used = {self._model_of(name) for name in set(self.configs()) - unused - {config}}
        for name in set(self.models(until)) - used - {model}:
            self.aws.change("sagemaker", "DeleteModel", ModelName=name)

    def set_count(self, count: int) -> None:
        """Run a fixed number of instances, out of autoscaling."""
        found = self.require()
        scaling.ensure(self.aws, self.names, self.service, None)
        if found["ProductionVariants"][0].get("DesiredInstanceCount") != count:
            wanted = definitions.capacity(self.names, self.service, count)
            self.aws.change("sagemaker", "UpdateEndpointWeightsAndCapacities", **wanted)

    def delete(self) -> None:
        """Delete the endpoint alone, and wait until it is gone; SageMaker refuses while it is working on it."""
        found = self.settle()
        if found and found["EndpointStatus"] != "Deleting":
            self.aws.change("sagemaker", "DeleteEndpoint", EndpointName=self.name)
            self.settle()
