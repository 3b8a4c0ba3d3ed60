#!/usr/bin/env python3
"""Measures what becomes of data over time: replicas joined, blocks compacted, buckets instead of samples.

    long_term.py dedup    two replicas for a day: answers before and after compaction, and beside a single replica
    long_term.py rollups  90 days of 1000 series: answers from buckets beside answers from raw samples
    long_term.py levels   bytes per sample of each level

Needs the release binary and the load generator of the bench kit (--loadgen). Standard library only. Prints Markdown;
exits with 1 if something does not hold that must hold.
"""
import argparse
import atexit
import json
import math
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("ISOBAR_BIN", os.path.join(ROOT, "target/release/isobar"))

# Rates and changes over switches of the replica, gauges, histograms, joins, subqueries, counts of samples.
QUERIES = [
    "sum(rate(http_requests_total[5m]))",
    "sum by (job) (rate(http_requests_total[5m]))",
    "rate(http_requests_total[1m])",
    "increase(http_requests_total[10m])",
    "irate(http_requests_total[2m])",
    "resets(http_requests_total[1h])",
    "resets(node_cpu_seconds_total[1h])",
    "rate(node_cpu_seconds_total[5m])",
    "sum by (mode) (increase(node_cpu_seconds_total[1h]))",
    "1 - avg by (instance) (rate(node_cpu_seconds_total{mode=\"idle\"}[5m]))",
    "histogram_quantile(0.9, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))",
    "histogram_quantile(0.99, sum by (le, job) (rate(http_request_duration_seconds_bucket[10m])))",
    "sum(rate(http_request_duration_seconds_sum[5m])) / sum(rate(http_request_duration_seconds_count[5m]))",
    "sum(rate(db_query_duration_seconds_count[5m]))",
    "delta(queue_depth[10m])",
    "deriv(queue_depth[10m])",
    "predict_linear(queue_depth[10m], 600)",
    "queue_depth",
    "avg(queue_depth)",
    "max by (job) (queue_oldest_age_seconds)",
    "topk(3, queue_depth)",
    "quantile(0.5, queue_depth)",
    "avg_over_time(queue_depth[10m])",
    "sum_over_time(queue_depth[5m])",
    "min_over_time(queue_depth[15m])",
    "max_over_time(queue_depth[15m])",
    "count_over_time(queue_depth[5m])",
    "sum(count_over_time(up[1h]))",
    "stddev_over_time(queue_depth[10m])",
    "quantile_over_time(0.9, queue_depth[10m])",
    "changes(queue_depth[10m])",
    "last_over_time(queue_depth[5m])",
    "first_over_time(queue_depth[5m])",
    "timestamp(up)",
    "up",
    "count(up)",
    "sum by (job) (up) / count by (job) (up)",
    "rate(cache_hits_total[5m]) / (rate(cache_hits_total[5m]) + rate(cache_misses_total[5m]))",
    "max_over_time(sum(rate(http_requests_total[1m]))[30m:1m])",
    "absent_over_time(up[2m])",
]

# For buckets: each function that has a mapping of its own.
BUCKET_QUERIES = [
    "rate({c}[2d])", "increase({c}[1d])", "sum(rate({c}[2d]))",
    "avg_over_time({g}[1d])", "sum_over_time({g}[1d])", "count_over_time({g}[1d])",
    "min_over_time({g}[1d])", "max_over_time({g}[1d])", "last_over_time({g}[1d])", "{g}", "sum({g})", "max({g})",
    "delta({g}[1d])", "deriv({g}[1d])", "quantile_over_time(0.5, {g}[1d])", "stddev_over_time({g}[1d])", "resets({c}[1d])",
]


class Isobar:
    """The server, with a folder and a port of its own."""

    def __init__(self, folder, port, *args):
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        os.makedirs(folder, exist_ok=True)
        self.log = open(os.path.join(folder, "log"), "ab")
        self.process = subprocess.Popen(
            [BINARY, "serve", f"--data={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--web.enable-admin-api",
             "--self-scrape.interval=0", "--log.level=warn", *args], stdout=self.log, stderr=self.log)
        atexit.register(self.process.kill)
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"isobar did not start; see {folder}/log")
            try:
                urllib.request.urlopen(self.url + "/-/ready", timeout=5)
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("isobar is not ready after 30 s")

    def post(self, path):
        request = urllib.request.Request(self.url + path, method="POST")
        with urllib.request.urlopen(request, timeout=3600) as answer:
            return answer.read()

    def query(self, query, start_s, end_s, step_s, **more):
        body = urllib.parse.urlencode({"query": query, "start": start_s, "end": end_s, "step": step_s, **more}).encode()
        with urllib.request.urlopen(self.url + "/api/v1/query_range", body, timeout=600) as answer:
            return json.load(answer)

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait(120)


