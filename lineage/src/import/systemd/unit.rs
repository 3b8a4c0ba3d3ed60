//! The syntax of unit files, and what the names of units and of their folders mean.

/// What units can be.
const SUFFIXES: [&str; 11] = ["service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice", "scope", "device"];

/// Sections that unit files have.
const SECTIONS: [&str; 12] =
    ["Unit", "Service", "Socket", "Timer", "Path", "Mount", "Automount", "Swap", "Slice", "Scope", "Install", "X-Fleet"];

/// One assignment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub section: String,
    pub key: String,
    pub value: String,
}

/// What the folder that a file is in says about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place<'a> {
    /// A unit file.
    Unit(&'a str),
    /// An addition to a unit, to all units of a type, or to all whose name begins so.
    DropIn(&'a str),
    /// The link by which the first unit needs the second one, by the directive of this name.
    Link(&'a str, &'static str, &'a str),
}

/// Whether a name is that of a unit.
pub(super) fn is_unit_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, suffix)| !stem.is_empty() && SUFFIXES.contains(&suffix))
}

/// Whether a folder of this name belongs to a unit.
pub(super) fn is_folder_of_unit(name: &str) -> bool {
    let Some((unit, sort)) = name.rsplit_once('.') else { return false };
    matches!(sort, "d" | "wants" | "requires" | "upholds") && (is_unit_name(unit) || SUFFIXES.contains(&unit))
}

/// What a path is; `None` if it is nothing of systemd's.
pub(super) fn place(path: &str) -> Option<Place<'_>> {
    let mut parts = path.rsplit('/');
    let name = parts.next()?;
    let folder = parts.next().unwrap_or("");
    if is_folder_of_unit(folder)
        && let Some((unit, sort)) = folder.rsplit_once('.')
    {
        return match sort {
            "d" => name.ends_with(".conf").then_some(Place::DropIn(unit)),
            "wants" => is_unit_name(name).then_some(Place::Link(unit, "Wants", name)),
            "requires" => is_unit_name(name).then_some(Place::Link(unit, "Requires", name)),
            _ => is_unit_name(name).then_some(Place::Link(unit, "Upholds", name)),
        };
    }
    is_unit_name(name).then_some(Place::Unit(name))
}

/// Whether a path is one of a unit file, a drop-in or a link.
pub(crate) fn is_unit_path(path: &str) -> bool {
    place(path).is_some()
}

/// Whether a text begins as unit files do.
pub(crate) fn is_unit_text(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with(['#', ';']));
    first.and_then(|l| l.strip_prefix('[')?.strip_suffix(']')).is_some_and(|section| SECTIONS.contains(&section))
}

/// The assignments of a text, in their order. Lines that are none are left out, as systemd does.
pub(super) fn parse(text: &str) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut section = String::new();
    let mut joined = String::new();
    for line in text.lines() {
        let line = line.trim();
        // Comments may stand between the lines of a value that goes on.
        if line.starts_with(['#', ';']) || (line.is_empty() && joined.is_empty()) {
            continue;
        }
        if let Some(begin) = line.strip_suffix('\\') {
            joined.push_str(begin.trim_end());
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let whole = std::mem::take(&mut joined);
        if let Some(name) = whole.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.into();
        } else if let Some((key, value)) = whole.split_once('=') {
            out.push(Entry { section: section.clone(), key: key.trim().into(), value: value.trim().into() });
        }
    }
    out
}

