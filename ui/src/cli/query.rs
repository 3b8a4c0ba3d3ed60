//! `isobar query`: asks a running server over its HTTP API and shows the answer as a table or as JSON.

use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use reqwest::Method;
use serde_json::Value;

use super::client::{ServerArgs, encode};

#[derive(Args)]
pub struct QueryArgs {
    /// The PromQL expression; after EXPLAIN its plan is shown, after EXPLAIN ANALYZE the plan with rows and times.
    #[arg(required = true, value_name = "EXPR", num_args = 1..)]
    expr: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// When the expression is evaluated, RFC 3339 or Unix seconds; now by default.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["start", "end", "step"])]
    time: Option<String>,
    /// First time of a range, RFC 3339 or Unix seconds; makes it a range query.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Last time of a range; now by default.
    #[arg(long, value_name = "TIME", requires = "start")]
    end: Option<String>,
    /// Distance between the times of a range, such as 30s; a 250th of the range by default.
    #[arg(long, value_name = "DURATION", requires = "start")]
    step: Option<String>,
    /// How long the server may take, such as 30s.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
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

/// Asks and prints.
pub fn run(args: QueryArgs) -> anyhow::Result<ExitCode> {
    let mut form = vec![("query", args.expr.join(" "))];
    form.extend(args.timeout.clone().map(|t| ("timeout", t)));
    let path = match range(&args)? {
        Some(range) => {
            form.extend(range);
            "query_range"
        }
        None => {
            form.extend(args.time.clone().map(|t| ("time", t)));
            "query"
        }
    };
    let answer = super::block_on(ask(&args.server, path, &form))?;
    for (kind, texts) in [("warning", &answer["warnings"]), ("info", &answer["infos"])] {
        for text in texts.as_array().into_iter().flatten().filter_map(Value::as_str) {
            eprintln!("{kind}: {text}");
        }
    }
    let data = &answer["data"];
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(data)?);
    } else if let Some(text) = string(data) {
        println!("{}", text.trim_end());
    } else {
        println!("{}", table(data));
    }
    Ok(ExitCode::SUCCESS)
}

/// A string literal or a plan, which are printed as they are.
fn string(data: &Value) -> Option<&str> {
    if data["resultType"] == "string" { data["result"][1].as_str() } else { None }
}

/// Parameters of a range query, if one is asked for.
fn range(args: &QueryArgs) -> anyhow::Result<Option<Vec<(&'static str, String)>>> {
    let Some(start) = &args.start else { return Ok(None) };
    let now_s = chrono::Utc::now().timestamp_millis() as f64 / 1000.0;
    let start_s = seconds(start)?;
    let end_s = args.end.as_deref().map_or(Ok(now_s), seconds)?;
    if end_s < start_s {
        bail!("--end is before --start");
    }
    let step = args.step.clone().unwrap_or_else(|| format!("{}", ((end_s - start_s) / 250.0).ceil().max(1.0)));
    Ok(Some(vec![("start", start_s.to_string()), ("end", end_s.to_string()), ("step", step)]))
}

fn seconds(text: &str) -> anyhow::Result<f64> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok(seconds);
    }
    let time = DateTime::parse_from_rfc3339(text).with_context(|| format!("{text:?} is neither RFC 3339 nor Unix seconds"))?;
    Ok(time.timestamp_millis() as f64 / 1000.0)
}

async fn ask(server: &ServerArgs, path: &str, form: &[(&str, String)]) -> anyhow::Result<Value> {
    let request = server.request(Method::POST, path)?;
    server.json(request.header("Content-Type", "application/x-www-form-urlencoded").body(encode(form))).await
}

/// Shows `data` of the API as a table: one row per series for a vector, one per sample for a matrix.
fn table(data: &Value) -> Table {
    let mut table = super::plain_table();
    let result = &data["result"];
    match data["resultType"].as_str() {
        Some("vector") => {
            table.set_header(["series", "value"]);
            for row in result.as_array().into_iter().flatten() {
                table.add_row([series(&row["metric"]), sample(row)]);
            }
        }
        Some("matrix") => {
            table.set_header(["series", "time", "value"]);
            for row in result.as_array().into_iter().flatten() {
                let mut name = series(&row["metric"]);
                for kind in ["values", "histograms"] {
                    for pair in row[kind].as_array().into_iter().flatten() {
                        table.add_row([std::mem::take(&mut name), time(&pair[0]), value(&pair[1])]);
                    }
                }
            }
        }
        _ => {
            table.set_header(["time", "value"]);
            table.add_row([time(&result[0]), value(&result[1])]);
        }
    }
    table
}

fn sample(row: &Value) -> String {
    if row["histogram"].is_null() { value(&row["value"][1]) } else { value(&row["histogram"][1]) }
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(histogram) => {
            let field = |name: &str| histogram.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
            format!("histogram, count {}, sum {}", field("count"), field("sum"))
        }
        other => other.to_string(),
    }
}

fn time(seconds: &Value) -> String {
    let time = seconds.as_f64().and_then(|s| DateTime::from_timestamp_millis((s * 1000.0).round() as i64));
    time.map_or_else(|| seconds.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn series(metric: &Value) -> String {
    let Some(labels) = metric.as_object() else { return String::new() };
    let name = labels.get("__name__").and_then(Value::as_str).unwrap_or("");
    let pairs: Vec<String> = labels
        .iter()
        .filter(|(n, _)| *n != "__name__")
        .map(|(n, v)| format!("{}={:?}", n.escape_debug(), v.as_str().unwrap_or("")))
        .collect();
    // A terminal obeys control characters, and names may hold any.
    let name = if name.contains(char::is_control) { format!("{name:?}") } else { name.to_owned() };
    if pairs.is_empty() && !name.is_empty() { name } else { format!("{name}{{{}}}", pairs.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_kind_of_answer() {
        for (json, parts) in [
            (
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a\"b"},"value":[0,"1"]}]}"#,
                vec![r#"up{job="a\"b"}"#, "1"],
            ),
            (
                r#"{"resultType":"vector","result":[{"metric":{},"histogram":[0,{"count":"3","sum":"4.5"}]}]}"#,
                vec!["{}", "count 3, sum 4.5"],
            ),
            (
                r#"{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[0,"1"],[60.5,"NaN"]]}]}"#,
                vec!["1970-01-01T00:01:00.500Z", "NaN"],
            ),
            (r#"{"resultType":"scalar","result":[0,"+Inf"]}"#, vec!["1970-01-01T00:00:00Z", "+Inf"]),
            (r#"{"resultType":"string","result":[0,"text"]}"#, vec!["text"]),
        ] {
            let shown = table(&serde_json::from_str(json).expect("is JSON")).to_string();
            for part in parts {
                assert!(shown.contains(part), "{json}\n{shown}");
            }
        }
    }

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(seconds("1.5").expect("valid"), 1.5);
        assert_eq!(seconds("1970-01-01T00:01:00Z").expect("valid"), 60.0);
        assert!(seconds("yesterday").is_err());
        assert!(seconds("NaN").is_err());
    }
}
