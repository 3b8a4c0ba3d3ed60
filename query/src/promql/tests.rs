//! Tests of the front end: tables of texts, round trips of generated queries, and the queries of the conformance scripts.

use std::path::PathBuf;

use proptest::prelude::*;

use super::ast::{ExprKind, ValueType};
use super::print::pretty;
use super::{line_column, parse, parse_selector};

/// Texts that are queries, and how they are printed; `None` where that is the text itself.
const VALID: &[(&str, Option<&str>)] = &[
    ("1", None),
    ("+Inf", None),
    ("inf", Some("+Inf")),
    ("-nan", Some("NaN")),
    ("0x1F", Some("31")),
    ("1_000.5", Some("1000.5")),
    ("1e3", Some("1000")),
    (".5", Some("0.5")),
    ("5m", Some("300")),
    ("1h30m - 1", Some("5400 - 1")),
    ("1 - -1", None),
    ("- - 1", Some("1")),
    ("-1 ^ 2", None),
    ("-Inf ^ a", None),
    ("(-1) ^ 2", None),
    ("---metric @ 100", Some("---metric @ 100.000")),
    ("2 ^ 3 ^ 2", None),
    ("\"a\\nb\"", None),
    ("'a\"b'", Some("\"a\\\"b\"")),
    ("`a\\n`", Some("\"a\\\\n\"")),
    ("foo # comment\n + bar", Some("foo + bar")),
    ("foo:bar:baz", None),
    (":foo", None),
    ("foo{}", Some("foo")),
    ("foo{b='x',a!=\"y\",c=~\"z.*\",d!~\"\",}", Some("foo{a!=\"y\",b=\"x\",c=~\"z.*\",d!~\"\"}")),
    ("{\"foo\"}", Some("foo")),
    ("{\"my.metric\", \"l.x\"=\"y\"}", Some("{\"my.metric\",\"l.x\"=\"y\"}")),
    ("{__name__=\"foo\"}", None),
    ("{__name__=~\"foo|bar\", __name__!=\"x\"}", Some("{__name__!=\"x\",__name__=~\"foo|bar\"}")),
    ("foo offset 5m", None),
    ("foo offset -5m", None),
    ("foo offset 0", Some("foo offset 0s")),
    ("foo offset 2 ^ 2", Some("foo offset 2s ^ 2")),
    ("foo offset (2 ^ 2)", None),
    ("foo offset -(step() - 5)", None),
    ("foo offset -min_of(step(), 1s) + 1", Some("foo offset -min_of(step(), 1) + 1")),
    ("foo offset STEP()", Some("foo offset step()")),
    ("foo @ 10 offset 5m", Some("foo @ 10.000 offset 5m")),
    ("foo offset 5m @ -1.5", Some("foo @ -1.500 offset 5m")),
    ("foo @ start()", None),
    ("foo @ end()", None),
    ("foo[5m] offset 1w @ 1h", Some("foo[5m] @ 3600.000 offset 1w")),
    ("foo[300]", Some("foo[5m]")),
    ("foo[2m * (10 + 5)]", Some("foo[120 * (10 + 5)]")),
    ("foo[5m+step()]", Some("foo[300 + step()]")),
    ("foo[max_of(min_of((step()+1),((1h))),1ms)]", Some("foo[max_of(min_of(step() + 1, 3600), 0.001)]")),
    ("foo[5m:1m] offset 1m", None),
    ("foo[5m:]", None),
    ("(a + b)[29s+1s:5s+5s]", Some("(a + b)[29 + 1:5 + 5]")),
    ("rate(foo[5m])[1h:1m] @ end()", None),
    ("rate(foo[1m] anchored)", None),
    ("increase(foo[1m] smoothed offset 1m)", None),
    ("metric @ 100 smoothed", Some("metric smoothed @ 100.000")),
    ("sum(foo)", None),
    ("sum by () (foo)", Some("sum(foo)")),
    ("sum without () (foo)", Some("sum without () (foo)")),
    ("SUM(foo) BY (b, a, b)", Some("sum by (a, b) (foo)")),
    ("sum by (\"my.label\", on, inf_,) (foo)", Some("sum by (inf_, \"my.label\", on) (foo)")),
    ("topk(3, foo)", None),
    ("count_values(\"v\", foo)", None),
    ("limitk by (a) (2, foo)", None),
    ("limit_ratio(-0.5, foo)", None),
    ("a + on (x, y) group_left (z) b", None),
    ("a * ignoring (x) group_right () b", None),
    ("a + on () b", None),
    ("a > bool b", None),
    ("1 > bool 2", None),
    ("a and ignoring (l, g) b", Some("a and ignoring (g, l) b")),
    ("a + fill(0) b", Some("a + fill (0) b")),
    ("a + on (x) group_left () fill_right(-Inf) fill_left(1) b", Some("a + on (x) group_left () fill_left (1) fill_right (-Inf) b")),
    ("fill + fill(0) fill_left", Some("fill + fill (0) fill_left")),
    ("sum + by + offset", None),
    ("min{a=\"b\"} unless start", None),
    ("h </ 5 >/ 3", None),
    ("1 atan2 2", None),
    ("step() + start() - end() * range()", None),
    ("START()", Some("start()")),
    ("min_of(3, 5)", None),
    ("time()", None),
    ("hour()", None),
    ("round(foo, 5)", None),
    ("label_join(foo, \"a\", \"b\")", None),
    ("label_join(foo, \"a\", \"b\", \"c\", \"d\")", None),
    ("info(foo, {x=~\".*\"})", None),
    ("histogram_quantiles(foo, \"q\", 0.1, 0.5, 0.9)", None),
    ("sort_by_label(foo)", None),
    ("a / b * c", None),
    ("a or b and c", None),
];

