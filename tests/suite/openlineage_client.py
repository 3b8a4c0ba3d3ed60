"""The OpenLineage client of PyPI, unmodified, sends what integrations send: runs, descriptions, all kinds of facets.

Usage: openlineage_client.py BASE_URL
"""

import asyncio
import sys
import uuid
from datetime import datetime, timedelta, timezone

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Dataset, DatasetEvent, InputDataset, Job, JobEvent, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    documentation_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    ownership_job,
    parent_run,
    schema_dataset,
    sql_job,
    symlinks_dataset,
    tags_dataset,
)
from openlineage.client.transport.http import HttpCompression, HttpConfig, HttpTransport
from openlineage_sql import parse

BASE = sys.argv[1]
PRODUCER = "https://example.org/nightly"
DB = "postgres://warehouse:5432"
START = datetime.now(timezone.utc) - timedelta(hours=6)


def client(url=BASE, **options):
    return OpenLineageClient(transport=HttpTransport(HttpConfig(url=url, **options)))


def schema(*fields):
    of = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in fields]
    return schema_dataset.SchemaDatasetFacet(fields=of)


def event(state, run, job, at, inputs=(), outputs=()):
    return RunEvent(eventType=state, eventTime=at.isoformat(), run=run, job=job, producer=PRODUCER, inputs=list(inputs), outputs=list(outputs))


def nightly(to):
    """Five hourly runs of a job of a pipeline; the last one fails."""
    job = Job(
        namespace="airflow",
        name="daily.build_revenue",
        facets={
            "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="AIRFLOW", jobType="TASK"),
            "ownership": ownership_job.OwnershipJobFacet(owners=[ownership_job.Owner(name="team:data", type="MAINTAINER")]),
            "sql": sql_job.SQLJobFacet(query="select day, sum(amount) from orders group by day"),
        },
    )
    orders = InputDataset(
        namespace=DB, name="shop.public.orders", facets={"schema": schema(("amount", "NUMERIC"), ("day", "DATE"), ("customer", "TEXT"))}
    )
    amount = column_lineage_dataset.InputField(
        namespace=DB,
        name="shop.public.orders",
        field="amount",
        transformations=[column_lineage_dataset.Transformation(type="DIRECT", subtype="AGGREGATION", description="sum")],
    )
    revenue = OutputDataset(
        namespace=DB,
        name="shop.public.revenue",
        facets={
            "schema": schema(("day", "DATE"), ("total", "NUMERIC")),
            "documentation": documentation_dataset.DocumentationDatasetFacet(description="Revenue per day"),
            "tags": tags_dataset.TagsDatasetFacet(tags=[tags_dataset.TagsDatasetFacetFields(key="tier", value="gold", source="me")]),
            "symlinks": symlinks_dataset.SymlinksDatasetFacet(
                identifiers=[symlinks_dataset.Identifier(namespace="hive://meta:9083", name="shop.revenue", type="TABLE")]
            ),
            "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(
                fields={"total": column_lineage_dataset.Fields(inputFields=[amount])}, dataset=[]
            ),
        },
        outputFacets={"outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=10, size=2048)},
    )
    for hour in range(5):
        at = START + timedelta(hours=hour)
        run = Run(
            runId=str(uuid.uuid4()),
            facets={
                "nominalTime": nominal_time_run.NominalTimeRunFacet(nominalStartTime=at.isoformat()),
                "parent": parent_run.ParentRunFacet(
                    run=parent_run.Run(runId=str(uuid.uuid4())), job=parent_run.Job(namespace="airflow", name="daily")
                ),
            },
        )
        to.emit(event(RunState.START, run, job, at, [orders]))
        end = RunState.FAIL if hour == 4 else RunState.COMPLETE
        to.emit(event(end, run, job, at + timedelta(minutes=5), [orders], [revenue]))