def loadgen(args, command, url, *more):
    """Runs the generator and gives its JSON line."""
    fleet = ["--seed", "1", "--targets", str(args.targets), "--series-per-target", str(args.series), "--interval", args.interval,
             "--duration", args.duration, "--start", str(args.start)]
    done = subprocess.run([args.loadgen, command, "--url", url, *fleet, *more], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        sys.exit(f"loadgen {command} said: {done.stderr[-2000:]}")
    return json.loads(lines[-1])


def blocks(isobar, **env):
    """What the catalog says."""
    text = subprocess.run([BINARY, "blocks", "ls", "--json", "--data", isobar.folder + "/data"], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in text.stdout.splitlines()]


def seconds(text):
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]


def result_bits(answer):
    """The answer without statistics, in a form in which equal means equal to the last bit."""
    return json.dumps(answer["data"]["result"], sort_keys=True)


def by_series(answer):
    return {json.dumps(s["metric"], sort_keys=True): {t: float(v) for t, v in s["values"]} for s in answer["data"]["result"]}


def difference(one, other):
    """Median and largest relative difference of points that both have, and how many only one has."""
    a, b = by_series(one), by_series(other)
    relative, lonely = [], 0
    for key in a.keys() | b.keys():
        x, y = a.get(key, {}), b.get(key, {})
        lonely += len(x.keys() ^ y.keys())
        for t in x.keys() & y.keys():
            if math.isfinite(x[t]) and math.isfinite(y[t]):
                relative.append(abs(x[t] - y[t]) / max(abs(x[t]), abs(y[t]), 1e-9))
    relative.sort()
    if not relative:
        return 0.0, 0.0, 0.0, lonely
    return relative[len(relative) // 2], relative[int(len(relative) * 0.99)], relative[-1], lonely


def dedup(args):
    ha = ["--replicas", "2", "--gaps", str(args.gaps), "--jitter", str(args.jitter)]
    labels = "--replicas.labels=replica,prometheus"
    isobar = Isobar(args.workdir + "/ha", args.port, labels, "--compactor.interval=1000d")
    wrote = loadgen(args, "write", isobar.url + "/api/v1/write", *ha)
    isobar.post("/api/v1/admin/tsdb/flush")
    end = args.start + seconds(args.duration)
    windows = [(args.start + 1800, end, 60), (end - 4 * 3600 + 7, end, 17)]
    failed = 0

    def ask(target):
        return [target.query(q, start, stop, step) for q in QUERIES for start, stop, step in windows]

    before = ask(isobar)
    shift = [isobar.query(q, start + 37 * step, stop, step) for q in QUERIES for start, stop, step in windows]
    verified = loadgen(args, "verify", isobar.url, *ha, "--dedup", "--selected", "400")
    print(f"wrote {wrote.get('samples', '?')} samples of 2 replicas; verify --dedup before compaction: {short(verified)}")
    failed += not verified["ok"]
    raw = loadgen(args, "verify", isobar.url + "/", *ha, "--header", "X-None: 1") if args.raw else None
    if raw:
        print(f"verify of raw replicas: {short(raw)}")
    size_before = sum(b["size_bytes"] for b in blocks(isobar))
    cpu = isobar.cpu_s()
    isobar.post("/api/v1/admin/tsdb/compact")
    cpu = isobar.cpu_s() - cpu
    listed = blocks(isobar)
    after = ask(isobar)
    verified = loadgen(args, "verify", isobar.url, *ha, "--dedup", "--selected", "400")
    print(f"verify --dedup after compaction: {short(verified)}")
    failed += not verified["ok"]
    raw_blocks = [b for b in listed if b["resolution_ms"] == 0]
    print(f"compaction: {cpu:.1f} CPU s, {size_before} -> {sum(b['size_bytes'] for b in raw_blocks)} bytes raw, "
          f"levels {sorted({b['level'] for b in raw_blocks})}")
    single = Isobar(args.workdir + "/single", args.port + 1)
    loadgen(args, "write", single.url + "/api/v1/write")
    alone = ask(single)
    print("\n| query | step, s | before = after | other start | against one gapless replica: median, p99, max relative difference | lonely points |")
    print("|---|---|---|---|---|---|")
    for i, query in enumerate(QUERIES):
        for w, (_, _, step) in enumerate(windows):
            n = i * len(windows) + w
            same = result_bits(before[n]) == result_bits(after[n])
            failed += not same
            points = {k: v for k, v in by_series(before[n]).items()}
            moved = all(points.get(k, {}).get(t) == v or (v != v) for k, s in by_series(shift[n]).items() for t, v in s.items())
            failed += not moved
            median, p99, most, lonely = difference(before[n], alone[n])
            print(f"| `{query}` | {step} | {'=' if same else 'DIFFERS'} | {'=' if moved else 'DIFFERS'} | "
                  f"{median:.1e}, {p99:.1e}, {most:.1e} | {lonely} |")
    isobar.stop()
    single.stop()
    print(f"\n{failed} of {len(QUERIES) * len(windows)} queries and 2 verifications failed")
    return failed


def short(verified):
    keys = ["ok", "expected_samples", "missing_samples", "extra_samples", "double_slots", "lost_slots", "unknown_samples", "gaps_too_long", "problems"]
    return {k: verified[k] for k in keys if k in verified and verified[k] not in ([], None)}


def rollups(args):
    isobar = Isobar(args.workdir + "/rollups", args.port, "--compactor.interval=1000d")
    began = time.time()
    wrote = loadgen(args, "write", isobar.url + "/api/v1/write")
    isobar.post("/api/v1/admin/tsdb/flush")
    print(f"wrote {wrote.get('samples', '?')} samples in {time.time() - began:.0f} s")
    began, cpu = time.time(), isobar.cpu_s()
    isobar.post("/api/v1/admin/tsdb/compact")
    print(f"compaction and downsampling: {time.time() - began:.0f} s, {isobar.cpu_s() - cpu:.1f} CPU s, peak {isobar.peak_mib()} MiB")
    print_levels(blocks(isobar))
    end = args.start + seconds(args.duration)
    start = args.start + 3 * 86400
    print("\n| query (90 d, step 6 h) | buckets ms | raw ms | speed-up | median, p99, max relative difference | lonely points | warning |")
    print("|---|---|---|---|---|---|---|")
    for template in BUCKET_QUERIES:
        query = template.format(c="http_requests_total", g="queue_depth")
        times, answers = {}, {}
        for source in ("1h", "0s"):
            took = []
            for _ in range(3):
                began = time.time()
                answers[source] = isobar.query(query, start, end, 21600, max_source_resolution=source)
                took.append((time.time() - began) * 1000)
            times[source] = sorted(took)[1]
        median, p99, most, lonely = difference(answers["1h"], answers["0s"])
        warning = "; ".join(answers["1h"].get("warnings", []))
        print(f"| `{query}` | {times['1h']:.1f} | {times['0s']:.1f} | {times['0s'] / times['1h']:.1f} | "
              f"{median:.1e}, {p99:.1e}, {most:.1e} | {lonely} | {warning} |")
    isobar.stop()
    return 0


def print_levels(listed):
    print("\n| level | resolution | blocks | samples | bytes per sample |\n|---|---|---|---|---|")
    for key in sorted({(b["resolution_ms"], b["level"]) for b in listed}):
        chosen = [b for b in listed if (b["resolution_ms"], b["level"]) == key]
        samples = sum(b["samples"] + b["histograms"] for b in chosen)
        size = sum(b["size_bytes"] for b in chosen)
        print(f"| {key[1]} | {'raw' if key[0] == 0 else str(key[0] // 60000) + ' m'} | {len(chosen)} | {samples} | {size / max(samples, 1):.3f} |")


def levels(args):
    """Compacts to each level in turn, by a longer and longer list of levels, and prints what the blocks take."""
    spans = ["2h", "8h", "2d", "14d"]
    isobar = Isobar(args.workdir + "/levels", args.port, "--compactor.interval=1000d")
    loadgen(args, "write", isobar.url + "/api/v1/write")
    isobar.post("/api/v1/admin/tsdb/flush")
    print_levels(blocks(isobar))
    isobar.stop()
    for n in range(1, len(spans) + 1):
        command = [BINARY, "compact", "--data", isobar.folder + "/data", "--compactor.levels=" + ",".join(spans[:n]),
                   "--compactor.downsampling=false", "--compactor.delete-delay=0s"]
        usage = subprocess.run(["/usr/bin/env", "time", "-f", "%U %S %M", *command], capture_output=True, text=True)
        print(f"\nlevels {spans[:n]}: user s, system s, peak KiB: {usage.stderr.strip().splitlines()[-1]}")
        print_levels(blocks(isobar))
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["dedup", "rollups", "levels"])
    parser.add_argument("--loadgen", required=True)
    parser.add_argument("--workdir", default="bench-out")
    parser.add_argument("--port", type=int, default=29400)
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--series", type=int, default=500)
    parser.add_argument("--interval", default="15s")
    parser.add_argument("--duration", default="24h")
    parser.add_argument("--gaps", type=float, default=0.03)
    parser.add_argument("--jitter", type=int, default=300)
    parser.add_argument("--raw", action="store_true", help="dedup: verify the raw replicas too")
    args = parser.parse_args()
    interval = seconds(args.interval)
    args.start = (int(time.time()) - seconds(args.duration) - 3600) // interval * interval
    shutil.rmtree(args.workdir, ignore_errors=True)
    os.makedirs(args.workdir)
    args.workdir = os.path.abspath(args.workdir)
    sys.exit(1 if {"dedup": dedup, "rollups": rollups, "levels": levels}[args.what](args) else 0)


if __name__ == "__main__":
    main()
