//! `isobar lineage`: asks a running server about services and data, and tells it about them.

mod import;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{ServerArgs, with_params};

#[derive(Args)]
pub struct LineageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Import manifests, unit files and catalogs; what vanished from them since the last time is withdrawn.
    Import(import::ImportArgs),
    /// How large the graph is and who has contributed to it.
    Status(Plain),
    /// Find nodes by a part of their name, alias or title.
    Search(Search),
    /// One node, with the edges around it.
    Node(Single),
    /// What a node needs, near ones first.
    Upstream(Walk),
    /// What needs a node, near ones first.
    Downstream(Walk),
    /// The most likely ways on which a failure of one node reaches another.
    Paths(Paths),
    /// What a failure of nodes would touch, the worst first.
    BlastRadius(Blast),
    /// Which failure would explain that these nodes alert, the likeliest first.
    Causes(Causes),
    /// Nodes without which a node cannot work.
    SinglePoints(Single),
    /// Nodes through which most others get their traffic.
    ChokePoints(Listed),
    /// Nodes that depend on each other in a circle.
    Cycles(Listed),
    /// Who uses a node, and what they would lose.
    Value(Single),
    /// Which node behind an entry saturates first when its traffic grows, and what could be shed.
    Capacity(Capacity),
    /// What has changed between two times.
    Diff(Diff),
    /// A part of the graph as JSON, or for Graphviz.
    Graph(Graph),
    /// What firing alerts touch, or one assessment in full.
    Impact(Impact),
}

#[derive(Args)]
struct Plain {
    #[command(flatten)]
    server: ServerArgs,
    /// As of when, RFC 3339 or Unix seconds; now by default.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// How the answer is shown.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Rows for people.
    Table,
    /// The server's data for programs.
    Json,
}

#[derive(Args)]
struct Search {
    #[command(flatten)]
    plain: Plain,
    /// What the name contains.
    #[arg(value_name = "TEXT", default_value = "")]
    text: String,
    /// Only nodes of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// So many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: u32,
}

#[derive(Args)]
struct Walk {
    #[command(flatten)]
    plain: Plain,
    /// The node, such as service:shop/payment.
    #[arg(value_name = "NODE")]
    node: String,
    /// So many edges away at most.
    #[arg(long, value_name = "NUMBER")]
    depth: Option<u32>,
    /// Only nodes of this kind; may be given several times.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// So many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    limit: u32,
}

#[derive(Args)]
struct Paths {
    #[command(flatten)]
    plain: Plain,
    /// The node that fails.
    #[arg(value_name = "PROVIDER")]
    from: String,
    /// The node that notices.
    #[arg(value_name = "DEPENDENT")]
    to: String,
    /// So many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    limit: u32,
}

#[derive(Args)]
struct Blast {
    #[command(flatten)]
    plain: Plain,
    /// The nodes that fail.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    /// They are late or hold wrong data, rather than down.
    #[arg(long)]
    late: bool,
    /// Only nodes of this kind; may be given several times.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// So many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: u32,
}

#[derive(Args)]
struct Causes {
    #[command(flatten)]
    plain: Plain,
    /// The nodes that alert.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    /// A node that is watched and does not alert; may be given several times.
    #[arg(long, value_name = "NODE")]
    silent: Vec<String>,
}

#[derive(Args)]
struct Single {
    #[command(flatten)]
    plain: Plain,
    /// The node, such as service:shop/payment.
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Args)]
struct Capacity {
    #[command(flatten)]
    plain: Plain,
    /// The entry, such as service:shop/frontend.
    #[arg(value_name = "NODE")]
    node: String,
    /// By how much its traffic grows.
    #[arg(long, value_name = "NUMBER", default_value_t = 2.0)]
    factor: f64,
}

#[derive(Args)]
struct Listed {
    #[command(flatten)]
    plain: Plain,
    /// So many at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: u32,
}

#[derive(Args)]
struct Diff {
    #[command(flatten)]
    plain: Plain,
    /// The earlier time, RFC 3339 or Unix seconds.
    #[arg(value_name = "FROM")]
    from: String,
    /// The later time; now by default.
    #[arg(value_name = "TO")]
    to: Option<String>,
}

#[derive(Args)]
struct Graph {
    #[command(flatten)]
    plain: Plain,
    /// Around which nodes; all of the graph by default.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// So many edges away at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    depth: u32,
    /// So many nodes at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    limit: u32,
    /// Write it for Graphviz, so that `dot -Tsvg` draws it.
    #[arg(long)]
    dot: bool,
    /// A node that has failed: what it touches is coloured; may be given several times.
    #[arg(long, value_name = "NODE")]
    failed: Vec<String>,
}

#[derive(Args)]
struct Impact {
    #[command(flatten)]
    plain: Plain,
    /// Id of one assessment; all that are open by default.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Show those that are over too.
    #[arg(long)]
    all: bool,
}

