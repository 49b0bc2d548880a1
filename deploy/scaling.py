"""Autoscaling of an endpoint: between two numbers of instances, by the requests under way."""

from typing import Any

from deploy import definitions
from deploy.aws import Aws
from deploy.names import Names
from deploy.progress import say
from deploy.settings import Autoscaling, ServiceName

SCALING = "application-autoscaling"


def target(aws: Aws, names: Names, service: ServiceName) -> dict[str, Any] | None:
    """What autoscaling knows of the endpoint; None where it does not have it."""
    variant = definitions.variant(names, service)
    place = {"ServiceNamespace": variant["ServiceNamespace"], "ResourceIds": [variant["ResourceId"]]}
    return next(aws.pages(SCALING, "DescribeScalableTargets", "ScalableTargets", **place), None)


def ensure(aws: Aws, names: Names, service: ServiceName, scaling: Autoscaling | None) -> None:
    """Bring autoscaling to its definition; with None, take the endpoint out of it."""
    found, name = target(aws, names, service), names.endpoint(service)
    if scaling is None:
        if found:
            aws.change(SCALING, "DeregisterScalableTarget", **definitions.variant(names, service))
            say(f"{name}: no autoscaling any more")
        return
    wanted = definitions.scalable_target(names, service, scaling)
    if found:
        del wanted["Tags"]  # which are refused where the target is there
    if not found or any(found[key] != wanted[key] for key in ("MinCapacity", "MaxCapacity")):
        aws.change(SCALING, "RegisterScalableTarget", **wanted)
        say(f"{name}: autoscaling from {scaling.min} to {scaling.max} instances")
    policy = definitions.scaling_policy(names, service, scaling)
    key = "TargetTrackingScalingPolicyConfiguration"
    if all(there.get(key) != policy[key] for there in _policies(aws, names, service)):
        aws.change(SCALING, "PutScalingPolicy", **policy)
        say(f"{name}: autoscaling aims at {scaling.target:g} requests under way per instance")


def _policies(aws: Aws, names: Names, service: ServiceName) -> list[dict[str, Any]]:
    variant = definitions.variant(names, service)
    place = {"ServiceNamespace": variant["ServiceNamespace"], "ResourceId": variant["ResourceId"]}
    return list(aws.pages(SCALING, "DescribeScalingPolicies", "ScalingPolicies", **place))
