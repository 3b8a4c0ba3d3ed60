//! Attributes as labels: their names, their values as text, and what a resource and a scope add.

use std::collections::BTreeMap;

use isobar_block::labels::{METRIC_NAME, push_label};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::OtlpConfig;
use super::naming::label_name;

/// Labels by name. Where two attributes have the same label name, their values are joined with `;`.
pub(super) type LabelMap = BTreeMap<String, String>;

/// Attributes of which `job` and `instance` are made.
const IDENTIFYING: [&str; 3] = ["service.name", "service.namespace", "service.instance.id"];

/// Deepest nesting of a value that becomes text; what lies deeper is left out.
const MAX_VALUE_DEPTH: usize = 16;

/// Adds attributes to labels, in the order of their keys.
pub(super) fn add<'a>(labels: &mut LabelMap, prefix: &str, attributes: impl IntoIterator<Item = &'a KeyValue>) {
    let mut sorted: Vec<_> = attributes.into_iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    for attribute in sorted {
        let name = format!("{prefix}{}", label_name(&attribute.key));
        let value = attribute.value.as_ref().map(text).unwrap_or_default();
        if name.is_empty() || value.is_empty() || name == METRIC_NAME {
            continue;
        }
        match labels.get_mut(&name) {
            Some(there) => {
                there.push(';');
                there.push_str(&value);
            }
            None => drop(labels.insert(name, value)),
        }
    }
}

/// What a resource gives to its series: `job`, `instance` and the promoted attributes.
pub(super) fn of_resource(resource: Option<&Resource>, config: &OtlpConfig) -> LabelMap {
    let mut labels = LabelMap::new();
    let Some(resource) = resource else { return labels };
    add(&mut labels, "", resource.attributes.iter().filter(|a| config.promote_resource_attributes.contains(&a.key)));
    labels.extend(identity(resource));
    labels
}

/// What a scope gives to its series, if the configuration promotes it.
pub(super) fn of_scope(scope: Option<&InstrumentationScope>, schema_url: &str, config: &OtlpConfig) -> LabelMap {
    let mut labels = LabelMap::new();
    if !config.promote_scope_metadata {
        return labels;
    }
    if let Some(scope) = scope {
        add(&mut labels, "otel_scope_", &scope.attributes);
        labels.insert("otel_scope_name".into(), scope.name.clone());
        labels.insert("otel_scope_version".into(), scope.version.clone());
    }
    labels.insert("otel_scope_schema_url".into(), schema_url.to_owned());
    labels
}

/// Labels of `target_info`, or `None` if the resource does not say who it is or has nothing more to tell.
pub(super) fn of_target_info(resource: Option<&Resource>, config: &OtlpConfig) -> Option<LabelMap> {
    let resource = resource?;
    let identity = identity(resource);
    let informs = |a: &&KeyValue| !IDENTIFYING.contains(&a.key.as_str());
    if identity.is_empty() || !resource.attributes.iter().any(|a| informs(&a)) {
        return None;
    }
    let mut labels = LabelMap::new();
    add(&mut labels, "", resource.attributes.iter().filter(|a| config.keep_identifying_resource_attributes || informs(a)));
    labels.extend(identity);
    Some(labels)
}

/// `job` is `namespace/name` of the service, `instance` its instance id.
fn identity(resource: &Resource) -> LabelMap {
    let get =
        |key: &str| resource.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.as_ref()).map(text).filter(|v| !v.is_empty());
    let mut labels = LabelMap::new();
    if let Some(name) = get("service.name") {
        let job = match get("service.namespace") {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        };
        labels.insert("job".into(), job);
    }
    if let Some(instance) = get("service.instance.id") {
        labels.insert("instance".into(), instance);
    }
    labels
}

/// Appends a label set in canonical form: `shared`, of which `own` replaces labels of the same name, and the metric's name.
pub(super) fn push_canonical(out: &mut Vec<u8>, metric_name: &str, sets: &[&LabelMap], extra: Option<(&str, &str)>) {
    let mut merged: BTreeMap<&str, &str> = BTreeMap::new();
    for set in sets {
        merged.extend(set.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    }
    merged.extend(extra);
    merged.insert(METRIC_NAME, metric_name);
    merged.iter().for_each(|(name, value)| push_label(out, name, value));
}

/// A value as text: strings as they are, lists and maps as JSON, bytes in base64.
pub(super) fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(s)) => s.clone(),
        other => {
            let mut out = String::new();
            write_json(&mut out, other.as_ref(), MAX_VALUE_DEPTH, false);
            out
        }
    }
}

fn write_json(out: &mut String, value: Option<&Value>, depth: usize, quoted: bool) {
    match value {
        None | Some(Value::StringValueStrindex(_)) => out.push_str(if quoted { "null" } else { "" }),
        Some(Value::StringValue(s)) => push_quoted(out, s),
        Some(Value::BoolValue(b)) => out.push_str(if *b { "true" } else { "false" }),
        Some(Value::IntValue(i)) => out.push_str(&i.to_string()),
        Some(Value::DoubleValue(d)) => out.push_str(&d.to_string()),
        Some(Value::BytesValue(bytes)) if quoted => push_quoted(out, &base64(bytes)),
        Some(Value::BytesValue(bytes)) => out.push_str(&base64(bytes)),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) if depth == 0 => out.push_str("null"),
        Some(Value::ArrayValue(array)) => {
            out.push('[');
            for (i, element) in array.values.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_json(out, element.value.as_ref(), depth - 1, true);
            }
            out.push(']');
        }
        Some(Value::KvlistValue(list)) => {
            let sorted: BTreeMap<_, _> = list.values.iter().map(|kv| (kv.key.as_str(), kv.value.as_ref())).collect();
            out.push('{');
            for (i, (key, element)) in sorted.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                push_quoted(out, key);
                out.push(':');
                write_json(out, element.and_then(|v| v.value.as_ref()), depth - 1, true);
            }
            out.push('}');
        }
    }
}

fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() { ALPHABET[(word >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    use super::*;

    fn any(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() }
    }

    #[test]
    fn values_as_text() {
        let list = ArrayValue { values: vec![any(Value::StringValue("a\"b".into())), any(Value::IntValue(2)), AnyValue { value: None }] };
        let map = KeyValueList { values: vec![attribute("z", Value::BoolValue(true)), attribute("a", Value::ArrayValue(list.clone()))] };
        for (value, expected) in [
            (Value::StringValue("plain \"text\"".into()), "plain \"text\""),
            (Value::DoubleValue(1.5), "1.5"),
            (Value::IntValue(-3), "-3"),
            (Value::BytesValue(b"any carnal pleas".to_vec()), "YW55IGNhcm5hbCBwbGVhcw=="),
            (Value::ArrayValue(list), "[\"a\\\"b\",2,null]"),
            (Value::KvlistValue(map), "{\"a\":[\"a\\\"b\",2,null],\"z\":true}"),
        ] {
            assert_eq!(text(&any(value)), expected);
        }
    }

    #[test]
    fn colliding_names_are_joined_in_order_of_keys() {
        let mut labels = LabelMap::new();
        let of = |s: &str| Value::StringValue(s.into());
        add(&mut labels, "", &[attribute("a_b", of("2")), attribute("a.b", of("1")), attribute("empty", of(""))]);
        assert_eq!(labels, LabelMap::from([("a_b".into(), "1;2".into())]));
    }
}