/// The words of a value; quotes hold one together.
pub(super) fn words(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in value.chars() {
        match (c, quote) {
            ('"' | '\'', None) => (quote, begun) = (Some(c), true),
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => {
                if begun {
                    out.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, _) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        out.push(word);
    }
    out
}

/// A name's parts if it is that of an instance or a template: before the at sign, the instance, the suffix.
pub(super) fn template_parts(name: &str) -> Option<(&str, &str, &str)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    Some((prefix, instance, suffix))
}

/// The template of an instance; `None` if it is none.
pub(super) fn template_of(name: &str) -> Option<String> {
    let (prefix, instance, suffix) = template_parts(name)?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

/// Undoes the escaping of names: `-` is `/`, and `\xXX` a byte.
pub(super) fn unescape(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = rest.strip_prefix(b"\\x").and_then(|h| u8::from_str_radix(std::str::from_utf8(h.get(..2)?).ok()?, 16).ok());
        match (byte, hex) {
            (_, Some(byte)) => {
                out.push(byte);
                rest = &rest[4..];
                continue;
            }
            (b'-', _) => out.push(b'/'),
            (byte, _) => out.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path that a mount unit mounts at, by its name.
pub(super) fn mount_path(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".mount")?;
    Some(if stem == "-" { "/".into() } else { format!("/{}", unescape(stem)) })
}

/// The name of the unit that mounts at a path.
pub(super) fn mount_name(path: &str) -> String {
    let trimmed = path.trim_matches('/');
    let mut out = String::new();
    for (i, c) in trimmed.chars().enumerate() {
        match c {
            '/' => out.push('-'),
            c if c.is_ascii_alphanumeric() || "_:".contains(c) || (c == '.' && i > 0) => out.push(c),
            c => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
            }
        }
    }
    if out.is_empty() { "-.mount".into() } else { out + ".mount" }
}

/// The value with what stands for parts of the unit's name put in; `None` if something is in it that only the machine knows.
pub(super) fn expand(value: &str, name: &str, host: &str) -> Option<String> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            '%' => out.push('%'),
            // A template has no instance; what it refers to is the other template.
            'i' => out.push_str(instance),
            'I' => out.push_str(&unescape(instance)),
            'n' => out.push_str(name),
            'N' => out.push_str(stem),
            'p' => out.push_str(prefix),
            'P' => out.push_str(&unescape(prefix)),
            'j' => out.push_str(prefix.rsplit('-').next().unwrap_or(prefix)),
            'f' => out.push_str(&format!("/{}", unescape(if instance.is_empty() { prefix } else { instance }))),
            'H' | 'l' if !host.is_empty() => out.push_str(host),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax() {
        let text = "# c\n[Unit]\nRequires=a.service \\\n# in between\n  b.service\n;x\nnonsense\n[Service]\nExecStart=/bin/x --a=b\n";
        let entry = |section: &str, key: &str, value: &str| Entry { section: section.into(), key: key.into(), value: value.into() };
        assert_eq!(parse(text), [entry("Unit", "Requires", "a.service b.service"), entry("Service", "ExecStart", "/bin/x --a=b")]);
        assert_eq!(words(r#" a  "b c" d="e f" '' "#), ["a", "b c", "d=e f", ""]);
        assert!(is_unit_text("\n# x\n[X-Fleet]\n") && !is_unit_text("[tool]\n") && !is_unit_text("a: 1"));
        for (path, wanted) in [
            ("etc/web.service", Some(Place::Unit("web.service"))),
            ("web@.service.d/10-x.conf", Some(Place::DropIn("web@.service"))),
            ("service.d/10.conf", Some(Place::DropIn("service"))),
            ("a/multi-user.target.wants/web.service", Some(Place::Link("multi-user.target", "Wants", "web.service"))),
            ("a.service.requires/b.service", Some(Place::Link("a.service", "Requires", "b.service"))),
            ("nginx.conf.d/x.conf", None),
            ("conf.d/x.conf", None),
            ("x.yaml", None),
            (".service", None),
        ] {
            assert_eq!(place(path), wanted, "{path}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(expand("main@%i.service", "side@7.service", ""), Some("main@7.service".into()));
        assert_eq!(expand("%p-%j %n %N 100%%", "a-b@x.service", ""), Some("a-b-b a-b@x.service a-b@x 100%".into()));
        assert_eq!((expand("%H", "a.service", ""), expand("%H", "a.service", "h1")), (None, Some("h1".into())));
        assert_eq!((expand("%", "a.service", ""), expand("%b", "a.service", "")), (None, None));
        assert_eq!(
            (mount_path("var-lib-my\\x2ddata.mount"), mount_name("/var/lib/my-data")),
            (Some("/var/lib/my-data".into()), "var-lib-my\\x2ddata.mount".into())
        );
        assert_eq!((mount_path("-.mount"), mount_name("/")), (Some("/".into()), "-.mount".into()));
        assert_eq!(template_of("web@1.service").as_deref(), Some("web@.service"));
        assert_eq!((template_of("web@.service"), template_of("web.service")), (None, None));
        assert_eq!(unescape("a\\x2"), "a\\x2");
    }
}
