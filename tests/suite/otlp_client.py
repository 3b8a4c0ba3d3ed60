"""Sends a counter, a gauge and two histograms with the unmodified OpenTelemetry SDK to the URL given."""

import sys

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=sys.argv[1]), export_interval_millis=3_600_000)
views = [View(instrument_name="payload.size", aggregation=ExponentialBucketHistogramAggregation())]
resource = Resource.create({"service.name": "checkout", "service.namespace": "shop", "service.instance.id": "i-1"})
provider = MeterProvider(metric_readers=[reader], resource=resource, views=views)
meter = provider.get_meter("test")

requests = meter.create_counter("http.requests", description="Requests served")
requests.add(3, {"http.method": "GET"})
requests.add(4, {"http.method": "POST"})
meter.create_gauge("queue.depth", unit="1").set(12.5)
duration = meter.create_histogram("http.duration", unit="s", description="How long requests take")
size = meter.create_histogram("payload.size", unit="By")
for value in (0.01, 0.2, 0.2, 7.0):
    duration.record(value)
    size.record(value * 1000)
if not provider.force_flush():
    sys.exit("the export failed")
provider.shutdown()
