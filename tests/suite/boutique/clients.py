"""The shop as its own programs tell of it: spans by the OpenTelemetry exporter, runs by the OpenLineage client, both unmodified.

Usage: clients.py http://127.0.0.1:PORT
"""

import sys
import uuid
from datetime import datetime, timezone

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, JobEvent, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import job_type_job, ownership_job, schema_dataset
from openlineage.client.transport.http import HttpConfig, HttpTransport
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, set_span_in_context

BASE = sys.argv[1]
PRODUCER = "https://example.org/shop"
WAREHOUSE = "postgres://warehouse:5432"
LEDGER = "postgres://ledger:5432"
KAFKA = "kafka://kafka:9092"
REQUESTS = 200

providers = {}


def tracer(service):
    if service not in providers:
        resource = Resource.create({"service.name": service, "service.namespace": "shop"})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{BASE}/v1/traces")))
        providers[service] = provider
    return providers[service].get_tracer("shop")


def call(caller, parent, callee, method, inside=lambda span: None):
    """A call: the client's half in the caller, the server's half in the callee."""
    attributes = {"rpc.system": "grpc", "rpc.service": f"hipstershop.{callee}", "rpc.method": method}
    client = tracer(caller).start_span(f"{callee}/{method}", set_span_in_context(parent), SpanKind.CLIENT, attributes)
    server = tracer(callee).start_span(f"{callee}/{method}", set_span_in_context(client), SpanKind.SERVER, attributes)
    inside(server)
    server.end()
    client.end()


def database(caller, parent, system, address, port, attributes):
    attributes = {"db.system.name": system, "server.address": address, "server.port": port, **attributes}
    tracer(caller).start_span(f"{system} query", set_span_in_context(parent), SpanKind.CLIENT, attributes).end()


def pay(span):
    table = {"db.namespace": "shop|public", "db.collection.name": "payments", "db.operation.name": "INSERT"}
    database("payment", span, "postgresql", "ledger", 5432, table)


def cart(span):
    database("cart", span, "redis", "redis-cart", 6379, {})


def checkout(span):
    call("checkout", span, "cart", "GetCart", cart)
    call("checkout", span, "productcatalog", "GetProduct")
    call("checkout", span, "currency", "Convert")
    call("checkout", span, "shipping", "ShipOrder")
    call("checkout", span, "payment", "Charge", pay)
    call("checkout", span, "email", "SendOrderConfirmation")
    topic = {
        "messaging.system": "kafka",
        "messaging.destination.name": "orders",
        "server.address": "kafka",
        "server.port": 9092,
    }
    sent = tracer("checkout").start_span("orders send", set_span_in_context(span), SpanKind.PRODUCER, topic)
    sent.end()
    tracer("order-loader").start_span("orders process", set_span_in_context(sent), SpanKind.CONSUMER, topic).end()


def browse(i):
    buys = i % 4 == 0
    attributes = {"http.request.method": "POST" if buys else "GET", "http.route": "/checkout" if buys else "/product/{id}"}
    root = tracer("frontend").start_span(attributes["http.route"], kind=SpanKind.SERVER, attributes=attributes)
    call("frontend", root, "currency", "GetSupportedCurrencies")
    call("frontend", root, "cart", "GetCart", cart)
    if buys:
        call("frontend", root, "checkout", "PlaceOrder", checkout)
    else:
        call("frontend", root, "productcatalog", "ListProducts")
        call("frontend", root, "recommendation", "ListRecommendations", lambda s: call("recommendation", s, "productcatalog", "ListProducts"))
        call("frontend", root, "ad", "GetAds")
    root.end()


def lineage():
    client = OpenLineageClient(transport=HttpTransport(HttpConfig(url=BASE)))

    def now():
        return datetime.now(timezone.utc).isoformat()

    def fields(**types):
        columns = [schema_dataset.SchemaDatasetFacetFields(name=n, type=t) for n, t in types.items()]
        return {"schema": schema_dataset.SchemaDatasetFacet(fields=columns)}

    def service(name, inputs, outputs):
        facets = {"jobType": job_type_job.JobTypeJobFacet(processingType="SERVICE", integration="SHOP", jobType="SERVICE")}
        client.emit(JobEvent(eventTime=now(), producer=PRODUCER, job=Job("shop", name, facets), inputs=inputs, outputs=outputs))

    def run(name, owner, inputs, outputs):
        facets = {
            "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="AIRFLOW", jobType="TASK"),
            "ownership": ownership_job.OwnershipJobFacet(owners=[ownership_job.Owner(name=owner, type="MAINTAINER")]),
        }
        run, job = Run(str(uuid.uuid4())), Job("airflow-prod", name, facets)
        for state in (RunState.START, RunState.COMPLETE):
            event = RunEvent(eventType=state, eventTime=now(), producer=PRODUCER, run=run, job=job, inputs=inputs, outputs=outputs)
            client.emit(event)

    service("payment", [], [OutputDataset(LEDGER, "shop.public.payments", fields(id="BIGINT", amount="NUMERIC"))])
    run(
        "daily.load_payments",
        "team:data-platform",
        [InputDataset(LEDGER, "shop.public.payments")],
        [OutputDataset(WAREHOUSE, "shop.raw.payments", fields(id="BIGINT", amount="NUMERIC"))],
    )
    run(
        "hourly.load_orders",
        "team:data-platform",
        [InputDataset(KAFKA, "orders")],
        [OutputDataset(WAREHOUSE, "shop.raw.orders", fields(id="BIGINT", customer="TEXT"))],
    )


for number in range(REQUESTS):
    browse(number)
for provider in providers.values():
    provider.shutdown()
lineage()
