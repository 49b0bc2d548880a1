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
    return dict(json.loads(text))
