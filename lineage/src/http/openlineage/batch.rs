//! Several events in one request: a list, as OpenLineage sends it, or an object with a list, as OpenMetadata does.

use axum::Extension;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Shared;
use crate::Error;
use crate::http::refusal::Refusal;
use crate::service::Service;

/// Most events in one request.
pub const MAX_EVENTS: usize = 20_000;

/// Several events. Says of each that was refused why, and whether it is worth sending again.
pub(super) async fn batch(
    State(service): State<Service>,
    Extension(shared): Extension<Shared>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let tenant = service.tenant_of(&parts.headers).await?;
    let (text, held) = shared.room.read(&parts.headers, body).await?;
    let texts = texts(text)?;
    let received = texts.len();
    let outcomes = shared.intake.accept(&tenant.store, texts, held).await;
    let mut failed = Vec::new();
    let mut retriable = 0;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        if let Err(error) = outcome {
            let again = matches!(error, Error::Busy { .. } | Error::NotWritten { .. } | Error::Canceled | Error::Block(_));
            retriable += usize::from(again);
            failed.push(json!({"index": index, "reason": error.to_string(), "retriable": again}));
        }
    }
    if received > 0 && retriable == received {
        // Nothing was stored: a client that knows nothing of the answer's body sends it again.
        let reason = failed.first().and_then(|f| f["reason"].as_str()).unwrap_or_default().to_owned();
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason));
    }
    let summary = json!({
        "received": received,
        "successful": received - failed.len(),
        "failed": failed.len(),
        "retriable": retriable,
        "non_retriable": failed.len() - retriable,
    });
    let status = if failed.is_empty() { "success" } else { "partial_success" };
    Ok(Json(json!({"status": status, "summary": summary, "failed_events": failed})).into_response())
}

/// The events, each as its own text.
fn texts(text: String) -> Result<Vec<String>, Refusal> {
    let bad = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let events = match text.trim_start().as_bytes().first() {
        Some(b'[') => elements(&text).map_err(|e| bad(format!("the body is no list of events: {e}")))?,
        Some(b'{') => {
            #[derive(Deserialize)]
            struct Wrapped {
                events: Vec<Value>,
            }
            let wrapped: Wrapped = serde_json::from_str(&text).map_err(|e| bad(format!("the body has no list `events`: {e}")))?;
            wrapped.events.iter().map(Value::to_string).collect()
        }
        _ => return Err(bad("the body must be a list of events, or an object with a list `events`".into())),
    };
    if events.len() > MAX_EVENTS {
        return Err(bad(format!("the body has {} events, more than {MAX_EVENTS}; send fewer at once", events.len())));
    }
    Ok(events)
}

/// The elements of a JSON list as they stand in its text.
fn elements(text: &str) -> Result<Vec<String>, serde_json::Error> {
    // The whole is checked first, so that what follows can rely on commas and brackets.
    serde_json::from_str::<Vec<IgnoredAny>>(text)?;
    let mut rest = text.trim().strip_prefix('[').unwrap_or("]").trim_start();
    let mut out = Vec::new();
    while !rest.starts_with(']') {
        let mut one = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        if let Some(parsed) = one.next() {
            parsed?;
        }
        let (element, after) = rest.split_at(one.byte_offset());
        out.push(element.to_owned());
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_falls_into_its_elements() {
        let of = |text: &str| texts(text.into()).map_err(|r| r.reason);
        assert_eq!(of(r#" [ {"a": [1, "],"]} , 2,"x]" ] "#).expect("a list"), [r#"{"a": [1, "],"]}"#, "2", r#""x]""#]);
        assert_eq!(of("[]").expect("a list"), Vec::<String>::new());
        assert_eq!(of(r#"[[1],[]]"#).expect("a list"), ["[1]", "[]"]);
        assert_eq!(of(r#"{"events": [{"b": 1, "a": 2}]}"#).expect("an object").len(), 1);
        for wrong in ["", "7", "[1,", "[1]]", "[1 2]", "{}", r#"{"events": 1}"#, "[1],"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
