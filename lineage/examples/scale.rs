//! How large a graph may be: generated graphs with heavy tails, loaded from a checkpoint, asked for blast radii, fed with events.
//! Prints a table; every size is filled by one process and measured in another. With `PYTHON` set to an interpreter that has rustworkx,
//! plain reachability on the same graph is measured with it too (tests/bench/reachability.py).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isobar_block::TenantId;
use isobar_block::local::DurableLocal;
use isobar_lineage::analysis::blast::{BlastRequest, Live};
use isobar_lineage::model::{Class, EdgeBody, Evidence, Group, NodeKey};
use isobar_lineage::{AsOf, Budget, Event, Fact, LineageConfig, LineageStore, NodeIdx, Snapshot};
use object_store::ObjectStore;

const SIZES: [(u64, u64); 3] = [(10_000, 25_000), (100_000, 250_000), (1_000_000, 2_200_000)];
const FACTS_PER_EVENT: usize = 500;
const QUERIES: usize = 200;
const WRITERS: u64 = 256;
const FLOOD: Duration = Duration::from_secs(5);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn key(i: u64) -> NodeKey {
    let kind = ["service", "service", "service", "workload", "dataset", "job", "topic", "interface"][(i % 8) as usize];
    NodeKey::new(kind, &format!("namespace-{}", i % 97), &format!("node-{i}")).expect("valid")
}

/// Edges from newer to older nodes, most of them to what many depend on already; one in fifty the other way, so that there are cycles.
fn generate(nodes: u64, edges: u64) -> Vec<(u64, u64)> {
    let mut random = Random(1);
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(edges as usize);
    for i in 1..nodes {
        let wanted = (edges * i / (nodes - 1)) as usize;
        while out.len() < wanted {
            let to = if random.below(10) < 7 && !out.is_empty() { out[random.below(out.len() as u64) as usize].1 } else { random.below(i) };
            if to != i {
                out.push(if random.below(50) == 0 { (to, i) } else { (i, to) });
            }
        }
    }
    out
}

fn facts(edges: &[(u64, u64)]) -> Vec<Fact> {
    let mut random = Random(2);
    let fact = |(from, to): &(u64, u64)| {
        let draw = random.below(100);
        let class = match draw {
            0..=69 => Class::Hard,
            70..=94 => Class::Soft,
            _ => Class::Ordering,
        };
        let group = draw.is_multiple_of(10).then(|| Box::new(Group { id: "replicas".into(), k: 1, n: None }));
        let share = Some([1.0, 0.7, 0.3, 0.1][(random.below(4)) as usize]);
        Fact::depends(
            key(*from),
            key(*to),
            EdgeBody { class: Some(class), group, share, evidence: Evidence::Observed, ..EdgeBody::default() },
        )
    };
    edges.iter().map(fact).collect()
}

fn memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p) as usize]
}

async fn fill(store: &Arc<LineageStore>, facts: Vec<Fact>, at_ms: i64) -> f64 {
    let start = Instant::now();
    let mut pending = Vec::new();
    for (i, chunk) in facts.chunks(FACTS_PER_EVENT).enumerate() {
        let mut event = Event::new(format!("fill-{i}"), "generated", "", at_ms);
        event.facts = chunk.to_vec();
        let store = store.clone();
        pending.push(tokio::spawn(async move { store.append(vec![event]).await.expect("appends") }));
        if pending.len() == 64 {
            for one in pending.drain(..) {
                one.await.expect("runs");
            }
        }
    }
    for one in pending {
        one.await.expect("runs");
    }
    facts.len() as f64 / start.elapsed().as_secs_f64()
}

/// Times of blast radii of random nodes and of the largest hubs, how many nodes the largest can reach, and the fewest worlds that were drawn.
fn blasts(snapshot: &Snapshot) -> (Vec<f64>, usize, u32) {
    let mut random = Random(3);
    let mut hubs: Vec<NodeIdx> = snapshot.nodes().collect();
    hubs.sort_by_key(|n| std::cmp::Reverse(snapshot.dependents(*n).count()));
    let some = (0..QUERIES as u64 * 9 / 10).map(|_| NodeIdx(random.below(snapshot.node_count() as u64) as u32));
    let nodes: Vec<NodeIdx> = hubs[..QUERIES / 10].iter().copied().chain(some).collect();
    let live = Live { rates: hubs[..1000].iter().map(|n| (snapshot.key(*n).clone(), 10.0)).collect() };
    let (mut times, mut largest, mut worlds) = (Vec::new(), 0, u32::MAX);
    for node in nodes {
        let start = Instant::now();
        let request = BlastRequest::new(vec![snapshot.key(node).clone()]);
        let answer = snapshot.blast(&request, &live, &mut Budget::default()).expect("an answer");
        times.push(ms(start));
        largest = largest.max(answer.result.reachable);
        worlds = worlds.min(answer.result.worlds);
    }
    times.sort_by(f64::total_cmp);
    (times, largest, worlds)
}

