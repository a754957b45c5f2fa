"""What Prometheus is told (https://prometheus.io/docs/practices/naming)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
TENTHS = tuple(n / 20 for n in range(1, 21))


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "defect_requests", "Requests answered, by address and status", ["path", "status"], registry=registry
        )
        self.results = Counter(
            "defect_results", "Images, by verdict; error: without one", ["verdict"], registry=registry
        )
        self.stages = Histogram(
            "defect_stage_seconds",
            "Time of an image in decoding, waiting, network (its batch's) and finishing; of a request in total",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue = Gauge("defect_queue_images", "Images accepted and not answered yet", registry=registry)
        self.batches = Histogram("defect_batch_images", "Images in a batch", buckets=BATCHES, registry=registry)
        self.scores = Histogram(
            "defect_probability", "Defect probabilities of the images", buckets=TENTHS, registry=registry
        )
        self.heartbeat = Gauge(
            "defect_heartbeat_timestamp_seconds", "When the batching thread was last seen alive", registry=registry
        )
        self.model = Info("defect_model", "The model in use", registry=registry)
        sink = {"labelnames": ["sink"], "registry": registry}
        self.sink_waiting = Gauge("defect_sink_waiting_results", "Results that wait for a sink", **sink)
        self.sink_delivered = Counter("defect_sink_delivered_results", "Results that a sink has taken", **sink)
        self.sink_failures = Counter("defect_sink_failures", "Times that a sink was not reached", **sink)
        self.store_failures = Counter(
            "defect_store_failures", "Times that results could not be written into the database", registry=registry
        )
        drift = {"labelnames": ["what"], "registry": registry}
        self.drift_capital = Gauge(
            "defect_drift_log_capital", "Evidence that images have changed, by score and novelty; natural log", **drift
        )
        self.drift_alarm = Gauge("defect_drift_alarm", "1 once images were seen to have changed", **drift)
        self.swaps = Counter("defect_model_changes", "Changes of the model", ["outcome"], registry=registry)

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self.registry)
