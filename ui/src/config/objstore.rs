//! `objstore.yml` in the form that Thanos users have: `type`, `config`, `prefix`.

use std::path::Path;
use std::sync::Arc;

use isobar_block::local::DurableLocal;
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, RetryConfig};

use super::Error;
use super::fields::{Fields, to_redacted_yaml};
use super::yaml::{self, Node};

/// Folder under `--data` that holds the objects when no store is configured.
pub const DEFAULT_FOLDER: &str = "objects";

/// Keys whose values are never shown.
const SECRETS: [&str; 7] = [
    "secret_key",
    "session_token",
    "encryption_key",
    "service_account",
    "storage_account_key",
    "storage_connection_string",
    "client_secret",
];

/// Settings of Thanos's clients that have no meaning for ours.
const WITHOUT_EFFECT: [&str; 16] = [
    "aws_sdk_auth",
    "put_user_metadata",
    "trace",
    "list_objects_version",
    "send_content_md5",
    "disable_multipart",
    "disable_dualstack",
    "part_size",
    "sts_endpoint",
    "use_grpc",
    "grpc_conn_pool_size",
    "chunk_size_bytes",
    "storage_create_container",
    "msi_resource",
    "reader_config",
    "pipeline_config",
];

/// What the file says.
#[derive(Debug)]
pub struct ObjstoreFile {
    store: Arc<dyn ObjectStore>,
    /// What it is, for people: `S3 bucket metrics`.
    pub description: String,
    /// What has no effect here.
    pub warnings: Vec<String>,
    tree: Node,
}

impl ObjstoreFile {
    /// Reads a file; `None` without one. Nothing is asked of the store.
    ///
    /// # Errors
    /// [`Error`] with file and line.
    pub fn load(path: Option<&Path>) -> Result<Option<Self>, Error> {
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
        Self::parse(&text).map(Some).map_err(|reason| Error::File { path: path.display().to_string(), reason })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Line and reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tree = yaml::parse(text)?;
        let mut fields = Fields::of(tree.clone(), "")?;
        let kind = fields.required("type")?;
        let prefix = fields.text("prefix")?.unwrap_or_default();
        let mut config = fields.section("config")?;
        let (store, description): (Arc<dyn ObjectStore>, String) = match kind.to_ascii_uppercase().as_str() {
            "FILESYSTEM" => filesystem(&mut config)?,
            "S3" => s3(&mut config)?,
            "GCS" => gcs(&mut config)?,
            "AZURE" => azure(&mut config)?,
            _ => return Err(format!("type {kind:?} is not supported; use FILESYSTEM, S3, GCS or AZURE")),
        };
        let mut warnings = config.finish(&WITHOUT_EFFECT)?;
        warnings.extend(fields.finish(&[])?);
        let prefix = prefix.trim_matches('/');
        let (store, description) = if prefix.is_empty() {
            (store, description)
        } else {
            let checked = object_store::path::Path::parse(prefix).map_err(|e| format!("prefix: {e}"))?;
            (Arc::new(PrefixStore::new(store, checked)) as Arc<dyn ObjectStore>, format!("{description}, prefix {prefix}"))
        };
        Ok(Self { store, description, warnings, tree })
    }

    /// The file without its secrets.
    pub fn to_redacted_yaml(&self, indent: usize) -> String {
        to_redacted_yaml(&self.tree, indent, &|key| SECRETS.contains(&key))
    }
}

/// The store of a configuration and what it is: the one of the file, or else local files below `data`.
///
/// # Errors
/// [`Error`] if the file is wrong or the folder cannot be made.
pub fn open(config_file: Option<&Path>, data: &Path) -> Result<(Arc<dyn ObjectStore>, String), Error> {
    match ObjstoreFile::load(config_file)? {
        Some(file) => Ok((file.store, file.description)),
        None => {
            let folder = data.join(DEFAULT_FOLDER);
            let store = DurableLocal::new(&folder)?;
            Ok((Arc::new(store), format!("local folder {}", folder.display())))
        }
    }
}

type Built = (Arc<dyn ObjectStore>, String);

fn filesystem(config: &mut Fields) -> Result<Built, String> {
    let directory = config.required("directory")?;
    let store = DurableLocal::new(&directory).map_err(|e| format!("config.directory: {e}"))?;
    Ok((Arc::new(store), format!("local folder {directory}")))
}

