"""Sends the runs of a small warehouse with the unmodified OpenLineage client to the URL given."""

import sys
from datetime import datetime, timedelta, timezone

from openlineage.client import OpenLineageClient, set_producer
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    documentation_dataset,
    nominal_time_run,
    parent_run,
    schema_dataset,
    source_code_location_job,
    sql_job,
    tags_dataset,
)
from openlineage.client.transport.http import HttpCompression, HttpConfig, HttpTransport

set_producer("https://example.org/warehouse")
client = OpenLineageClient(transport=HttpTransport(HttpConfig(url=sys.argv[1], compression=HttpCompression.GZIP)))
DB = "postgres://warehouse:5432"
JOBS = "airflow-prod"
PARENT = "01a200c5-b4cc-774c-bb18-0000000000ff"
start = datetime.now(timezone.utc) - timedelta(hours=2)


def field(name, kind, description=None):
    return schema_dataset.SchemaDatasetFacetFields(name=name, type=kind, description=description)


def send(n, job, inputs, outputs, end=RunState.COMPLETE, job_facets=None):
    begin = start + timedelta(minutes=10 * n)
    run = Run(
        runId=f"01a200c5-b4cc-774c-bb18-{n:012}",
        facets={
            "nominalTime": nominal_time_run.NominalTimeRunFacet(nominalStartTime=begin.replace(minute=0).isoformat()),
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(runId=PARENT), job=parent_run.Job(namespace=JOBS, name="daily")
            ),
        },
    )
    job = Job(namespace=JOBS, name=job, facets=job_facets or {})
    for state, at in ((RunState.START, begin), (end, begin + timedelta(minutes=5))):
        done = state == RunState.COMPLETE
        event = RunEvent(eventType=state, eventTime=at.isoformat(), run=run, job=job, inputs=inputs, outputs=outputs if done else [])
        client.emit(event)


orders = InputDataset(namespace=DB, name="shop.public.orders")
revenue = InputDataset(namespace=DB, name="shop.public.revenue")
send(
    1,
    "daily.load",
    [InputDataset(namespace="s3://landing", name="raw/orders.csv")],
    [
        OutputDataset(
            namespace=DB,
            name="shop.public.orders",
            facets={
                "schema": schema_dataset.SchemaDatasetFacet(fields=[field("id", "BIGINT"), field("amount", "NUMERIC", "in euros")]),
                "documentation": documentation_dataset.DocumentationDatasetFacet(description="All orders"),
                "tags": tags_dataset.TagsDatasetFacet(tags=[tags_dataset.TagsDatasetFacetFields(key="tier", value="gold")]),
            },
        )
    ],
    job_facets={
        "sql": sql_job.SQLJobFacet(query="COPY shop.public.orders FROM 's3://landing/raw/orders.csv'"),
        "sourceCodeLocation": source_code_location_job.SourceCodeLocationJobFacet(type="git", url="https://git.example.org/load.sql"),
    },
)
amount = column_lineage_dataset.InputField(
    namespace=DB,
    name="shop.public.orders",
    field="amount",
    transformations=[column_lineage_dataset.Transformation(type="DIRECT", subtype="AGGREGATION", description="sum(amount)")],
)
send(
    2,
    "daily.revenue",
    [orders],
    [
        OutputDataset(
            namespace=DB,
            name="shop.public.revenue",
            facets={
                "schema": schema_dataset.SchemaDatasetFacet(fields=[field("total", "NUMERIC")]),
                "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(
                    fields={"total": column_lineage_dataset.Fields(inputFields=[amount])}
                ),
            },
        )
    ],
)
send(3, "daily.publish", [revenue], [OutputDataset(namespace="kafka://broker:9092", name="revenue")])
# Two that only share an input with the others: never part of their lineage.
send(4, "audit", [orders], [OutputDataset(namespace=DB, name="shop.audit.orders")])
send(5, "copy", [InputDataset(namespace="s3://landing", name="raw/orders.csv")], [OutputDataset(namespace="s3://archive", name="2026/orders.csv")])
send(6, "daily.revenue", [orders], [], end=RunState.FAIL)