#[test]
fn prints_what_it_parses() {
    for (query, printed) in VALID {
        let expr = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
        let text = expr.to_string();
        assert_eq!(text, printed.unwrap_or(query), "{query}");
        assert_eq!(parse(&text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string(), text);
    }
}

/// Texts that are no queries, and the message.
const INVALID: &[(&str, &str)] = &[
    ("", "unknown position: parse error: no expression found in input"),
    (" # nothing\n", "1:1: parse error: no expression found in input"),
    ("1 +", "1:4: parse error: unexpected end of input"),
    ("1 1", "1:3: parse error: unexpected number \"1\""),
    ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
    ("sum some_metric", "1:5: parse error: unexpected identifier \"some_metric\""),
    ("sum by (a) foo", "1:12: parse error: unexpected identifier \"foo\" in aggregation"),
    ("(foo", "1:5: parse error: unclosed left parenthesis"),
    ("foo)", "1:5: parse error: unexpected right parenthesis ')'"),
    ("foo]", "1:4: parse error: unexpected right bracket ']'"),
    ("*1", "1:1: parse error: unexpected <op:*>"),
    ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
    ("1 + bool 1", "1:3: parse error: bool modifier can only be used on comparison operators"),
    ("1 or 1", "1:1: parse error: set operator \"or\" not allowed in binary scalar expression"),
    ("1 and foo", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
    ("foo + on (a) 1", "1:1: parse error: vector matching only allowed between instant vectors"),
    ("foo and on (a) group_left () bar", "1:1: parse error: no grouping allowed for \"and\" operation"),
    ("foo + on (a) group_left (a) bar", "1:5: parse error: label \"a\" must not occur in ON and GROUP clause at once"),
    ("foo or fill (1) bar", "1:1: parse error: filling in missing series not allowed for set operators"),
    ("foo + fill(x) bar", "1:12: parse error: unexpected identifier \"x\" in fill modifier, expected number"),
    ("-\"x\"", "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\""),
    ("foo[5m] + 1", "1:1: parse error: binary expression must contain only scalar and instant vector types"),
    ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    ("{a=\"\", b=~\".*\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    ("{a=\"b\" or c=\"d\"}", "1:8: parse error: unexpected identifier \"or\" in label matching, expected \",\" or \"}\""),
    ("foo{a}", "1:6: parse error: unexpected \"}\" in label matching, expected label matching operator"),
    ("foo{a=b}", "1:7: parse error: unexpected identifier \"b\" in label matching, expected string"),
    ("foo{", "1:5: parse error: unexpected end of input inside braces"),
    ("foo{a=\"b\"", "1:10: parse error: unexpected end of input inside braces"),
    ("foo{,}", "1:5: parse error: unexpected \",\" in label matching, expected identifier or \"}\""),
    ("foo{__name__=\"bar\"}", "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\""),
    ("{\"foo\", __name__=\"bar\"}", "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\""),
    ("\"x", "1:1: parse error: unterminated quoted string"),
    ("\"\\q\"", "1:1: parse error: unknown escape sequence U+0071 'q'"),
    ("foo[5m", "1:7: parse error: unexpected end of input in duration expression"),
    ("foo[]", "1:5: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()"),
    ("foo[0m]", "1:5: parse error: duration must be greater than 0"),
    ("foo[-5m]", "1:5: parse error: duration must be greater than 0"),
    ("foo[5m-10m]", "1:1: parse error: duration must be greater than 0"),
    ("foo[5m/0]", "1:7: parse error: division by zero"),
    ("foo[5mm]", "1:5: parse error: bad number or duration syntax: \"5mm\""),
    ("(foo)[5m]", "1:6: parse error: ranges only allowed for vector selectors"),
    ("foo offset 1m[5m]", "1:14: parse error: no offset modifiers allowed before range"),
    ("foo @ 1 [5m]", "1:9: parse error: no @ modifiers allowed before range"),
    ("foo[5m][5m:]", "1:1: parse error: subquery is only allowed on instant vector, got matrix instead"),
    ("foo offset", "1:11: parse error: unexpected end of input in offset, expected number, duration, step(), or range()"),
    ("foo offset 1m offset 2m", "1:1: parse error: offset may not be set multiple times"),
    (
        "1 offset 1m",
        "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ),
    ("foo @", "1:6: parse error: unexpected end of input in @, expected timestamp"),
    ("foo @ Inf", "1:1: parse error: timestamp out of bounds for @ modifier: +Inf"),
    ("foo offset Inf", "1:12: parse error: duration out of range"),
    ("foo[1e30]", "1:5: parse error: duration out of range"),
    ("foo(1)", "1:1: parse error: unknown function with name \"foo\""),
    ("xrate(foo[5m])", "1:1: parse error: unknown function with name \"xrate\""),
    ("rate(foo)", "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector"),
    ("rate()", "1:1: parse error: expected 1 argument(s) in call to \"rate\", got 0"),
    ("label_join(foo)", "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 1"),
    ("round(foo, 1, 2)", "1:1: parse error: expected at most 2 argument(s) in call to \"round\", got 3"),
    ("abs(foo,)", "1:8: parse error: trailing commas not allowed in function call args"),
    ("abs(foo, , 1)", "1:8: parse error: trailing commas not allowed in function call args"),
    ("(foo bar)", "1:6: parse error: unexpected identifier \"bar\""),
    ("sum(abs(foo bar))", "1:13: parse error: unexpected identifier \"bar\" in aggregation"),
    ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
    ("topk(foo)", "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1"),
    ("topk(\"x\", foo)", "1:6: parse error: expected type scalar in aggregation parameter, got string"),
    ("limitk(foo, foo)", "1:8: parse error: expected type scalar in aggregation parameter, got instant vector"),
    ("sum(1)", "1:5: parse error: expected type instant vector in aggregation expression, got scalar"),
    ("sum by (a b) (foo)", "1:11: parse error: unexpected identifier \"b\" in grouping opts, expected \",\" or \")\""),
    ("sum by a (foo)", "1:8: parse error: unexpected identifier \"a\" in grouping opts, expected \"(\""),
    ("info(foo, bar)", "1:11: parse error: expected label selectors only, got vector selector instead"),
    ("resets(foo[3m] smoothed)", "1:8: parse error: smoothed modifier can only be used with: delta, increase, rate - not with resets"),
    ("foo\n+\n  bar(1)", "3:3: parse error: unknown function with name \"bar\""),
    ("foo $ bar", "1:5: parse error: unexpected character: '$'"),
    ("foo !~ bar", "1:5: parse error: unexpected character after '!': '~'"),
    ("a + bool", "1:9: parse error: unexpected end of input"),
    ("1e400", "1:1: parse error: error parsing number: strconv.ParseFloat: parsing \"1e400\": value out of range"),
];

#[test]
fn refuses_with_prometheus_messages() {
    for (query, message) in INVALID {
        match parse(query) {
            Ok(expr) => panic!("{query} was parsed as {expr}"),
            Err(error) => assert_eq!(error.to_string(), *message, "{query}"),
        }
    }
}

#[test]
fn limits_depth_height_and_length() {
    let deep = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&deep(90)).is_ok());
    for query in [
        deep(5000),
        "-".repeat(100_000),
        format!("1{}", " + 1".repeat(5000)),
        format!("a{}", "[5m:]".repeat(5000)),
        format!("a[1{}]", "+1".repeat(5000)),
        format!("a[{}1]", "(".repeat(5000)),
        "abs(".repeat(5000),
        "x".repeat(2 << 20),
    ] {
        assert!(parse(&query).is_err(), "{}…", &query[..20]);
    }
    assert!(parse(&format!("1{}", " + 1".repeat(250))).is_ok());
}

#[test]
fn spans_point_at_the_text() {
    let query = "sum by (a) (rate(foo{x=\"y\"}[5m] offset 1m )) / on (a) bar";
    let expr = parse(query).expect("valid");
    let text = |e: &super::ast::Expr| &query[e.span.start as usize..e.span.end as usize];
    let ExprKind::Binary(binary) = &expr.kind else { panic!("{expr:?}") };
    assert_eq!(text(&expr), query);
    assert_eq!(text(&binary.rhs), "bar");
    let ExprKind::Aggregate(sum) = &binary.lhs.kind else { panic!("{expr:?}") };
    let ExprKind::Call { args, .. } = &sum.expr.kind else { panic!("{expr:?}") };
    assert_eq!(text(&args[0]), "foo{x=\"y\"}[5m] offset 1m");
    assert_eq!(line_column(query, args[0].span.start), (1, 18));
    assert_eq!(line_column("a\nbc", 3), (2, 2));
}

#[test]
fn matching_is_settled_by_type() {
    for (query, kept) in [("a + b", true), ("a + 1", false), ("1 + 1", false)] {
        let ExprKind::Binary(binary) = parse(query).expect("valid").kind else { panic!("{query}") };
        assert_eq!(binary.matching.is_some(), kept, "{query}");
    }
    assert_eq!(parse("1 + vector(1)").expect("valid").value_type(), ValueType::Vector);
}

#[test]
fn selectors_for_match_parameters() {
    for text in ["foo", "{a=\"b\"}", "foo{a=~\"b|c\"}", "{}", "{\"my.metric\"}", "sum"] {
        assert!(parse_selector(text).is_ok(), "{text}");
    }
    for text in ["", "foo[5m]", "foo offset 5m", "1", "sum(foo)", "foo bar", "rate(foo[5m])"] {
        assert!(parse_selector(text).is_err(), "{text}");
    }
}

#[test]
fn pretty_splits_long_lines() {
    assert_eq!(pretty(&parse("foo/bar").expect("valid")), "foo / bar");
    let query = "sum by (job) (rate(http_requests_total{code=~\"5..\", handler=\"/api/v1/query\", method=\"GET\"}[5m])) / on (job) \
                 group_left (team) topk(5, sum(rate(http_requests_total{handler=\"/api/v1/query\"}[5m])) without (instance, pod, node, container))";
    let wanted = "  sum by (job) (rate(http_requests_total{code=~\"5..\",handler=\"/api/v1/query\",method=\"GET\"}[5m]))
/ on (job) group_left (team)
  topk(
    5,
    sum without (container, instance, node, pod) (
      rate(http_requests_total{handler=\"/api/v1/query\"}[5m])
    )
  )";
    let expr = parse(query).expect("valid");
    assert_eq!(pretty(&expr), wanted);
    assert_eq!(parse(wanted).expect("valid").to_string(), expr.to_string());
}

/// Every query in the conformance scripts, with whether it may fail.
#[test]
fn parses_the_conformance_scripts() {
    let folder = std::env::var_os("ISOBAR_CONFORMANCE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/promqltest-dev"), PathBuf::from);
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}; set ISOBAR_CONFORMANCE to the folder of the PromQL test scripts", folder.display()));
    let mut queries = 0;
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_none_or(|e| e != "test") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a readable script");
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.starts_with("eval")) {
            let words = if line.contains(" range from ") { 8 } else { 4 };
            let query = line.splitn(words + 1, char::is_whitespace).last().expect("a query").trim();
            let may_fail =
                lines[i + 1..].iter().take_while(|l| l.starts_with(char::is_whitespace)).any(|l| l.trim().starts_with("expect fail"));
            queries += 1;
            match parse(query) {
                Ok(expr) => {
                    let text = expr.to_string();
                    assert_eq!(parse(&text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string(), text);
                }
                Err(error) => assert!(may_fail, "{}:{}: {query}: {error}", path.display(), i + 1),
            }
        }
    }
    assert!(queries > 1000, "only {queries} queries in {}", folder.display());
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_]{0,5}", Just("sum".into()), Just("fill".into()), Just("offset".into()), Just("on".into())]
}

