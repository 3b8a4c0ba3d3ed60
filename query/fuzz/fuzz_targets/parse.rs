//! Any text given to the PromQL parser: an error, or a tree whose text form is a fixpoint.

#![no_main]

use isobar_query::promql::{self, print::pretty};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let _ = promql::parse_selector(query);
    let Ok(expr) = promql::parse(query) else { return };
    for text in [expr.to_string(), pretty(&expr)] {
        // Printing adds parentheses and spells durations out, so what is near a limit may be beyond it afterwards.
        if query.len() < 1000 {
            let again = promql::parse(&text).expect("what was printed is valid");
            assert_eq!(again.to_string(), expr.to_string());
        }
    }
});
