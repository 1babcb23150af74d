"""What /metrics tells Prometheus: counts and times, and nothing of what was asked."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "florilegium_requests", "HTTP requests answered", ["route", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter("florilegium_prompt_tokens", "tokens of prompts", registry=self.registry)
        self.tokens = Counter("florilegium_generated_tokens", "tokens written", registry=self.registry)
        self.first = Histogram(
            "florilegium_time_to_first_token_seconds",
            "from the request to its first token",
            buckets=SECONDS,
            registry=self.registry,
        )

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        Gauge(f"florilegium_{name}", help, registry=self.registry).set_function(value)

    def start(self, prompt_tokens: int) -> Clock:
        self.prompt_tokens.inc(prompt_tokens)
        return Clock(self)

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))


class Clock:
    """Counts the tokens of one request, and times the first."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics, self.began = metrics, time.perf_counter()
        self.waits = True

    def tokens(self, number: int = 1) -> None:
        self.metrics.tokens.inc(number)
        if self.waits:
            self.metrics.first.observe(time.perf_counter() - self.began)
            self.waits = False