/// Asks and prints.
pub fn run(args: LineageArgs) -> anyhow::Result<ExitCode> {
    let (plain, path, params): (Plain, &str, Vec<(&str, String)>) = match args.command {
        Command::Import(args) => return import::run(args),
        Command::Graph(args) if args.dot => return super::block_on(dot(args)),
        Command::Impact(args) => return super::block_on(impact(args)),
        Command::Status(plain) => (plain, "status", Vec::new()),
        Command::Search(Search { plain, text, kind, limit }) => {
            let kind = kind.map(|k| ("kind", k));
            (plain, "nodes", [("q", text), ("limit", limit.to_string())].into_iter().chain(kind).collect())
        }
        Command::Node(Single { plain, node }) => (plain, "neighbours", vec![("node", node)]),
        Command::Upstream(walk) => walk.into_request("upstream"),
        Command::Downstream(walk) => walk.into_request("downstream"),
        Command::Paths(Paths { plain, from, to, limit }) => {
            (plain, "paths", vec![("from", from), ("to", to), ("limit", limit.to_string())])
        }
        Command::BlastRadius(Blast { plain, nodes, late, kind, limit }) => {
            let nodes = nodes.into_iter().map(|n| ("node", n)).chain(kind.into_iter().map(|k| ("kind", k)));
            (plain, "blast-radius", nodes.chain([("late", late.to_string()), ("limit", limit.to_string())]).collect())
        }
        Command::Causes(Causes { plain, nodes, silent }) => {
            let nodes = nodes.into_iter().map(|n| ("node", n)).chain(silent.into_iter().map(|n| ("silent", n)));
            (plain, "causes", nodes.collect())
        }
        Command::SinglePoints(Single { plain, node }) => (plain, "single-points", vec![("node", node)]),
        Command::ChokePoints(Listed { plain, limit }) => (plain, "choke-points", vec![("limit", limit.to_string())]),
        Command::Cycles(Listed { plain, limit }) => (plain, "cycles", vec![("limit", limit.to_string())]),
        Command::Capacity(Capacity { plain, node, factor }) => (plain, "capacity", vec![("node", node), ("factor", factor.to_string())]),
        Command::Value(Single { plain, node }) => (plain, "value", vec![("node", node)]),
        Command::Diff(Diff { plain, from, to }) => (plain, "diff", [("from", from)].into_iter().chain(to.map(|t| ("to", t))).collect()),
        Command::Graph(graph) => {
            let params = graph.params();
            (graph.plain, "graph", params)
        }
    };
    let answer = super::block_on(ask(&plain, &format!("lineage/{path}"), params))?;
    match plain.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
        Output::Table => show::show(path, &answer),
    }
    Ok(ExitCode::SUCCESS)
}

impl Walk {
    fn into_request(self, path: &'static str) -> (Plain, &'static str, Vec<(&'static str, String)>) {
        let params = [("node", self.node), ("limit", self.limit.to_string())].into_iter();
        let params = params.chain(self.depth.map(|d| ("depth", d.to_string()))).chain(self.kind.into_iter().map(|k| ("kind", k)));
        (self.plain, path, params.collect())
    }
}

impl Graph {
    fn params(&self) -> Vec<(&'static str, String)> {
        let nodes = self.nodes.iter().map(|n| ("node", n.clone())).chain(self.failed.iter().map(|n| ("failed", n.clone())));
        nodes.chain([("depth", self.depth.to_string()), ("limit", self.limit.to_string())]).collect()
    }
}

async fn ask(plain: &Plain, path: &str, mut params: Vec<(&str, String)>) -> anyhow::Result<Value> {
    params.extend(plain.at.clone().map(|at| ("at", at)));
    plain.server.get(path, &params).await
}

async fn dot(graph: Graph) -> anyhow::Result<ExitCode> {
    let mut params = graph.params();
    params.push(("format", "dot".into()));
    params.extend(graph.plain.at.clone().map(|at| ("at", at)));
    let server = &graph.plain.server;
    let (status, text) = server.send(server.request(reqwest::Method::GET, &with_params("lineage/graph", &params))?).await?;
    if !status.is_success() {
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        anyhow::bail!("{}", json["error"].as_str().unwrap_or(&text));
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

async fn impact(args: Impact) -> anyhow::Result<ExitCode> {
    let Some(id) = &args.id else {
        let params = if args.all { vec![] } else { vec![("state", "firing".to_owned())] };
        let answer = args.plain.server.get("impact", &params).await?;
        match args.plain.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
            Output::Table => show::show("impacts", &answer),
        }
        return Ok(ExitCode::SUCCESS);
    };
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    let text = args.plain.output == Output::Table;
    let path = if text { format!("impact/{id}?format=text") } else { format!("impact/{id}") };
    let server = &args.plain.server;
    let request = server.request(reqwest::Method::GET, &path)?;
    if text {
        let (status, body) = server.send(request).await?;
        let json = || serde_json::from_str::<Value>(&body).unwrap_or_default();
        anyhow::ensure!(status.is_success(), "{}", json()["error"].as_str().unwrap_or(&body));
        print!("{body}");
    } else {
        println!("{}", serde_json::to_string_pretty(&server.json(request).await?["data"])?);
    }
    Ok(ExitCode::SUCCESS)
}
