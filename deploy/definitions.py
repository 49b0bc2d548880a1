"""What is asked of SageMaker, autoscaling and CloudWatch, as plain dictionaries: the parameters of each request."""

from dataclasses import dataclass
from typing import Any

from deploy.names import VARIANT, Names
from deploy.settings import Autoscaling, Chat, Service, ServiceName

MOUNT = "/opt/ml/model"  # where SageMaker puts model data
# CUDA 13 needs driver 580. With an older AMI the endpoint stays in Creating and its container prints nothing.
AMI_CUDA_13 = "al2023-ami-sagemaker-inference-gpu-4-1"
AMI_CUDA_12 = "al2-ami-sagemaker-inference-gpu-3-1"
GPU_FAMILIES = ("ml.g", "ml.p")
DIMENSION = "sagemaker:variant:DesiredInstanceCount"

Definition = dict[str, Any]


@dataclass(frozen=True)
class Artifacts:
    """Addresses of what an endpoint runs."""

    image: str
    data: str
    """The S3 prefix of its model data."""
    package: str = ""
    """The archive with the handler, which reads `data` itself; empty where `data` is mounted."""


def model(names: Names, service: ServiceName, artifacts: Artifacts) -> Definition:
    """CreateModel."""
    container: Definition = {"Image": artifacts.image, "Environment": environment(names, service, artifacts.data)}
    if artifacts.package:
        container["ModelDataUrl"] = artifacts.package
    else:
        source = {"S3Uri": artifacts.data, "S3DataType": "S3Prefix", "CompressionType": "None"}
        container["ModelDataSource"] = {"S3DataSource": source}
    definition = {
        "ExecutionRoleArn": names.settings.role_arn,
        "PrimaryContainer": container,
        "EnableNetworkIsolation": not artifacts.package,  # a packaged handler fetches weights and requirements
    }
    name = names.versioned(service, definition)
    return {"ModelName": name, **definition, "Tags": names.tag_list}


def environment(names: Names, service: ServiceName, data: str) -> dict[str, str]:
    """What the container is told; the settings have the last word."""
    chosen = names.settings.service(service)
    if service == "denoiser":
        defaults = {"SERVICE": "denoiser", "PORT": "8080", "ENCODER_PATH": f"{MOUNT}/encoder"}
        if names.settings.denoiser.checkpoint:
            defaults["MODEL_PATH"] = f"{MOUNT}/checkpoint"
    elif names.settings.chat.image == "custom":
        defaults = {"SERVICE": "chat", "HF_MODEL_ID": MOUNT, "HF_HUB_OFFLINE": "1", **_device(chosen)}
    elif names.settings.chat.packaged:
        defaults = {"HF_MODEL_ID": data, **_device(chosen)}
    else:
        defaults = {"HF_MODEL_ID": MOUNT, "OPTION_DTYPE": "fp16", "HF_HUB_OFFLINE": "1"}
    return defaults | chosen.environment


def _device(chosen: Service) -> dict[str, str]:
    """Chat on an instance with a GPU ends rather than answer from its CPU."""
    return {"CHAT_DEVICE": "cuda"} if _has_gpu(chosen) else {}


def _has_gpu(chosen: Service) -> bool:
    return chosen.instance_type.startswith(GPU_FAMILIES)


def endpoint_config(names: Names, service: ServiceName, model_name: str) -> Definition:
    """CreateEndpointConfig."""
    chosen = names.settings.service(service)
    production: Definition = {
        "VariantName": VARIANT,
        "ModelName": model_name,
        "InstanceType": chosen.instance_type,
        "InitialInstanceCount": chosen.autoscaling.min if chosen.autoscaling else chosen.instance_count,
        "ContainerStartupHealthCheckTimeoutInSeconds": chosen.startup_seconds,
        "ModelDataDownloadTimeoutInSeconds": chosen.download_seconds,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    if _has_gpu(chosen):
        production["InferenceAmiVersion"] = chosen.ami or _ami(chosen)
    definition = {"ProductionVariants": [production]}
    name = names.versioned(service, definition)
    return {"EndpointConfigName": name, **definition, "Tags": names.tag_list}


def _ami(chosen: Service) -> str:
    """This project's code asks for driver 580, in the stock image too."""
    foreign = isinstance(chosen, Chat) and chosen.image == "stock" and not chosen.packaged
    return AMI_CUDA_12 if foreign else AMI_CUDA_13


def endpoint(names: Names, service: ServiceName, config_name: str) -> Definition:
    """CreateEndpoint."""
    return {"EndpointName": names.endpoint(service), "EndpointConfigName": config_name, "Tags": names.tag_list}


def update(names: Names, service: ServiceName, config_name: str) -> Definition:
    """UpdateEndpoint: new instances take over once they are healthy; the alarm, or a failure, brings back the old.

    They have an hour more than they may take to fetch and load the model.
    """
    chosen = names.settings.service(service)
    policy = {
        "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300},
        "TerminationWaitInSeconds": 60,
        "MaximumExecutionTimeoutInSeconds": 3600 + chosen.download_seconds + chosen.startup_seconds,
    }
    return {
        "EndpointName": names.endpoint(service),
        "EndpointConfigName": config_name,
        "RetainAllVariantProperties": chosen.autoscaling is not None,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": policy,
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": names.alarm(service)}]},
        },
    }


def alarm(names: Names, service: ServiceName) -> Definition:
    """PutMetricAlarm: more than one request in a hundred answered with 5xx, two minutes in a row."""
    return {
        "AlarmName": names.alarm(service),
        "AlarmDescription": f"Rolls back an update of the endpoint {names.endpoint(service)}",
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": [
            {"Name": "EndpointName", "Value": names.endpoint(service)},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "Threshold": 0.01,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": names.tag_list,
    }


def scalable_target(names: Names, service: ServiceName, scaling: Autoscaling) -> Definition:
    """RegisterScalableTarget."""
    capacity = {"MinCapacity": scaling.min, "MaxCapacity": scaling.max}
    return {**variant(names, service), **capacity, "Tags": names.tags}


def scaling_policy(names: Names, service: ServiceName, scaling: Autoscaling) -> Definition:
    """PutScalingPolicy: follow the requests under way per instance."""
    return {
        "PolicyName": names.endpoint(service),
        **variant(names, service),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": scaling.target,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
            },
            "ScaleInCooldown": scaling.scale_in_seconds,
            "ScaleOutCooldown": scaling.scale_out_seconds,
        },
    }


def capacity(names: Names, service: ServiceName, count: int) -> Definition:
    """UpdateEndpointWeightsAndCapacities."""
    wanted = [{"VariantName": VARIANT, "DesiredInstanceCount": count}]
    return {"EndpointName": names.endpoint(service), "DesiredWeightsAndCapacities": wanted}


def variant(names: Names, service: ServiceName) -> Definition:
    """DeregisterScalableTarget; also the place of the endpoint in every other request of autoscaling."""
    resource = f"endpoint/{names.endpoint(service)}/variant/{VARIANT}"
    return {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": DIMENSION}
