"""What the service counts, in a registry of its own so that several apps can live in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Prometheus metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "denoiser_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram("denoiser_request_seconds", "Time to reply.", ("route",), registry=self.registry)
        self.rows = Counter("denoiser_rows", "Embeddings in replies, denoised or not.", registry=self.registry)
        self.waiting = Gauge("denoiser_waiting", "Requests that have a place in the queue.", registry=self.registry)
        self.refused = Counter("denoiser_busy", "Requests refused because the queue was full.", registry=self.registry)
        self.ready = Gauge("denoiser_ready", "1 when a model is loaded.", registry=self.registry)
