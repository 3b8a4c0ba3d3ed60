//! Shows on standard error how far something is: a line that changes on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use isobar_compactor::transfer::Progress;
use parking_lot::Mutex;

use crate::cli::rounded_size;

/// Distance of changes on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Distance of lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);
/// Width of the bar itself.
const BAR_WIDTH: usize = 24;

/// Progress as it is shown.
pub struct Bar {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    what: String,
    begun: Instant,
    drawn: Option<Instant>,
    on_line: bool,
}

impl Bar {
    /// One that shows nothing yet.
    pub fn new() -> Self {
        let state = State { what: String::new(), begun: Instant::now(), drawn: None, on_line: false };
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Shows progress, unless it was shown a moment ago.
    pub fn show(&self, progress: &Progress) {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.what != progress.what {
            (state.what, state.begun, state.drawn) = (progress.what.clone(), now, None);
            if !self.terminal {
                state.drawn = Some(now);
            }
        }
        let distance = if self.terminal { REDRAW } else { LINE };
        if state.drawn.is_some_and(|at| now - at < distance) {
            return;
        }
        state.drawn = Some(now);
        let line = line(progress, now - state.begun, self.terminal);
        if self.terminal {
            state.on_line = true;
            eprint!("\r\x1b[K{line}");
            // A terminal that takes nothing has nobody to see it.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Makes room for a message.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        if state.on_line {
            eprint!("\r\x1b[K");
            state.on_line = false;
        }
    }
}

fn line(progress: &Progress, elapsed: Duration, bar: bool) -> String {
    let amount = |n: u64| if progress.unit == "bytes" { rounded_size(n) } else { thousands(n) };
    let rate = progress.done as f64 / elapsed.as_secs_f64().max(0.001);
    let unit = if progress.unit == "bytes" { "" } else { progress.unit };
    let speed = format!("{}{}{unit}/s", amount(rate as u64), if unit.is_empty() { "" } else { " " });
    let Some(total) = progress.total.filter(|t| *t > 0) else {
        return format!("{}: {} {unit} {speed}", progress.what, amount(progress.done));
    };
    let share = (progress.done as f64 / total as f64).min(1.0);
    let left_s = if rate > 0.0 { total.saturating_sub(progress.done) as f64 / rate } else { 0.0 };
    let full = (share * BAR_WIDTH as f64) as usize;
    let drawn = if bar { format!(" [{}{}]", "#".repeat(full), "-".repeat(BAR_WIDTH - full)) } else { String::new() };
    let done = format!("{} of {}{}{unit}", amount(progress.done), amount(total), if unit.is_empty() { "" } else { " " });
    format!("{}:{drawn} {:.0} %, {done}, {speed}, {} left", progress.what, share * 100.0, clock(left_s as u64))
}

fn clock(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A number with blanks between thousands.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_rate_and_time_left() {
        let progress = Progress { what: "x".into(), done: 1_500_000, total: Some(6_000_000), unit: "samples" };
        let shown = line(&progress, Duration::from_secs(1), true);
        assert_eq!(shown, "x: [######------------------] 25 %, 1 500 000 of 6 000 000 samples, 1 500 000 samples/s, 3 s left");
        let progress = Progress { total: None, unit: "bytes", ..progress };
        assert_eq!(line(&progress, Duration::from_secs(1), false), "x: 1.43 MiB  1.43 MiB/s");
        assert_eq!(clock(7325), "2 h 2 min");
    }
}
