"""Where spans go: to a collector, by the exporter that Serve is told to call."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.sdk.trace import TracerProvider

from serving import traces
from serving.config import Settings


@pytest.fixture
def collector():
    """(port, what was sent to which path) of a collector."""
    seen: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, seen
        server.shutdown()
        thread.join()


def test_a_span_reaches_the_collector_that_the_environment_names(collector, monkeypatch):
    port, seen = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    provider = TracerProvider()
    for processor in traces.otlp():
        provider.add_span_processor(processor)

    with provider.get_tracer("test").start_as_current_span("replica_handle_request") as span:
        span.set_attribute("rootstock.task", "digits")
    provider.shutdown()

    ((path, body),) = seen
    assert path == "/v1/traces"
    assert b"replica_handle_request" in body
    assert b"rootstock.task" in body


def test_the_name_of_an_exporter_is_a_module_and_a_function():
    assert Settings(store="memory://", traces="serving.traces:otlp").traces
    for name in ("otlp", "serving.traces:", "a b:c", "os:system('x')"):
        with pytest.raises(ValueError, match="traces"):
            Settings(store="memory://", traces=name)
