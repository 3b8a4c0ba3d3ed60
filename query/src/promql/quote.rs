//! Quoted texts and numbers as Go writes and reads them, which is how Prometheus prints label values, strings and floats.

/// `text` in double quotes with Go's escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_escaped(&mut out, c, '"');
    }
    out.push('"');
    out
}

/// A character in single quotes with Go's escapes.
pub fn quote_char(c: char) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c, '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        '\x07' => out.push_str(r"\a"),
        '\x08' => out.push_str(r"\b"),
        '\x0c' => out.push_str(r"\f"),
        '\n' => out.push_str(r"\n"),
        '\r' => out.push_str(r"\r"),
        '\t' => out.push_str(r"\t"),
        '\x0b' => out.push_str(r"\v"),
        '\\' => out.push_str(r"\\"),
        _ if c == quote => out.extend(['\\', c]),
        ' '..='~' => out.push(c),
        _ if is_printable(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let escape = if code < 0x80 {
                format!(r"\x{code:02x}")
            } else if code < 0x1_0000 {
                format!(r"\u{code:04x}")
            } else {
                format!(r"\U{code:08x}")
            };
            out.push_str(&escape);
        }
    }
}

/// Whether a character outside ASCII shows. The standard library's debug escapes know; combining marks count as printable
/// behind another character only.
fn is_printable(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && "a".chars().chain([c]).collect::<String>().escape_debug().count() == 2
}

/// Whether a name needs no quotes as a label name.
pub fn is_plain_label(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a name needs no quotes as a metric name.
pub fn is_plain_metric(name: &str) -> bool {
    let mut bytes = name.bytes();
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b':';
    bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit())
}

/// Takes the quotes off a string token whose escapes the lexer has checked.
///
/// # Errors
/// If the escapes do not make UTF-8.
pub(super) fn unquote(token: &str) -> Result<String, String> {
    let inner = &token[1..token.len() - 1];
    if token.starts_with('`') {
        return Ok(inner.replace('\r', ""));
    }
    if !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let Some(escape) = chars.next() else { return Err("invalid syntax".into()) };
        let mut number = |digits: usize, radix: u32, first: Option<char>| {
            let mut value = first.and_then(|c| c.to_digit(radix)).unwrap_or(0);
            for _ in 0..digits {
                value = value * radix + chars.next()?.to_digit(radix)?;
            }
            Some(value)
        };
        let bad = || "invalid syntax".to_owned();
        match escape {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '\\' | '\'' | '"' => out.push(escape as u8),
            '0'..='7' => out.push(number(2, 8, Some(escape)).and_then(|n| u8::try_from(n).ok()).ok_or_else(bad)?),
            'x' => out.push(number(2, 16, None).ok_or_else(bad)? as u8),
            'u' | 'U' => {
                let code = number(if escape == 'u' { 4 } else { 8 }, 16, None).ok_or_else(bad)?;
                let c = char::from_u32(code).ok_or_else(bad)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(bad()),
        }
    }
    String::from_utf8(out).map_err(|_| "the string is not valid UTF-8".into())
}

/// A float as Go's `strconv.FormatFloat(v, 'f', -1, 64)`: shortest digits that read back the same, no exponent.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        value.to_string()
    }
}

/// Reads a number literal: decimal, `0x` hexadecimal, `0` octal, with `_` between digits, `Inf` and `NaN` in any case.
///
/// # Errors
/// If it is not one, or is too big for a float.
pub(super) fn parse_number(text: &str) -> Result<f64, String> {
    let bad = |why: &str| format!("error parsing number: strconv.ParseFloat: parsing {}: {why}", quote(text));
    if text.eq_ignore_ascii_case("inf") || text.eq_ignore_ascii_case("+inf") {
        return Ok(f64::INFINITY);
    }
    if text.eq_ignore_ascii_case("-inf") {
        return Ok(f64::NEG_INFINITY);
    }
    if text.eq_ignore_ascii_case("nan") {
        return Ok(f64::NAN);
    }
    let bytes = text.as_bytes();
    let hex = text.len() > 2 && (text.starts_with("0x") || text.starts_with("0X"));
    let is_digit = |b: u8| if hex { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
    for (i, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'_') {
        let before = i > 0 && (is_digit(bytes[i - 1]) || (hex && i == 2));
        if !before || !bytes.get(i + 1).is_some_and(|b| is_digit(*b)) {
            return Err(bad("invalid syntax"));
        }
    }
    let plain = text.replace('_', "");
    if hex {
        return u64::from_str_radix(&plain[2..], 16).map(|n| n as f64).map_err(|_| bad("value out of range"));
    }
    if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return u64::from_str_radix(&plain, 8).map(|n| n as f64).map_err(|_| bad("value out of range"));
    }
    match plain.parse::<f64>() {
        Ok(value) if value.is_infinite() => Err(bad("value out of range")),
        Ok(value) => Ok(value),
        Err(_) => Err(bad("invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(
            quote("a\"b\\c\n\t'\u{7}\u{1}é\u{301}\u{a0}\u{200b}😀\u{10ffff}"),
            "\"a\\\"b\\\\c\\n\\t'\\a\\x01é\u{301}\\u00a0\\u200b😀\\U0010ffff\""
        );
        assert_eq!(quote_char('\''), r"'\''");
        assert_eq!(quote_char('"'), "'\"'");
    }

    #[test]
    fn unquotes() {
        for (token, text) in [
            (r#""a\tb\\\"\x41\101\u00e9\U0001F600""#, "a\tb\\\"AA\u{e9}😀"),
            ("'a\\'b'", "a'b"),
            ("`a\\n`", "a\\n"),
            (r#""\xc3\xa9""#, "é"),
        ] {
            assert_eq!(unquote(token).as_deref(), Ok(text));
        }
        for token in [r#""\xff""#, r#""\400""#, r#""\ud800""#] {
            assert!(unquote(token).is_err(), "{token}");
        }
    }

    #[test]
    fn reads_numbers() {
        for (text, value) in [
            ("1_000", 1000.0),
            ("0x1F", 31.0),
            ("0x_ff", 255.0),
            ("010", 8.0),
            ("09", 9.0),
            (".5", 0.5),
            ("2.", 2.0),
            ("1e3", 1000.0),
            ("1.5e-2", 0.015),
            ("0", 0.0),
            ("iNf", f64::INFINITY),
        ] {
            assert_eq!(parse_number(text), Ok(value), "{text}");
        }
        for text in ["1__0", "1_", "_1", "0x", "1e400", "0xfffffffffffffffff", ""] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prints_floats() {
        for (value, text) in [
            (1e21, "1000000000000000000000"),
            (-0.0, "-0"),
            (1e-7, "0.0000001"),
            (f64::INFINITY, "+Inf"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
