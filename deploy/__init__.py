"""From pinned weights to SageMaker endpoints: a command line over boto3 and Docker, safe to run twice."""
