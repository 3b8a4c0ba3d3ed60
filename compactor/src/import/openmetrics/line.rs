//! Parses lines of OpenMetrics 1.0 text and of the text format of Prometheus, one at a time.

use isobar_block::{Error, Exemplar, Labels, MetricType, labels::METRIC_NAME};

use super::Flavour;

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// Nothing that matters.
    Nothing,
    /// That the text is complete.
    End,
    /// Help text of a family.
    Help(&'a str, String),
    /// Type of a family.
    Type(&'a str, MetricType),
    /// Unit of a family.
    Unit(&'a str, &'a str),
    /// A sample.
    Sample(Sample<'a>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// Name and labels as they are written; [`labels`] reads them.
    pub series: &'a str,
    pub value: f64,
    pub timestamp_ms: i64,
    /// Labels, value and time of the exemplar, if there is one.
    pub exemplar: Option<Exemplar>,
}

/// Parses one line, without its end.
pub(super) fn parse(line: &str, flavour: Flavour) -> Result<Line<'_>, String> {
    let line = line.trim_end_matches('\r');
    if let Some(comment) = line.strip_prefix('#') {
        return comment_line(comment, flavour);
    }
    if line.trim().is_empty() {
        return Ok(Line::Nothing);
    }
    sample(line.trim_start(), flavour).map(Line::Sample)
}

fn comment_line(comment: &str, flavour: Flavour) -> Result<Line<'_>, String> {
    let text = comment.trim_start();
    let (keyword, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let rest = rest.trim_start();
    let (name, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    Ok(match keyword {
        "EOF" if flavour == Flavour::OpenMetrics => Line::End,
        "HELP" => Line::Help(name, unescape(rest)),
        "TYPE" => Line::Type(name, metric_type(rest.trim()).ok_or_else(|| format!("metric type {:?} is not known", rest.trim()))?),
        "UNIT" => Line::Unit(name, rest.trim()),
        _ => Line::Nothing,
    })
}

fn metric_type(word: &str) -> Option<MetricType> {
    Some(match word {
        "counter" => MetricType::Counter,
        "gauge" => MetricType::Gauge,
        "histogram" => MetricType::Histogram,
        "gaugehistogram" => MetricType::GaugeHistogram,
        "summary" => MetricType::Summary,
        "info" => MetricType::Info,
        "stateset" => MetricType::StateSet,
        "unknown" | "untyped" => MetricType::Unknown,
        _ => return None,
    })
}

fn sample(line: &str, flavour: Flavour) -> Result<Sample<'_>, String> {
    let end = series_end(line)?;
    let (series, rest) = line.split_at(end);
    let (numbers, exemplar) = match rest.split_once('#') {
        Some((numbers, exemplar)) => (numbers, Some(exemplar)),
        None => (rest, None),
    };
    let mut words = numbers.split_ascii_whitespace();
    let value = number(words.next().ok_or("there is no value after the series")?)?;
    let timestamp = words.next().ok_or("there is no timestamp; samples that are imported need one")?;
    let timestamp_ms = match flavour {
        Flavour::OpenMetrics => seconds(timestamp)?,
        Flavour::Prometheus => timestamp.parse().map_err(|_| format!("timestamp {timestamp:?} is not a whole number of milliseconds"))?,
    };
    // OpenMetrics 2.0 says here when a counter began; nothing is made of it.
    if let Some(word) = words.find(|w| !w.starts_with("st@")) {
        return Err(format!("{word:?} after the timestamp is not expected"));
    }
    let exemplar = exemplar.map(|text| read_exemplar(text, timestamp_ms)).transpose()?;
    Ok(Sample { series, value, timestamp_ms, exemplar })
}

/// Where name and labels end.
fn series_end(line: &str) -> Result<usize, String> {
    let bytes = line.as_bytes();
    let name_end = bytes.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')).ok_or("there is no value after the series")?;
    let brace = name_end + bytes[name_end..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    if bytes.get(brace) != Some(&b'{') {
        return if name_end == 0 { Err("there is no metric name".into()) } else { Ok(name_end) };
    }
    braces_end(bytes, brace).ok_or_else(|| "the labels are not closed by }".into())
}

/// The place after the `}` that closes the `{` at `start`.
fn braces_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in bytes.iter().enumerate().skip(start + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// Reads `name{label="value", …}`, `{"name", …}` or `{__name__="name", …}`.
pub(super) fn labels(series: &str) -> Result<Vec<(String, String)>, String> {
    let (name, rest) = series.split_once('{').unwrap_or((series, ""));
    let mut out = Vec::with_capacity(8);
    if !name.trim().is_empty() {
        out.push((METRIC_NAME.to_owned(), name.trim().to_owned()));
    }
    let mut rest = rest.trim_end().strip_suffix('}').unwrap_or("");
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let name = if rest.starts_with('"') {
            let name = quoted(&mut rest)?;
            if !rest.trim_start().starts_with('=') {
                out.push((METRIC_NAME.to_owned(), name));
                continue;
            }
            name
        } else {
            let end = rest.find('=').ok_or_else(|| format!("there is no = after label {rest:?}"))?;
            let name = rest[..end].trim_end().to_owned();
            rest = &rest[end..];
            name
        };
        rest = rest.trim_start().trim_start_matches('=').trim_start();
        if !rest.starts_with('"') {
            return Err(format!("the value of label {name:?} is not quoted"));
        }
        let value = quoted(&mut rest)?;
        if !rest.is_empty() && !rest.starts_with([' ', '\t', ',']) {
            return Err(format!("there is no comma after the value of label {name:?}"));
        }
        out.push((name, value));
    }
    Ok(out)
}

/// Takes a quoted text from the front.
fn quoted(rest: &mut &str) -> Result<String, String> {
    let body = &rest[1..];
    let mut escaped = false;
    for (i, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                *rest = &body[i + 1..];
                return Ok(unescape(&body[..i]));
            }
            _ => {}
        }
    }
    Err("a quote is not closed".into())
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some(c @ ('\\' | '"'))) => out.push(c),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

