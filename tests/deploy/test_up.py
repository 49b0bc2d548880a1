"""`up`, `down` and all between, against AWS's stand-in."""

from typing import Any

from tests.deploy.conftest import Account


def things(account: Account) -> dict[str, list[str]]:
    """Everything the commands could have made."""
    sagemaker = account.client("sagemaker")
    scaling = account.client("application-autoscaling")
    return {
        "endpoints": [e["EndpointName"] for e in sagemaker.list_endpoints()["Endpoints"]],
        "configs": [c["EndpointConfigName"] for c in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "models": [m["ModelName"] for m in sagemaker.list_models()["Models"]],
        "alarms": [a["AlarmName"] for a in account.client("cloudwatch").describe_alarms()["MetricAlarms"]],
        "buckets": [b["Name"] for b in account.client("s3").list_buckets()["Buckets"]],
        "repositories": [r["repositoryName"] for r in account.client("ecr").describe_repositories()["repositories"]],
        "targets": [
            t["ResourceId"] for t in scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        ],
    }


def test_up(pushed: Account) -> None:
    done = pushed.deploy("up", "--json", chat__autoscaling='{"max": 3}')
    print(done.err)
    assert done.code == 0, done.err
    print(done.out, things(pushed))
    again = pushed.deploy("up", "--json", chat__autoscaling='{"max": 3}')
    print(again.err, again.out)
    down = pushed.deploy("down", "--yes")
    print(down.err, down.out, things(pushed))
    assert 0