/// Times of plain reachability, against the edges, from each of the 20 nodes with the most dependents, and the largest result.
fn callers(snapshot: &Snapshot) -> (Vec<f64>, usize) {
    let mut hubs: Vec<NodeIdx> = snapshot.nodes().collect();
    hubs.sort_by_key(|n| std::cmp::Reverse(snapshot.dependents(*n).count()));
    let (mut times, mut largest) = (Vec::new(), 0);
    let mut seen = vec![0_u32; snapshot.node_count()];
    for (mark, hub) in (1..).zip(&hubs[..20]) {
        let start = Instant::now();
        let mut found = vec![*hub];
        seen[hub.0 as usize] = mark;
        let mut next = 0;
        while let Some(node) = found.get(next).copied() {
            next += 1;
            for (_, dependent) in snapshot.dependents(node) {
                if std::mem::replace(&mut seen[dependent.0 as usize], mark) != mark {
                    found.push(dependent);
                }
            }
        }
        times.push(ms(start));
        largest = largest.max(found.len() - 1);
    }
    times.sort_by(f64::total_cmp);
    (times, largest)
}

/// The same with rustworkx, if an interpreter is named that has it.
fn compare(folder: &str, nodes: u64, edges: u64) {
    let Some(python) = std::env::var_os("PYTHON") else { return };
    let path = format!("{folder}/edges.u32");
    let pairs = generate(nodes, edges);
    let bytes: Vec<u8> = pairs.iter().flat_map(|(from, to)| [*from as u32, *to as u32]).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&path, bytes).expect("is written");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/bench/reachability.py");
    let status = std::process::Command::new(python).arg(script).arg(&path).status().expect("runs");
    assert!(status.success());
}

/// Single-edge events from many writers at once: events per second and the 99th percentile of the time until one is acknowledged.
async fn flood(store: &Arc<LineageStore>, nodes: u64, at_ms: i64) -> (f64, f64) {
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                let mut random = Random(w + 100);
                let mut times = Vec::new();
                for i in 0.. {
                    let (from, to) = (random.below(nodes), random.below(nodes - 1));
                    let mut event = Event::new(format!("flood-{w}-{i}"), "flood", "", at_ms + i);
                    event.facts = vec![Fact::depends(key(from), key(if to == from { nodes - 1 } else { to }), EdgeBody::default())];
                    let sent = Instant::now();
                    store.append(vec![event]).await.expect("appends");
                    times.push(ms(sent));
                    done.fetch_add(1, Ordering::Relaxed);
                    if start.elapsed() > FLOOD {
                        break;
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for writer in writers {
        times.extend(writer.await.expect("runs"));
    }
    times.sort_by(f64::total_cmp);
    (done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64(), percentile(&times, 0.99))
}

fn bucket(folder: &str) -> Arc<dyn ObjectStore> {
    Arc::new(DurableLocal::new(folder).expect("a folder"))
}

async fn open(folder: &str) -> Arc<LineageStore> {
    LineageStore::open(bucket(folder), TenantId::default(), LineageConfig::default()).await.expect("opens")
}

/// Writes a log and its checkpoint.
async fn prepare(folder: &str, nodes: u64, edges: u64) {
    let store = open(folder).await;
    let filled = fill(&store, facts(&generate(nodes, edges)), isobar_block::time::now_ms() - 60_000).await;
    let start = Instant::now();
    store.checkpoint().await.expect("is written");
    print!("| {nodes} / {} | {filled:.0} | {:.0} ", store.sizes().edges, ms(start));
}

async fn measure(folder: &str, nodes: u64) {
    let start = Instant::now();
    let store = open(folder).await;
    let load_ms = ms(start);
    let loaded_mb = memory_mb();
    let start = Instant::now();
    let snapshot = store.snapshot(AsOf::Now).await.expect("a snapshot");
    let snapshot_ms = ms(start);
    let start = Instant::now();
    snapshot.cycles(10);
    let order_ms = ms(start);
    let start = Instant::now();
    let chokes = snapshot.choke_points(10);
    let dominators_ms = ms(start);
    let all_mb = memory_mb();
    let (times, largest, worlds) = blasts(&snapshot);
    let (reach, reached) = callers(&snapshot);
    let choke = chokes.result.choke_points.first().map_or(0, |c| c.cuts_off);
    drop(snapshot);
    let (rate, ack_ms) = flood(&store, nodes, isobar_block::time::now_ms() - 30_000).await;
    println!(
        "| {load_ms:.0} | {loaded_mb} / {all_mb} | {snapshot_ms:.0} | {order_ms:.0} | {dominators_ms:.0} | {:.2} / {:.1} / {:.1} | {largest} | {:.2} / {:.2} ({reached}) | {worlds} | {choke} | {rate:.0} | {ack_ms:.0} |",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        times[times.len() - 1],
        percentile(&reach, 0.5),
        reach[reach.len() - 1],
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| arguments[i].parse::<u64>().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.first().map(String::as_str) {
        Some("prepare") => return runtime.block_on(prepare(&arguments[1], number(2), number(3))),
        Some("measure") => return runtime.block_on(measure(&arguments[1], number(2))),
        _ => {}
    }
    println!(
        "| nodes / edges | fill facts/s | checkpoint ms | load ms | MB loaded / with snapshot | snapshot ms | components ms | dominators ms | blast ms p50 / p99 / max | largest reach | callers of a hub ms p50 / max (largest) | least worlds | largest choke | events/s | ack p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (nodes, edges) in SIZES {
        let folder = std::env::temp_dir().join(format!("isobar-lineage-scale-{}-{nodes}", std::process::id()));
        for step in ["prepare", "measure"] {
            let mut command = std::process::Command::new(std::env::current_exe().expect("has a path"));
            let status = command.arg(step).arg(&folder).args([nodes.to_string(), edges.to_string()]).status().expect("runs");
            assert!(status.success());
        }
        compare(&folder.display().to_string(), nodes, edges);
        std::fs::remove_dir_all(&folder).expect("the folder is ours");
    }
}
