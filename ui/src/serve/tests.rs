//! The assembled routes over a real store in a temporary folder, without a socket.

use axum::body::Body;
use axum::http::{Request, header};
use axum::response::Response;

use super::*;

struct Server {
    _folder: tempfile::TempDir,
    front: Arc<Front>,
    shared: Shared,
}

impl Server {
    async fn start(flags: &[(&str, &str)]) -> Self {
        Self::start_with(None, flags).await
    }

    async fn start_with(file: Option<std::path::PathBuf>, flags: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = folder.path().join("data").display().to_string();
        let flags = flags.iter().copied().chain([("data", data.as_str())]).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let inputs = Inputs { file, flags: flags.collect(), ..Inputs::default() };
        let loaded = inputs.load().expect("valid");
        let config = loaded.config.clone();
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let live: Live = Arc::new(RwLock::new(Arc::new(loaded)));
        let facts = Facts::new(Arc::clone(&live), metrics.clone());
        let (parts, store_description) = open(&config, &mut registry, facts).await.expect("opens");
        let prefix = config.route_prefix().expect("valid");
        let front_config = FrontConfig { prefix: prefix.clone(), cors_origin: String::new() };
        let front = Arc::new(Front::new(front_config, Auth::new(Default::default()), metrics.clone()).expect("valid"));
        let shared = Shared(Arc::new(State {
            inputs,
            live,
            front: Arc::clone(&front),
            parts,
            registry: Arc::new(registry),
            metrics,
            tls_config: None,
            tls: false,
            rate: status::Rate::new(),
            started: Instant::now(),
            prefix,
            instance: "127.0.0.1:9292".into(),
            store_description,
            stop: watch::channel(false).0,
        }));
        front.open(routes(&shared));
        Self { _folder: folder, front, shared }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = headers.iter().fold(Request::builder().method(method).uri(path), |r, (n, v)| r.header(*n, *v));
        self.front.handle(request.body(Body::empty()).expect("is a request")).await
    }

