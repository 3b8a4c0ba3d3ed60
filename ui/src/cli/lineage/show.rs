//! Answers about lineage as tables for people. What an answer leaves out is said below it.

use comfy_table::Table;
use serde_json::Value;

/// Columns of an answer: heading, and where the value is in a row.
type Columns = &'static [(&'static str, &'static str)];

/// Which list of an answer is shown, and its columns.
const TABLES: &[(&str, &str, Columns)] = &[
    ("nodes", "/hits", &[("node", "/node/id"), ("name", "/node/name"), ("criticality", "/node/criticality"), ("owners", "/node/owners")]),
    ("upstream", "/nodes", &[("node", "/node/id"), ("hops", "/hops"), ("criticality", "/node/criticality"), ("owners", "/node/owners")]),
    ("downstream", "/nodes", &[("node", "/node/id"), ("hops", "/hops"), ("criticality", "/node/criticality"), ("owners", "/node/owners")]),
    ("paths", "/paths", &[("probability", "/probability"), ("path", "/steps")]),
    (
        "blast-radius",
        "/impacts",
        &[
            ("node", "/node/id"),
            ("errors", "/errors"),
            ("stale", "/staleness"),
            ("starved", "/starvation"),
            ("lost/s", "/lost_per_s"),
            ("criticality", "/node/criticality"),
            ("owners", "/node/owners"),
            ("because", "/path"),
        ],
    ),
    (
        "causes",
        "/causes",
        &[
            ("node", "/node/id"),
            ("probability", "/probability"),
            ("explains", "/explains"),
            ("leaves open", "/leaves_open"),
            ("against", "/against"),
        ],
    ),
    ("single-points", "/points", &[("node", "/node/id"), ("hops", "/hops"), ("owners", "/node/owners")]),
    ("choke-points", "/choke_points", &[("node", "/node/id"), ("cuts off", "/cuts_off"), ("owners", "/node/owners")]),
    ("cycles", "/cycles", &[("size", "/size"), ("example", "/example")]),
    (
        "value",
        "/important",
        &[("used by", "/node/id"), ("hops", "/hops"), ("criticality", "/node/criticality"), ("owners", "/node/owners")],
    ),
    (
        "graph",
        "/edges",
        &[
            ("dependent", "/from"),
            ("provider", "/to"),
            ("class", "/class"),
            ("share", "/share"),
            ("evidence", "/evidence"),
            ("status", "/status"),
        ],
    ),
    (
        "capacity",
        "/nodes",
        &[
            ("node", "/node/id"),
            ("hops", "/hops"),
            ("requests/s", "/rate"),
            ("of the entry", "/from_entry"),
            ("load", "/load_factor"),
            ("resources", "/resources"),
        ],
    ),
    (
        "impacts",
        "/impacts",
        &[("id", "/id"), ("state", "/state"), ("nodes", "/nodes"), ("started", "/started_at"), ("summary", "/summary")],
    ),
    ("status", "/sources", &[("source", "/source"), ("scopes", "/scopes"), ("last heard", "/heard_ms")]),
];

/// Prints an answer of this path.
pub fn show(path: &str, answer: &Value) {
    if path == "diff" {
        show_diff(answer);
    } else if path == "neighbours" {
        show_node(answer);
    } else if let Some((_, list, columns)) = TABLES.iter().find(|(p, _, _)| *p == path) {
        let mut table = super::super::plain_table();
        table.set_header(columns.iter().map(|(heading, _)| *heading));
        for row in answer.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            table.add_row(columns.iter().map(|(_, at)| row.pointer(at).map_or_else(String::new, |v| cell(at, v))));
        }
        println!("{table}");
    }
    show_sums(path, answer);
    for missing in answer["unresolved"].as_array().into_iter().flatten() {
        eprintln!("not complete: {}: {}", text(&missing["subject"]), text(&missing["reason"]));
    }
}

/// What stands beside the list.
fn show_sums(path: &str, answer: &Value) {
    match path {
        "status" => println!("{} nodes, {} edges, version {}", answer["nodes"], answer["edges"], answer["version"]),
        "blast-radius" => println!(
            "{} of {} reachable nodes are touched; {} worlds, standard deviation at most {}",
            answer["touched"],
            answer["reachable"],
            answer["worlds"],
            number(&answer["deviation"])
        ),
        "value" => println!(
            "{} users, {} of them direct; {} requests/s would be lost if it were gone, score {}",
            answer["users"],
            answer["direct"],
            number(&answer["lost_per_s"]),
            number(&answer["score"])
        ),
        "capacity" => {
            match &answer["first"] {
                Value::Null => println!("no node with known resources saturates"),
                first => println!(
                    "{} saturates first: {} at {} times the traffic",
                    text(&first["node"]),
                    text(&first["resource"]),
                    number(&first["factor"])
                ),
            }
            for shed in answer["shed"].as_array().into_iter().flatten() {
                println!("could be shed: {} -> {}", text(&shed["from"]), text(&shed["to"]));
            }
        }
        "nodes" | "choke-points" | "cycles" if answer["total"].is_number() => println!("{} in all", answer["total"]),
        _ => {}
    }
}