def described(to):
    """A job and a view that are described and not run, with explicit lineage."""
    from openlineage.client.facet_v2 import lineage

    source = lambda name: lineage.LineageDatasetInput(namespace=DB, name=name, type="DATASET")
    now = START.isoformat()
    facet = lineage.LineageJobFacet(
        entries=[
            lineage.LineageDatasetEntry(namespace=DB, name="t.c", type="DATASET", inputs=[source("t.a")], fields={}),
            lineage.LineageDatasetEntry(namespace=DB, name="t.d", type="DATASET", inputs=[], fields={}),
        ]
    )
    inputs = [InputDataset(namespace=DB, name=name) for name in ("t.a", "t.b")]
    outputs = [OutputDataset(namespace=DB, name=name) for name in ("t.c", "t.d")]
    job = Job(namespace="airflow", name="bulk", facets={"lineage": facet})
    to.emit(JobEvent(eventTime=now, producer=PRODUCER, job=job, inputs=inputs, outputs=outputs))
    facets = {"lineage": lineage.LineageDatasetFacet(inputs=[source("shop.public.orders")], fields={})}
    to.emit(DatasetEvent(eventTime=now, producer=PRODUCER, dataset=Dataset(namespace=DB, name="shop.public.v", facets=facets)))


def from_sql(to):
    """What the SQL parser finds in a statement."""
    sql = "insert into shop.public.top select customer, max(total) as best from shop.public.revenue join shop.public.orders using (day) group by customer"
    meta = parse([sql], dialect="postgres")
    assert not meta.errors, meta.errors
    fields = {}
    for column in meta.column_lineage:
        inputs = [
            column_lineage_dataset.InputField(namespace=DB, name=f"{c.origin.schema}.{c.origin.name}" if c.origin.database is None else c.origin.qualified_name, field=c.name)
            for c in column.lineage
            if c.origin is not None
        ]
        if inputs:
            fields[column.descendant.name] = column_lineage_dataset.Fields(inputFields=inputs)
    inputs = [InputDataset(namespace=DB, name=table.qualified_name) for table in meta.in_tables]
    facets = {"columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields, dataset=[])} if fields else {}
    outputs = [OutputDataset(namespace=DB, name=table.qualified_name, facets=facets) for table in meta.out_tables]
    job = Job(namespace="airflow", name="daily.top", facets={"sql": sql_job.SQLJobFacet(query=sql)})
    run = Run(runId=str(uuid.uuid4()))
    to.emit(event(RunState.START, run, job, START, inputs, outputs))
    to.emit(event(RunState.COMPLETE, run, job, START + timedelta(minutes=1), inputs, outputs))
    print("sql", sorted(t.qualified_name for t in meta.in_tables), sorted(fields))


def hostile(to):
    """Names as nobody should choose them."""
    name = "a:b/c %2F \u540d\u524d \U0001f980 'x' " + "y" * 60_000
    run = Run(runId=str(uuid.uuid4()))
    dataset = OutputDataset(namespace="s3://bucket/with:colon", name=name, facets={"schema": schema((name, "TEXT"))})
    to.emit(event(RunState.COMPLETE, run, Job(namespace="hostile", name="j/:%"), START, [], [dataset]))


def other_transports():
    run = lambda: Run(runId=str(uuid.uuid4()))
    zipped = client(compression=HttpCompression.GZIP, custom_headers={"X-Scope-OrgID": "t1"})
    zipped.emit(event(RunState.COMPLETE, run(), Job(namespace="other", name="zipped"), START))
    client(f"{BASE}/base/").emit(event(RunState.COMPLETE, run(), Job(namespace="other", name="prefixed"), START))
    for endpoint in ("openapi/openlineage/api/v1/lineage", "api/v1/openlineage/lineage"):
        client(endpoint=endpoint).emit(event(RunState.COMPLETE, run(), Job(namespace="other", name=endpoint), START))

    from openlineage.client.transport.async_http import AsyncHttpConfig, AsyncHttpTransport

    transport = AsyncHttpTransport(AsyncHttpConfig(url=BASE))
    to = OpenLineageClient(transport=transport)
    for i in range(50):
        job = Job(namespace="other", name=f"async{i}")
        one = run()
        to.emit(event(RunState.START, one, job, START))
        to.emit(event(RunState.COMPLETE, one, job, START + timedelta(seconds=1)))
    assert transport.wait_for_completion(timeout=30), transport.get_stats()
    stats = transport.get_stats()
    transport.close(timeout=10)
    print("async", stats)
    assert stats["failed"] == 0, stats


to = client()
nightly(to)
described(to)
from_sql(to)
hostile(to)
other_transports()
print("done")