fn selector() -> impl Strategy<Value = String> {
    let matcher = (word(), prop_oneof![Just("="), Just("!="), Just("=~"), Just("!~")], "[a-z|.\\PC]{0,6}").prop_map(|(name, op, value)| {
        let value = if op.contains('~') { value.replace(|c: char| !c.is_alphanumeric(), ".") } else { value };
        format!("{name}{op}{}", super::quote::quote(&value))
    });
    let modifier = prop_oneof![
        Just(String::new()),
        (-1000i32..1000).prop_map(|n| format!(" offset {n}")),
        Just(" offset -(step()*2^3)".into()),
        (-1e6f64..1e6).prop_map(|n| format!(" @ {n}")),
        Just(" @ start() offset 1h".into()),
        Just(" smoothed".into()),
    ];
    ("[a-z:]{1,6}x", prop::collection::vec(matcher, 0..3), modifier)
        .prop_map(|(name, matchers, modifier)| format!("{name}{{{}}}{modifier}", matchers.join(",")))
}

fn duration() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (1..500u32).prop_map(|n| format!("{n}")),
        (1..50u32).prop_map(|n| format!("{n}m1s")),
        Just("step()".into()),
        Just("range()".into())
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/%^]", inner.clone()).prop_map(|(x, op, y)| format!("{x}{op}{y}")),
            inner.clone().prop_map(|x| format!("-({x})")),
            inner.clone().prop_map(|x| format!("-{x}")),
            inner.clone().prop_map(|x| format!("({x})")),
            (inner.clone(), inner).prop_map(|(x, y)| format!("min_of({x},{y})")),
        ]
    })
}