fn show_node(answer: &Value) {
    let node = &answer["node"];
    println!("{} ({}), {}", text(&node["id"]), text(&node["kind"]), text(&node["status"]));
    for field in ["description", "owners", "criticality", "tags", "aliases", "attributes"] {
        if let Some(value) = node.get(field).filter(|v| v.as_str() != Some("") && v.as_array().is_none_or(|a| !a.is_empty())) {
            println!("{field}: {}", if field == "attributes" { value.to_string() } else { cell("", value) });
        }
    }
    let mut table: Table = super::super::plain_table();
    table.set_header(["", "node", "relation", "class", "flow", "share", "evidence", "status", "sources"]);
    for (list, arrow, end) in [("providers", "needs", "to"), ("dependents", "is needed by", "from")] {
        for edge in answer[list].as_array().into_iter().flatten() {
            let sources = edge["claims"].as_array().into_iter().flatten().map(|c| text(&c["source"])).collect::<Vec<_>>().join(" ");
            let of = |field: &str| cell("", &edge[field]);
            table.add_row([
                arrow.to_owned(),
                of(end),
                of("relation"),
                of("class"),
                of("flow"),
                of("share"),
                of("evidence"),
                of("status"),
                sources,
            ]);
        }
    }
    println!("{table}");
}

fn show_diff(answer: &Value) {
    let mut table: Table = super::super::plain_table();
    table.set_header(["", "what", "change"]);
    let edge = |e: &Value| format!("{} -> {}", text(&e["from"]), text(&e["to"]));
    let rows = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    for (sign, key) in [("+", "nodes_added"), ("-", "nodes_removed")] {
        for node in rows(key) {
            table.add_row([sign.to_owned(), text(&node["id"]), String::new()]);
        }
    }
    for (sign, key) in [("+", "edges_added"), ("-", "edges_removed")] {
        for e in rows(key) {
            table.add_row([sign.to_owned(), edge(&e), text(&e["class"])]);
        }
    }
    for change in rows("edges_changed") {
        let fields = change["fields"].as_array().cloned().unwrap_or_default();
        let each = fields.iter().filter_map(Value::as_str).map(|f| {
            let side = |side: &str| change[side].get(f).map_or_else(|| "?".to_owned(), |v| cell("", v));
            format!("{f}: {} to {}", side("before"), side("after"))
        });
        table.add_row(["~".to_owned(), edge(&change["after"]), each.collect::<Vec<_>>().join(", ")]);
    }
    println!("{table}");
}

/// A value for a cell.
fn cell(at: &str, value: &Value) -> String {
    match value {
        Value::Number(_) if at.ends_with("_ms") => {
            let time = value.as_i64().and_then(chrono::DateTime::from_timestamp_millis);
            time.map_or_else(|| value.to_string(), |t| t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        }
        Value::Number(_) => number(value),
        Value::Array(items) if at.ends_with("/path") || at.ends_with("/steps") => path(items),
        Value::Array(items) => items.iter().map(|item| cell("", item)).collect::<Vec<_>>().join(" "),
        Value::Object(fields) if fields.contains_key("utilisation") => {
            format!("{} {} (then {})", text(&value["resource"]), number(&value["utilisation"]), number(&value["predicted"]))
        }
        Value::Object(fields) => ["name", "id", "node"].iter().find_map(|k| fields.get(*k)).map_or_else(|| value.to_string(), text),
        Value::Null => String::new(),
        other => text(other),
    }
}

/// The way that a failure takes, from what failed on.
fn path(steps: &[Value]) -> String {
    let Some(first) = steps.first() else { return String::new() };
    let mut out = text(&first["provider"]);
    for step in steps {
        out.push_str(&format!(" > {} ({}, {})", text(&step["dependent"]), text(&step["class"]), number(&step["probability"])));
    }
    out
}

/// Three significant digits are enough to read.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(n) if value.is_f64() && n != 0.0 => {
            let digits = (2 - n.abs().log10().floor() as i32).clamp(0, 6) as usize;
            format!("{n:.digits$}")
        }
        _ => value.to_string(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
