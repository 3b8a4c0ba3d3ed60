//! Messages on standard error, as logfmt or JSON lines: time, level, message, component, fields.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Messages of crates that are not ours are logged from here on, since their INFO is our DEBUG.
const FOREIGN_LEVEL: LevelFilter = LevelFilter::WARN;

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts writing messages. Only the first call counts.
pub fn start(log: Log) {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(log.level.0));
    if LEVEL.set(handle).is_ok() {
        let _already_set_by_a_test = Registry::default().with(filter).with(Lines { format: log.format }).try_init();
    }
}

/// Changes the level while running.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        let _subscriber_is_gone = handle.modify(|filter| *filter = LevelFilter::from_level(level.0));
    }
}

struct Lines {
    format: LogFormat,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let target = metadata.target();
        let component = match target.strip_prefix("isobar") {
            Some(rest) => rest.trim_start_matches(['_', ':']).split("::").next().filter(|c| !c.is_empty()).unwrap_or("ui"),
            None if *metadata.level() <= FOREIGN_LEVEL => target.split("::").next().unwrap_or(target),
            None => return,
        };
        let mut line = Line::new(self.format);
        line.text("ts", &chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        line.text("level", &metadata.level().as_str().to_ascii_lowercase());
        let mut fields = Fields::default();
        event.record(&mut fields);
        line.text("msg", &fields.message);
        line.text("component", component);
        for (name, value) in &fields.others {
            line.value(name, value);
        }
        let bytes = line.end();
        // Standard error may be closed or full; a server goes on without messages then.
        let _gone = std::io::stderr().lock().write_all(bytes.as_bytes());
    }
}

enum Value {
    Text(String),
    Bare(String),
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.others.push((field.name(), Value::Text(value.to_owned())));
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        let value = if value.is_finite() { Value::Bare(value.to_string()) } else { Value::Text(value.to_string()) };
        self.others.push((field.name(), value));
    }
}

struct Line {
    format: LogFormat,
    text: String,
}

impl Line {
    fn new(format: LogFormat) -> Self {
        Self { format, text: String::with_capacity(160) }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.value(name, &Value::Text(value.to_owned()));
    }

    fn value(&mut self, name: &str, value: &Value) {
        let first = self.text.is_empty();
        let _never_fails = match (self.format, value) {
            (LogFormat::Logfmt, Value::Text(text)) if needs_quotes(text) => {
                write!(self.text, "{}{name}={text:?}", if first { "" } else { " " })
            }
            (LogFormat::Logfmt, Value::Text(text) | Value::Bare(text)) => {
                write!(self.text, "{}{name}={text}", if first { "" } else { " " })
            }
            (LogFormat::Json, Value::Text(text)) => {
                write!(self.text, "{}\"{name}\":{}", if first { '{' } else { ',' }, serde_json::Value::from(text.as_str()))
            }
            (LogFormat::Json, Value::Bare(text)) => write!(self.text, "{}\"{name}\":{text}", if first { '{' } else { ',' }),
        };
    }

    fn end(mut self) -> String {
        self.text.push_str(if self.format == LogFormat::Json { "}\n" } else { "\n" });
        self.text
    }
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty() || text.chars().any(|c| c <= ' ' || c == '=' || c == '"' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat) -> String {
        let mut line = Line::new(format);
        line.text("level", "info");
        line.text("msg", "two \"words\"\nand a line");
        line.value("count", &Value::Bare("7".into()));
        line.text("path", "/a/b");
        line.end()
    }

    #[test]
    fn a_message_is_one_line_that_parses() {
        assert_eq!(line(LogFormat::Logfmt), "level=info msg=\"two \\\"words\\\"\\nand a line\" count=7 path=/a/b\n");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).expect("is JSON");
        assert_eq!(json["msg"], "two \"words\"\nand a line");
        assert_eq!(json["count"], 7);
    }
}
