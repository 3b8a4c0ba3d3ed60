"""Plays orders of a shop with the unmodified OpenTelemetry SDK, one tracer provider per service, and exports the spans.

Arguments: "http" or "grpc", the endpoint, the number of orders, the fraction of them that is sampled.
"""

import sys

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace._sampling_experimental import composable_traceid_ratio_based, composite_sampler
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

protocol, endpoint, orders, sampled = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
# Consistent sampling: the root puts its threshold into the trace state, which goes along with the context.
sampler = ParentBased(composite_sampler(composable_traceid_ratio_based(sampled)))


def exporter():
    if protocol == "grpc":
        return GrpcExporter(endpoint=endpoint, insecure=True, compression=None)
    return HttpExporter(endpoint=endpoint, compression=Compression.Gzip)


def service(name, **attributes):
    resource = {"service.name": name, "service.namespace": "shop", **attributes}
    provider = TracerProvider(resource=Resource.create(resource), sampler=sampler)
    # Every export is one service's, so that the halves of a call always come in different requests.
    provider.add_span_processor(BatchSpanProcessor(exporter(), max_queue_size=100_000))
    return provider


providers = {
    "frontend": service("frontend", **{"service.criticality": "critical"}),
    "checkout": service("checkout", **{"k8s.namespace.name": "shop", "k8s.deployment.name": "checkout-v2"}),
    "payment": service("payment"),
    "ads": service("ads"),
    "mailer": service("mailer"),
    "warehouse": service("warehouse"),
}
tracers = {name: provider.get_tracer("shop") for name, provider in providers.items()}


class Call:
    """A client span in one service and the server span of another below it."""

    def __init__(self, parent, caller, callee, client, server, failed=False):
        self.client = start(caller, SpanKind.CLIENT, client, parent)
        self.server = start(callee, SpanKind.SERVER, server, self.client)
        self.failed = failed

    def __enter__(self):
        return self.server

    def __exit__(self, *_):
        if self.failed:
            self.server.set_status(Status(StatusCode.ERROR))
        self.server.end()
        self.client.end()


def start(name, kind, attributes, parent=None, links=()):
    # Across services only the span's context goes along, as in a header.
    context = Context()
    if parent is not None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent.get_span_context()), context)
    span = tracers[name].start_span("x", context=context, kind=kind, links=links)
    # Not given at the start, because the sampler of roots leaves out what it did not add itself.
    span.set_attributes(attributes)
    return span


def once(name, kind, attributes, parent):
    span = start(name, kind, attributes, parent)
    span.end()
    return span


KAFKA = {"messaging.system": "kafka", "messaging.destination.name": "orders", "server.address": "kafka", "server.port": 9092}
DB = {"db.system.name": "postgresql", "server.address": "db", "db.namespace": "shop"}

messages = []
for i in range(orders):
    entry = start("frontend", SpanKind.SERVER, {"http.request.method": "POST", "http.route": "/cart/checkout", "url.path": f"/cart/{i}"})
    if i % 2 == 0:
        # The older names, and only an address to call.
        with Call(entry, "frontend", "ads", {"net.peer.name": "10.1.2.3", "net.peer.port": 9555},
                  {"rpc.system": "grpc", "rpc.service": "shop.AdService", "rpc.method": "GetAds"}):
            pass
    with Call(entry, "frontend", "checkout", {"server.address": "checkout", "server.port": 5050},
              {"rpc.system": "grpc", "rpc.service": "shop.CheckoutService", "rpc.method": "PlaceOrder"}) as checkout:
        with Call(checkout, "checkout", "payment", {"server.address": "payment", "server.port": 50051},
                  {"rpc.system.name": "grpc", "rpc.method": "shop.PaymentService/Charge"}, failed=i % 10 == 0) as payment:
            once("payment", SpanKind.CLIENT, {"url.full": "https://bank.example/v1/charge", "server.address": "bank.example"}, payment)
            once("payment", SpanKind.CLIENT, {"db.system": "redis", "net.peer.name": "redis-cart", "db.statement": "GET x"}, payment)
        once("checkout", SpanKind.CLIENT, {**DB, "db.query.text": "INSERT INTO orders (id, total) VALUES ($1, $2)"}, checkout)
        once("checkout", SpanKind.CLIENT, {**DB, "db.collection.name": "stock", "db.operation.name": "SELECT"}, checkout)
        # Nobody traces what is behind these: a service by its name, and an address that names nobody.
        once("checkout", SpanKind.CLIENT, {"peer.service": "shipping"}, checkout)
        once("checkout", SpanKind.CLIENT, {"server.address": "10.9.8.7", "server.port": 80}, checkout)
        messages.append(once("checkout", SpanKind.PRODUCER, {**KAFKA, "messaging.operation.type": "send"}, checkout))
    entry.end()

# One consumer takes messages one by one as children, the other one in batches with links.
for message in messages:
    span = start("mailer", SpanKind.CONSUMER, {**KAFKA, "messaging.operation.type": "process"}, message)
    span.end()
for first in range(0, len(messages), 10):
    links = [Link(m.get_span_context()) for m in messages[first:first + 10]]
    span = start("warehouse", SpanKind.CONSUMER, {**KAFKA, "messaging.operation.type": "process", "messaging.batch.message_count": len(links)}, links=links)
    once("warehouse", SpanKind.CLIENT, {**DB, "db.query.text": "UPDATE public.stock SET amount = amount - 1"}, span)
    span.end()

for name, provider in providers.items():
    if not provider.force_flush():
        sys.exit(f"the export of {name} failed")
    provider.shutdown()