    async fn text(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let response = self.send("GET", path, headers).await;
        assert_eq!(response.status(), 200, "{path}");
        let bytes = axum::body::to_bytes(response.into_body(), 16 << 20).await.expect("is read");
        String::from_utf8(bytes.to_vec()).expect("is text")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_page_is_strict_and_says_how_to_connect() {
    let server = Server::start(&[]).await;
    let response = server.send("GET", "/", &[("host", "metrics.example:9292")]).await;
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("is text").to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let page = server.text("/", &[("host", "metrics.example:9292")]).await;
    assert!(page.contains("  - url: http://metrics.example:9292/api/v1/write"), "{page}");
    assert!(page.contains("<html lang=\"en\">") && !page.contains("{{"), "{page}");
    let hostile = server.text("/", &[("host", "<script>alert(1)</script>")]).await;
    assert!(hostile.contains("http://127.0.0.1:9292/api/v1/write") && !hostile.contains("alert(1)"), "{hostile}");
    for (file, kind) in [("/start.js", "text/javascript"), ("/start.css", "text/css")] {
        let response = server.send("GET", file, &[]).await;
        assert!(response.headers()[header::CONTENT_TYPE].to_str().is_ok_and(|t| t.starts_with(kind)), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_in_every_link() {
    let server = Server::start(&[("web.external-url", "https://m.example/isobar/")]).await;
    let page = server.text("/isobar/", &[]).await;
    for part in ["src=\"/isobar/start.js\"", "data-prefix=\"/isobar\"", "url: https://m.example/isobar/api/v1/write"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("href=\"/metrics"), "{page}");
    assert_eq!(server.send("GET", "/metrics", &[]).await.status(), 404);
    server.text("/isobar/metrics", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_conventional_names() {
    let server = Server::start(&[]).await;
    server.text("/metrics", &[]).await;
    let text = server.text("/metrics", &[]).await;
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("has a type");
        assert!(name.starts_with("isobar_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(!name.ends_with("_total_total") && !name.contains("__"), "{name}");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
    }
    for line in text.lines().filter_map(|l| l.strip_prefix("# HELP ")) {
        assert!(line.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line} has no help");
    }
    for name in ["isobar_build_info", "process_resident_memory_bytes", "isobar_head_series", "isobar_http_requests_total", "isobar_blocks"]
    {
        assert!(names.contains(name), "{name} is missing from\n{text}");
    }
    let open = server.text("/metrics", &[("accept", "application/openmetrics-text; version=1.0.0")]).await;
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_things_is_off_until_it_is_turned_on() {
    let server = Server::start(&[]).await;
    let admin = ["flush", "delete_series", "clean_tombstones", "compact"].map(|name| format!("/api/v1/admin/tsdb/{name}"));
    for path in ["/-/reload", "/-/quit"].into_iter().chain(admin.iter().map(String::as_str)) {
        assert_eq!(server.send("POST", path, &[]).await.status(), 403, "{path}");
        assert_eq!(server.send("GET", path, &[]).await.status(), 405, "{path}");
    }
    let server = Server::start(&[("web.enable-lifecycle", "true"), ("web.enable-admin-api", "true")]).await;
    assert_eq!(server.send("POST", "/-/reload", &[]).await.status(), 200);
    assert_eq!(server.send("POST", "/api/v1/admin/tsdb/flush", &[]).await.status(), 204);
    let mut stop = server.shared.stop.subscribe();
    assert_eq!(server.send("PUT", "/-/quit", &[]).await.status(), 200);
    assert!(*stop.borrow_and_update());
    server.shared.parts.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_says_what_is_wrong() {
    let server = Server::start(&[("web.enable-admin-api", "true")]).await;
    let delete = "/api/v1/admin/tsdb/delete_series";
    for (path, headers, part) in [
        (delete.to_owned(), vec![], "no match[] parameter provided"),
        (format!("{delete}?match[]=%7B%7D"), vec![], "must contain at least one non-empty matcher"),
        (format!("{delete}?match[]=up["), vec![], "parse error"),
        (format!("{delete}?match[]=up&start=x"), vec![], "invalid parameter \"start\": cannot parse \"x\" to a valid timestamp"),
        (format!("{delete}?match[]=up&start=2&end=1"), vec![], "end timestamp must not be before start time"),
        (format!("{delete}?match[]=up"), vec![("x-scope-orgid", "a/b")], "is not a tenant name"),
        ("/api/v1/admin/tsdb/compact?wait=perhaps".to_owned(), vec![], "neither true nor false"),
    ] {
        let response = server.send("POST", &path, &headers).await;
        assert_eq!(response.status(), 400, "{path}");
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("is read");
        let body: serde_json::Value = serde_json::from_slice(&bytes).expect("is JSON");
        assert_eq!((&body["status"], &body["errorType"]), (&"error".into(), &"bad_data".into()), "{body}");
        assert!(body["error"].as_str().is_some_and(|e| e.contains(part)), "{path}: {body}");
    }
    for method in ["POST", "PUT"] {
        assert_eq!(server.send(method, &format!("{delete}?match[]=up&start=1&end=2"), &[]).await.status(), 204);
        assert_eq!(server.send(method, "/api/v1/admin/tsdb/clean_tombstones", &[]).await.status(), 204);
        assert_eq!(server.send(method, "/api/v1/admin/tsdb/compact", &[]).await.status(), 200);
    }
    assert_eq!(server.send("POST", "/api/v1/admin/tsdb/compact?wait=false", &[]).await.status(), 202);
    let form = Request::post(delete).header("content-type", "application/x-www-form-urlencoded").body(Body::from("match[]=up&end=5"));
    assert_eq!(server.front.handle(form.expect("is a request")).await.status(), 204);
    server.shared.parts.shutdown().await;
    let late = server.send("POST", "/api/v1/admin/tsdb/compact", &[]).await;
    assert_eq!(late.status(), 503, "what has been cancelled starts nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_needs_its_role_and_status_does_not() {
    let server = Server::start(&[("web.enable-admin-api", "true"), ("roles", "ingest,query")]).await;
    for path in ["compact", "clean_tombstones"] {
        let response = server.send("POST", &format!("/api/v1/admin/tsdb/{path}"), &[]).await;
        assert_eq!(
            (response.status(), response.headers().contains_key("retry-after")),
            (503.try_into().expect("a status"), true),
            "{path}"
        );
    }
    let status: serde_json::Value =
        serde_json::from_str(&server.text("/api/v1/status/compactor", &[("x-scope-orgid", "team-a")]).await).expect("is JSON");
    let data = &status["data"];
    assert_eq!((&data["tenant"], &data["compactor"]), (&"team-a".into(), &serde_json::Value::Null), "{status}");
    for list in ["plan", "tiers", "tombstones", "quarantined"] {
        assert_eq!(data[list], serde_json::json!([]), "{list}");
    }
    assert_eq!(server.text("/api/v1/status/tsdb/blocks", &[]).await, r#"{"data":{"blocks":[]},"status":"success"}"#);
    assert_eq!(server.send("GET", "/api/v1/status/tsdb/blocks", &[("x-scope-orgid", "a/b")]).await.status(), 400);
    server.shared.parts.shutdown().await;

    let server = Server::start(&[("web.enable-admin-api", "true"), ("roles", "query,compact")]).await;
    let response = server.send("POST", "/api/v1/admin/tsdb/delete_series?match[]=up", &[]).await;
    assert_eq!(response.status(), 503, "there are no heads here that could be flushed");
    server.shared.parts.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_path_is_served() {
    let server = Server::start(&[]).await;
    let description = server.text("/api/v1/openapi.yaml", &[]).await;
    let (_, paths) = description.split_once("\npaths:\n").expect("has paths");
    let (paths, _) = paths.split_once("\ncomponents:\n").expect("has components");
    let described: Vec<&str> = paths.lines().filter_map(|l| l.strip_prefix("  /")?.strip_suffix(':')).collect();
    assert!(described.len() > 20, "{described:?}");
    for path in described {
        let path = format!("/{}", path.replace("{name}", "job"));
        let status = server.send("PATCH", &path, &[]).await.status();
        assert_eq!(status, 405, "{path} is described, but no route");
    }
    assert_eq!(server.send("PATCH", "/api/v1/nothing", &[]).await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_all_or_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("isobar.yml");
    let write = |series: &str| {
        let text = format!("limits: {{max_active_series: {series}}}\ntenants: {{a: {{retention: {{raw: {series}d}}}}}}\n");
        std::fs::write(&file, text).expect("written");
    };
    write("5");
    let server = Server::start_with(Some(file.clone()), &[]).await;
    let limit = || server.shared.config().sections.limits.defaults.max_active_series;
    assert_eq!(limit(), 5);
    write("6");
    server.shared.reload().await.expect("is valid");
    assert_eq!(limit(), 6);
    let tenant = isobar_block::TenantId::new("a").expect("valid");
    let retention = || server.shared.parts.rules_of(&tenant).raw_retention;
    assert_eq!(retention(), Some(std::time::Duration::from_secs(6 * 86_400)));
    write("many");
    let error = server.shared.reload().await.expect_err("is not valid").to_string();
    assert!(error.contains("line 1: limits.max_active_series"), "{error}");
    assert_eq!((limit(), retention()), (6, Some(std::time::Duration::from_secs(6 * 86_400))));
    let metrics = server.text("/metrics", &[]).await;
    assert!(metrics.contains("isobar_config_last_reload_successful 0\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_does_not_give_the_admin_api_to_the_network() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("isobar.yml");
    std::fs::write(&file, "web: {listen_address: '0.0.0.0:9292'}\n").expect("written");
    let server = Server::start_with(Some(file.clone()), &[]).await;
    // The port that is open stays that of the network, whatever the file says now.
    std::fs::write(&file, "web: {listen_address: '127.0.0.1:9292', enable_admin_api: true}\n").expect("written");
    let error = server.shared.reload().await.expect_err("there are no users").to_string();
    assert!(error.contains("web.enable-admin-api with web.listen-address 0.0.0.0:9292"), "{error}");
    assert_eq!(server.send("POST", "/api/v1/admin/tsdb/flush", &[]).await.status(), 403);
}
