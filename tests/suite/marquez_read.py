"""Asks the URL given with the unmodified Marquez client, and over plain HTTP at the paths that Marquez documents; prints the answers as JSON."""

import json
import sys

import requests
from marquez_client import MarquezClient

url = sys.argv[1]
client = MarquezClient(url)
DB = "postgres://warehouse:5432"
JOBS = "airflow-prod"
REVENUE = "01a200c5-b4cc-774c-bb18-000000000002"


def get(path, **params):
    answer = requests.get(url + path, params=params, timeout=30)
    answer.raise_for_status()
    return answer.json()


orders_versions = client.list_dataset_versions(DB, "shop.public.orders")
json.dump(
    {
        "namespaces": client.list_namespaces(),
        "namespace": client.get_namespace(DB),
        "jobs": client.list_jobs(JOBS, limit=2, offset=1),
        "job": client.get_job(JOBS, "daily.load"),
        "runs": client.list_job_runs(JOBS, "daily.revenue"),
        "run": client.get_job_run(REVENUE),
        "datasets": client.list_datasets(DB),
        "dataset": client.get_dataset(DB, "shop.public.orders"),
        "slashes": client.get_dataset("s3://landing", "raw/orders.csv"),
        "versions": orders_versions,
        "version": client.get_dataset_version(DB, "shop.public.orders", orders_versions["versions"][0]["version"]),
        "columns_of_dataset": client.get_column_lineage_by_dataset(DB, "shop.public.orders", with_downstream=True),
        "columns_of_field": client.get_column_lineage_by_dataset_field(DB, "shop.public.revenue", "total"),
        "columns_of_job": client.get_column_lineage_by_job(JOBS, "daily.revenue"),
        "tags": client.list_tags(),
        "sources": client.list_sources(),
        "source": client.get_source(DB),
        "lineage": get("/api/v1/lineage", nodeId=f"dataset:{DB}:shop.public.revenue", depth=20),
        "near": get("/api/v1/lineage", nodeId=f"dataset:{DB}:shop.public.revenue", depth=0),
        "upstream": get("/api/v1/runlineage/upstream", runId=REVENUE, depth=5),
        "events": get("/api/v1/events/lineage", limit=5, sortDirection="desc", before="2100-01-01T00:00:00.000Z"),
        "search": get("/api/v1/search", q="orders", filter="DATASET", sort="NAME", limit=10),
        "search_jobs": get("/api/v2beta/search/jobs", q="copy"),
        "search_datasets": get("/api/v2beta/search/datasets", q="amount"),
        "facets": get(f"/api/v1/jobs/runs/{REVENUE}/facets", type="run"),
        "all_jobs": get("/api/v1/jobs", limit=10, offset=0),
        "stats": get("/api/v1/stats/lineage-events", period="DAY"),
    },
    sys.stdout,
)
