"""Where Serve's spans go. Knows OpenTelemetry's exporters, no span and no request.

Serve calls the function whose name the settings hold, in every process that makes spans.
"""

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def otlp() -> list[SpanProcessor]:
    """To a collector, over HTTP; OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_…`) say which.

    Raises:
        ImportError: the extra `tracing` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 (an extra)
        OTLPSpanExporter,
    )

    return [BatchSpanProcessor(OTLPSpanExporter())]
