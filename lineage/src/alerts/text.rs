//! An impact for people to read in a terminal or a chat.

use std::fmt::Write;

use super::model::{Impact, State, Touched};
use super::payload::{rfc3339, url_of};

/// Lines of each list.
const LINES: usize = 15;

/// The impact as text, with what matters most first.
pub(crate) fn text(impact: &Impact, external_url: &str) -> String {
    let mut out = String::new();
    let state = match impact.state {
        State::Firing => "FIRING".to_owned(),
        State::Resolved => format!("resolved at {}", rfc3339(impact.resolved_ms.unwrap_or(impact.updated_ms))),
    };
    line(&mut out, format_args!("impact {} {state}, since {}", impact.id, rfc3339(impact.started_ms)));
    line(&mut out, format_args!("{}", url_of(external_url, &impact.id)));
    let Some(assessment) = &impact.assessment else {
        line(&mut out, format_args!("not assessed yet"));
        return out;
    };
    line(&mut out, format_args!("{}", clean(&assessment.summary)));
    let complete = if assessment.complete { "complete" } else { "INCOMPLETE" };
    line(
        &mut out,
        format_args!(
            "{complete}; graph as of {}, assessed at {} in {} ms",
            rfc3339(assessment.as_of_ms),
            rfc3339(assessment.assessed_ms),
            assessment.took_ms
        ),
    );
    alerts(&mut out, impact);
    for (name, list) in assessment.lists().into_iter().filter(|(_, list)| !list.is_empty()) {
        line(&mut out, format_args!("\n{name}:"));
        list.iter().take(LINES).for_each(|node| touched(&mut out, node));
        more(&mut out, list.len());
    }
    if !assessment.owners.is_empty() {
        line(&mut out, format_args!("\nowners:"));
        for owner in assessment.owners.iter().take(LINES) {
            let name = clean(&owner.name);
            let nodes = if owner.nodes == 1 { "node" } else { "nodes" };
            line(&mut out, format_args!("  {name}: {} {nodes}, at most {:.0} %", owner.nodes, owner.probability * 100.0));
        }
    }
    if !assessment.causes.is_empty() {
        line(&mut out, format_args!("\nmay be behind all that alerts now:"));
        for cause in assessment.causes.iter().take(5) {
            let own = if cause.alerting { ", alerts itself" } else { "" };
            let (id, percent) = (clean(cause.id.as_str()), cause.probability * 100.0);
            line(&mut out, format_args!("  {percent:3.0} %  {id}  explains {} of the alerting nodes{own}", cause.explains));
        }
    }
    if !assessment.unresolved.is_empty() {
        line(&mut out, format_args!("\nnot known:"));
        for note in &assessment.unresolved {
            line(&mut out, format_args!("  {}: {}", clean(&note.subject), clean(&note.reason)));
        }
    }
    out
}

fn alerts(out: &mut String, impact: &Impact) {
    line(out, format_args!("\nalerts:"));
    for alert in impact.alerts.iter().take(LINES) {
        let labels: Vec<String> = alert.labels.iter().map(|(name, value)| format!("{}={:?}", clean(name), value)).collect();
        let state = if alert.state == State::Firing { "firing" } else { "resolved" };
        line(out, format_args!("  {state} since {} {{{}}}", rfc3339(alert.starts_ms), labels.join(", ")));
        for found in &alert.matches {
            line(out, format_args!("    is about {} by rule {:?}", clean(found.node.as_str()), found.rule));
        }
        if alert.matches.is_empty() {
            line(out, format_args!("    is about no node of the graph"));
        }
    }
    more(out, impact.alerts.len());
}

fn touched(out: &mut String, node: &Touched) {
    let mut effects = Vec::new();
    for (probability, word) in [(node.errors, "errors"), (node.staleness, "old data"), (node.starvation, "no requests")] {
        if probability > 0.0 {
            effects.push(format!("{:.0} % {word}", probability * 100.0));
        }
    }
    let lost = node.lost_per_s.map_or_else(String::new, |l| format!(", {l:.1} requests/s lost"));
    let late = match node.late_after_ms {
        Some(ms) if ms > 0 => format!(", late after {} min", ms / 60_000),
        _ => String::new(),
    };
    let owners: Vec<String> = node.owners.iter().map(|o| clean(&o.name)).collect();
    let owners = if owners.is_empty() { String::new() } else { format!(" [{}]", owners.join(", ")) };
    line(out, format_args!("  {}{owners}: {}{lost}{late}", clean(node.id.as_str()), effects.join(", ")));
    line(out, format_args!("      {}", clean(&node.because)));
}

fn more(out: &mut String, count: usize) {
    if count > LINES {
        line(out, format_args!("  and {} more", count - LINES));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(text);
    out.push('\n');
}

/// Names may hold anything; a terminal should see one line of it.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(400).collect()
}
