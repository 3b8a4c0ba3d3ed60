//! `web-config.yml` in the form of Prometheus's exporter toolkit: TLS and basic auth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Error;
use super::fields::{Fields, to_redacted_yaml};
use super::yaml::{self, Node, Value};

/// What the file says. The default is no TLS and no users.
#[derive(Clone, Debug, Default)]
pub struct WebFile {
    /// Certificate chain and key.
    pub tls: Option<Tls>,
    /// bcrypt hashes by user name.
    pub users: BTreeMap<String, String>,
    /// Headers of every answer.
    pub headers: Vec<(String, String)>,
    /// What has no effect here.
    pub warnings: Vec<String>,
    tree: Option<Node>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file with the chain, leaf first.
    pub cert_file: PathBuf,
    /// PEM file with the key.
    pub key_file: PathBuf,
    /// PEM file with the authorities of client certificates, if these are asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client must have a certificate.
    pub require_client_certificate: bool,
}

/// Headers that the toolkit lets a user set.
const HEADERS: [&str; 5] =
    ["Content-Security-Policy", "X-Frame-Options", "X-Content-Type-Options", "X-XSS-Protection", "Strict-Transport-Security"];

impl WebFile {
    /// Reads a file; without one, the default.
    ///
    /// # Errors
    /// [`Error`] with file and line.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
            .map_err(|reason| Error::File { path: path.display().to_string(), reason })
    }

    /// Reads a text; paths in it are relative to `base`.
    ///
    /// # Errors
    /// Line and reason.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let root = yaml::parse(text)?;
        let mut file = Self { tree: Some(root.clone()), ..Self::default() };
        let mut fields = Fields::of(root, "")?;
        if let Some(node) = fields.node("tls_server_config") {
            file.read_tls(node, base)?;
        }
        if let Some(node) = fields.node("basic_auth_users") {
            file.read_users(node)?;
        }
        let mut http = fields.section("http_server_config")?;
        let mut headers = http.section("headers")?;
        for name in HEADERS {
            if let Some(value) = headers.text(name)? {
                file.headers.push((name.to_owned(), value));
            }
        }
        headers.finish(&[])?;
        file.warnings.extend(http.finish(&["http2"])?);
        file.warnings.extend(fields.finish(&["rate_limit"])?);
        Ok(file)
    }

    fn read_tls(&mut self, node: Node, base: &Path) -> Result<(), String> {
        let mut fields = Fields::of(node, "tls_server_config")?;
        let cert_file = base.join(fields.required("cert_file")?);
        let key_file = base.join(fields.required("key_file")?);
        let client_ca_file = fields.text("client_ca_file")?.map(|f| base.join(f));
        let client_auth = fields.text("client_auth_type")?.unwrap_or_else(|| "NoClientCert".into());
        let require_client_certificate = match client_auth.as_str() {
            "NoClientCert" | "VerifyClientCertIfGiven" => false,
            "RequireAndVerifyClientCert" => true,
            other => {
                return Err(format!(
                    "tls_server_config.client_auth_type {other:?} is not supported; use NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
                ));
            }
        };
        if client_auth != "NoClientCert" && client_ca_file.is_none() {
            return Err(format!("tls_server_config.client_auth_type {client_auth} needs client_ca_file"));
        }
        let client_ca_file = client_ca_file.filter(|_| client_auth != "NoClientCert");
        let unused =
            ["min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences", "client_allowed_sans"];
        if fields.node("client_allowed_sans").is_some() {
            return Err("tls_server_config.client_allowed_sans is not supported; limit client certificates by their authority".into());
        }
        self.warnings.extend(fields.finish(&unused)?);
        self.tls = Some(Tls { cert_file, key_file, client_ca_file, require_client_certificate });
        Ok(())
    }

    fn read_users(&mut self, node: Node) -> Result<(), String> {
        let Value::Map(entries) = node.value else {
            return if node.value == Value::Empty {
                Ok(())
            } else {
                Err(format!("line {}: basic_auth_users must map names to bcrypt hashes", node.line))
            };
        };
        for (key, node) in entries {
            let Value::Text(hash) = node.value else {
                return Err(format!("line {}: the hash of user {:?} must be a text", node.line, key.text));
            };
            if key.text.is_empty() || key.text.contains(':') {
                return Err(format!("line {}: user name {:?} is empty or has a colon", key.line, key.text));
            }
            hash.parse::<bcrypt::HashParts>().map_err(|_| {
                format!("line {}: the value of user {:?} is not a bcrypt hash; make one with `htpasswd -nBC 10 NAME`", node.line, key.text)
            })?;
            self.users.insert(key.text, hash);
        }
        Ok(())
    }

    /// The file without its secrets; empty if there is none.
    pub fn to_redacted_yaml(&self, indent: usize) -> String {
        let users: Vec<&str> = self.users.keys().map(String::as_str).collect();
        self.tree.as_ref().map_or_else(String::new, |tree| to_redacted_yaml(tree, indent, &|key| users.contains(&key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$ncR1PgAsVDHRIAwJxSGsb.TvVZ5b/GwN0XJQDhzUeJzsbhQmO6JMC";

    #[test]
    fn reads_the_toolkits_file() {
        let yaml = format!(
            "tls_server_config:\n  cert_file: a.pem\n  key_file: /b.pem\n  min_version: TLS12\nbasic_auth_users:\n  alice: {HASH}\n"
        );
        let file = WebFile::parse(&yaml, Path::new("/etc/isobar")).expect("parses");
        let tls = file.tls.as_ref().expect("has TLS");
        assert_eq!((tls.cert_file.to_str(), tls.key_file.to_str()), (Some("/etc/isobar/a.pem"), Some("/b.pem")));
        assert_eq!(file.users.keys().collect::<Vec<_>>(), ["alice"]);
        assert_eq!(file.warnings, ["line 4: min_version has no effect in Isobar"]);
        let shown = file.to_redacted_yaml(0);
        assert!(shown.contains("alice: <secret>") && !shown.contains("$2y"), "{shown}");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for (yaml, part) in [
            ("tls_server_confg:\n  cert_file: a\n", "line 1: unknown key \"tls_server_confg\" (did you mean \"tls_server_config\"?)"),
            ("tls_server_config:\n  cert_file: a\n", "tls_server_config.key_file is missing"),
            ("basic_auth_users:\n  alice: secret\n", "line 2: the value of user \"alice\" is not a bcrypt hash"),
            ("basic_auth_users: [alice]\n", "line 1: basic_auth_users must map"),
            ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAnyClientCert}", "is not supported"),
        ] {
            let error = WebFile::parse(yaml, Path::new("")).expect_err(yaml);
            assert!(error.contains(part), "{error}");
        }
    }
}
