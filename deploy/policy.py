"""The IAM policies of who deploys and of what is deployed: templates in files, filled in for an account."""

import json
from pathlib import Path
from string import Template
from typing import Any

from deploy.names import STOCK_ACCOUNTS, Names

FOLDER = Path(__file__).with_name("policies")


def render(kind: str, names: Names) -> dict[str, Any]:
    """The policy in the file of that name, for this account, region and project."""
    text = Template((FOLDER / f"{kind}.json").read_text(encoding="utf-8")).substitute(
        partition=names.partition,
        region=names.region,
        account=names.account,
        name=names.settings.name,
        bucket=names.bucket,
        repository=names.repository,
        role_arn=names.settings.role_arn or f"arn:{names.partition}:iam::{names.account}:role/{names.settings.name}",
        stock_account=STOCK_ACCOUNTS[names.partition],
    )
    policy: dict[str, Any] = json.loads(text)
    given = {"OwnBucket": not names.owns_bucket, "OwnRepository": not names.owns_repository}
    policy["Statement"] = [statement for statement in policy["Statement"] if not given.get(statement.get("Sid"))]
    if kind != "trust":
        policy["Statement"] += [_reads(names.partition, number, uri) for number, uri in enumerate(_named(names))]
    return policy


def _named(names: Names) -> list[str]:
    """Model data that the settings name in a place of S3 of the team's own."""
    named = (names.settings.weights.model, names.settings.denoiser.model_data)
    return [uri.removeprefix("s3://").rstrip("/") for uri in named if uri.startswith("s3://")]


def _reads(partition: str, number: int, place: str) -> dict[str, Any]:
    """Reading below a place `bucket/prefix`. S3 reports a missing key only to those who may list the bucket."""
    bucket = place.partition("/")[0]
    place_arn = f"arn:{partition}:s3:::"
    return {
        "Sid": f"NamedModelData{number}",
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"{place_arn}{bucket}", f"{place_arn}{place}/*"],
    }