fn read_exemplar(text: &str, sample_ms: i64) -> Result<Exemplar, String> {
    let text = text.trim_start();
    let end =
        Some(text).filter(|t| t.starts_with('{')).and_then(|t| braces_end(t.as_bytes(), 0)).ok_or("an exemplar has no labels in {}")?;
    let mut words = text[end..].split_ascii_whitespace();
    let value = number(words.next().ok_or("an exemplar has no value")?)?;
    let timestamp_ms = words.next().map_or(Ok(sample_ms), seconds)?;
    let labels = Labels::from_pairs(labels(&text[..end])?).map_err(|e: Error| e.to_string())?;
    Ok(Exemplar { labels, value, timestamp_ms })
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Seconds with fraction, to the nearest millisecond.
fn seconds(text: &str) -> Result<i64, String> {
    let millis = (number(text)? * 1000.0).round();
    // Beyond this floats are not exact, and no clock gets there.
    if millis.abs() < 2f64.powi(53) { Ok(millis as i64) } else { Err(format!("timestamp {text:?} is not a time in seconds")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_of(line: &str) -> (Vec<(String, String)>, f64, i64) {
        match parse(line, Flavour::OpenMetrics).expect(line) {
            Line::Sample(s) => (labels(s.series).expect(line), s.value, s.timestamp_ms),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn samples_in_all_spellings() {
        assert_eq!(sample_of("up 1 1700000000.5"), (pairs(&[("__name__", "up")]), 1.0, 1_700_000_000_500));
        let quoted = pairs(&[("__name__", "m"), ("a", "x }\"\\ \n"), ("b", "")]);
        assert_eq!(sample_of("m{a=\"x }\\\"\\\\ \\n\", b=\"\"} -2e3 1.001"), (quoted, -2000.0, 1001));
        assert_eq!(sample_of("{\"my.metric\",\"a b\"=\"1\"} 1 2").0, pairs(&[("__name__", "my.metric"), ("a b", "1")]));
        assert_eq!(sample_of("{__name__=\"up\", job=\"x\"} 1 2").0, pairs(&[("__name__", "up"), ("job", "x")]));
        assert_eq!(sample_of("a_total +Inf 2 st@1.5").1, f64::INFINITY);
        assert!(sample_of("a NaN 0").1.is_nan());
        let Ok(Line::Sample(s)) = parse("b_bucket{le=\"1\"} 3 4 # {trace_id=\"t#1\"} 0.5 3.25", Flavour::OpenMetrics) else { panic!() };
        let exemplar = s.exemplar.expect("there is one");
        assert_eq!((exemplar.value, exemplar.timestamp_ms, exemplar.labels.get("trace_id")), (0.5, 3250, Some("t#1")));
        let Ok(Line::Sample(s)) = parse("up 1 1700000000500", Flavour::Prometheus) else { panic!() };
        assert_eq!(s.timestamp_ms, 1_700_000_000_500);
    }

    #[test]
    fn comments() {
        assert_eq!(parse("# HELP a b \\\\ c", Flavour::OpenMetrics), Ok(Line::Help("a", "b \\ c".into())));
        assert_eq!(parse("# TYPE a gaugehistogram", Flavour::OpenMetrics), Ok(Line::Type("a", MetricType::GaugeHistogram)));
        assert_eq!(parse("# UNIT a seconds", Flavour::OpenMetrics), Ok(Line::Unit("a", "seconds")));
        assert_eq!(parse("# EOF", Flavour::OpenMetrics), Ok(Line::End));
        assert_eq!(parse("# a remark", Flavour::Prometheus), Ok(Line::Nothing));
        assert_eq!(parse("", Flavour::Prometheus), Ok(Line::Nothing));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, part) in [
            ("up", "no value"),
            ("up 1", "no timestamp"),
            ("up x 1", "\"x\" is not a number"),
            ("up 1 1e300", "not a time"),
            ("up{a=\"1\" 1 2", "not closed"),
            ("up{a=1} 1 2", "not quoted"),
            ("up{a} 1 2", "no = after"),
            ("up 1 2 3", "\"3\" after"),
            ("up 1 2 # x", "exemplar"),
            (" {", "not closed"),
            ("# TYPE a b", "type \"b\""),
        ] {
            let error = match parse(line, Flavour::OpenMetrics) {
                Ok(Line::Sample(s)) => labels(s.series).expect_err(line),
                other => other.expect_err(line),
            };
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