fn s3(config: &mut Fields) -> Result<Built, String> {
    let bucket = config.required("bucket")?;
    let insecure = config.switch("insecure")?;
    let mut builder =
        match (config.text("access_key")?, config.text("secret_key")?) {
            (Some(key), Some(secret)) => AmazonS3Builder::new().with_access_key_id(key).with_secret_access_key(secret),
            (None, None) => AmazonS3Builder::from_env(),
            _ => return Err(
                "config.access_key and config.secret_key go together; leave out both to use the AWS_… environment or the instance's role"
                    .into(),
            ),
        };
    builder =
        builder.with_bucket_name(&bucket).with_retry(retry(config)?).with_client_options(client_options(config)?.with_allow_http(insecure));
    if let Some(token) = config.text("session_token")? {
        builder = builder.with_token(token);
    }
    builder = builder.with_region(config.text("region")?.unwrap_or_else(|| "us-east-1".into()));
    let virtual_hosted = match config.text("bucket_lookup_type")?.as_deref() {
        None | Some("auto" | "path") => false,
        Some("virtual-hosted") => true,
        Some(other) => return Err(format!("config.bucket_lookup_type {other:?} is not one of auto, path, virtual-hosted")),
    };
    if let Some(endpoint) = config.text("endpoint")? {
        let scheme = if insecure { "http" } else { "https" };
        let host = endpoint.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let host = if virtual_hosted { format!("{bucket}.{host}") } else { host.to_owned() };
        builder = builder.with_endpoint(format!("{scheme}://{host}"));
    }
    builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    if config.switch("signature_version2")? {
        return Err("config.signature_version2 is not supported; use a store that understands version 4".into());
    }
    builder = s3_encryption(builder, config.section("sse_config")?)?;
    let store = builder.build().map_err(|e| format!("config: {e}"))?;
    Ok((Arc::new(store), format!("S3 bucket {bucket}")))
}

fn s3_encryption(builder: AmazonS3Builder, mut config: Fields) -> Result<AmazonS3Builder, String> {
    let kind = config.text("type")?;
    let (key_id, key_file) = (config.text("kms_key_id")?, config.text("encryption_key")?);
    config.finish(&["kms_encryption_context"])?;
    match kind.as_deref() {
        None => Ok(builder),
        Some("SSE-S3") => {
            let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>().map_err(|e| e.to_string())?;
            Ok(builder.with_config(key, "AES256"))
        }
        Some("SSE-KMS") => Ok(builder.with_sse_kms_encryption(key_id.ok_or("config.sse_config.kms_key_id is missing")?)),
        Some("SSE-C") => {
            let path = key_file.ok_or("config.sse_config.encryption_key, the path of a key file, is missing")?;
            let key = std::fs::read(&path).map_err(|e| format!("config.sse_config.encryption_key {path}: {e}"))?;
            Ok(builder.with_ssec_encryption(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key)))
        }
        Some(other) => Err(format!("config.sse_config.type {other:?} is not one of SSE-S3, SSE-KMS, SSE-C")),
    }
}