/// Instant vectors.
fn vector() -> impl Strategy<Value = String> {
    selector().prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|x| format!("({x})")),
            inner.clone().prop_map(|x| format!("-{x}")),
            (
                inner.clone(),
                prop_oneof![
                    Just("+"),
                    Just("^"),
                    Just("and"),
                    Just("== bool"),
                    Just("/ on(a, \"b c\") group_left(z)"),
                    Just("*fill(3)"),
                    Just("</")
                ],
                inner.clone()
            )
                .prop_map(|(x, op, y)| format!("{x} {op} {y}")),
            (any::<f64>(), "[-*%^]", inner.clone()).prop_map(|(n, op, x)| format!("{n:?} {op} {x}").replace("e-", "E-")),
            (word(), inner.clone()).prop_map(|(l, x)| format!("sum by ({l}) ({x})")),
            (word(), inner.clone()).prop_map(|(l, x)| format!("topk without ({l}) (3, {x})")),
            (inner.clone(), duration()).prop_map(|(x, d)| format!("avg_over_time(({x})[{d}:1m])")),
            ("[a-z]{1,3}x", duration()).prop_map(|(x, d)| format!("rate({x}[{d}])")),
            inner.prop_map(|x| format!("label_replace({x}, 'a', \"$1\", `b`, '(.*)')")),
        ]
    })
}

proptest! {
    #[test]
    fn printing_is_a_fixpoint(query in vector()) {
        // Constant arithmetic may come out as zero or too big, which is refused.
        if let Ok(expr) = parse(&query) {
            let text = expr.to_string();
            let again = parse(&text).map_err(|e| TestCaseError::fail(format!("{query} -> {text}: {e}")))?;
            prop_assert_eq!(again.to_string(), text);
            let long = pretty(&expr);
            let again = parse(&long).map_err(|e| TestCaseError::fail(format!("{query} -> {long}: {e}")))?;
            prop_assert_eq!(again.to_string(), expr.to_string());
        }
    }

    #[test]
    fn never_panics_on_text(text in "\\PC{0,60}") {
        let _ = parse(&text);
        let _ = parse_selector(&text);
    }

    #[test]
    fn never_panics_on_mutations(query in vector(), cuts in prop::collection::vec((any::<prop::sample::Index>(), "[-+*/%^()\\[\\]{}<>=!~@:,.\"'`\\\\a-z0-9 #\n]{0,3}"), 1..4)) {
        let mut chars: Vec<char> = query.chars().collect();
        for (at, insert) in cuts {
            let at = at.index(chars.len() + 1);
            chars.splice(at..(at + insert.len() / 2).min(chars.len()), insert.chars());
        }
        let _ = parse(&chars.into_iter().collect::<String>());
    }
}