fn gcs(config: &mut Fields) -> Result<Built, String> {
    let bucket = config.required("bucket")?;
    let mut builder = match config.text("service_account")? {
        Some(json) => GoogleCloudStorageBuilder::new().with_service_account_key(json),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder.with_bucket_name(&bucket).with_retry(retry(config)?).with_client_options(client_options(config)?);
    if config.switch("no_auth")? {
        builder = builder.with_skip_signature(true);
    }
    let store = builder.build().map_err(|e| format!("config: {e}"))?;
    Ok((Arc::new(store), format!("GCS bucket {bucket}")))
}

fn azure(config: &mut Fields) -> Result<Built, String> {
    let container = config.required("container")?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&container)
        .with_retry(retry(config)?)
        .with_client_options(client_options(config)?);
    if config.text("storage_connection_string")?.is_some() {
        return Err("config.storage_connection_string is not supported; give storage_account and storage_account_key".into());
    }
    let account = config.required("storage_account")?;
    let set = [
        (AzureConfigKey::AccessKey, config.text("storage_account_key")?),
        (AzureConfigKey::ClientId, config.text("client_id")?.or(config.text("user_assigned_id")?)),
        (AzureConfigKey::ClientSecret, config.text("client_secret")?),
        (AzureConfigKey::AuthorityId, config.text("az_tenant_id")?),
    ];
    for (key, value) in set {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = config.text("endpoint")? {
        let host = endpoint.trim_start_matches("https://").trim_end_matches('/');
        let url = if host.starts_with("http://") { host.to_owned() } else { format!("https://{account}.{host}") };
        builder = builder.with_endpoint(url);
    }
    let store = builder.with_account(&account).build().map_err(|e| format!("config: {e}"))?;
    Ok((Arc::new(store), format!("Azure container {container} of {account}")))
}

fn retry(config: &mut Fields) -> Result<RetryConfig, String> {
    let mut retry = RetryConfig::default();
    if let Some(text) = config.text("max_retries")? {
        retry.max_retries = text.parse().map_err(|_| format!("config.max_retries: {text:?} is not a whole number"))?;
    }
    Ok(retry)
}

fn client_options(config: &mut Fields) -> Result<ClientOptions, String> {
    let mut http = config.section("http_config")?;
    let mut options = ClientOptions::new();
    if http.switch("insecure_skip_verify")? {
        options = options.with_allow_invalid_certificates(true);
    }
    let mut tls = http.section("tls_config")?;
    if let Some(path) = tls.text("ca_file")? {
        let pem = std::fs::read(&path).map_err(|e| format!("config.http_config.tls_config.ca_file {path}: {e}"))?;
        for certificate in
            object_store::Certificate::from_pem_bundle(&pem).map_err(|e| format!("config.http_config.tls_config.ca_file {path}: {e}"))?
        {
            options = options.with_root_certificate(certificate);
        }
    }
    if tls.switch("insecure_skip_verify")? {
        options = options.with_allow_invalid_certificates(true);
    }
    tls.finish(&["cert_file", "key_file", "server_name"])?;
    http.finish(&[
        "idle_conn_timeout",
        "response_header_timeout",
        "tls_handshake_timeout",
        "expect_continue_timeout",
        "max_idle_conns",
        "max_idle_conns_per_host",
        "max_conns_per_host",
        "disable_compression",
        "transport",
    ])?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_thanos_reads() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (yaml, description) in [
            (format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", folder.path().display()), format!("local folder {}", folder.path().display())),
            (
                "type: S3\nconfig:\n  bucket: metrics\n  endpoint: localhost:9000\n  insecure: true\n  access_key: a\n  secret_key: hidden\n  http_config: {idle_conn_timeout: 90s}\nprefix: a/b\n".into(),
                "S3 bucket metrics, prefix a/b".into(),
            ),
            ("type: AZURE\nconfig: {storage_account: acc, storage_account_key: aGlkZGVu, container: c}\n".into(), "Azure container c of acc".into()),
            ("type: GCS\nconfig: {bucket: b, no_auth: true}\n".into(), "GCS bucket b".into()),
        ] {
            let file = ObjstoreFile::parse(&yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"));
            assert_eq!(file.description, description);
            let shown = file.to_redacted_yaml(0);
            assert!(!shown.contains("hidden") && !shown.contains("aGlkZGVu"), "{shown}");
        }
    }

    #[test]
    fn refuses_with_line_and_remedy() {
        for (yaml, part) in [
            ("type: S3\nconfig:\n  bucket: b\n  acces_key: x\n  secret_key: y\n", "go together"),
            (
                "type: S3\nconfig:\n  bucket: b\n  endpont: x\n",
                "line 4: unknown key \"endpont\" in \"config\" (did you mean \"endpoint\"?)",
            ),
            ("type: SWIFT\nconfig: {}\n", "use FILESYSTEM, S3, GCS or AZURE"),
            ("config: {}\n", "type is missing"),
            ("type: S3\nconfig: {bucket: b, insecure: maybe}\n", "neither true nor false"),
            ("type: S3\nconfig: {}\n", "config.bucket is missing"),
        ] {
            let error = ObjstoreFile::parse(yaml).expect_err(yaml);
            assert!(error.contains(part), "{error}");
        }
    }
}
