//! Tables over files, variables and flags.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::load::{Inputs, Loaded, Origin, to_yaml};
use super::setting::table;
use super::{Config, Error};

fn load(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Error> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("isobar.yml");
    if let Some(text) = file {
        std::fs::write(&path, text).expect("written");
    }
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    Inputs { file: file.map(|_| path), flags: map(flags), env: map(env) }.load()
}

#[test]
fn the_example_equals_the_defaults() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../isobar.example.yml");
    let expected = format!(
        "# Configuration of Isobar: every setting with its default.\n# The same settings are flags (--query.max-samples) and variables (ISOBAR_QUERY_MAX_SAMPLES).\n\n{}",
        to_yaml(&Config::default(), true)
    );
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(&path, &expected).expect("written");
    }
    let example = std::fs::read_to_string(&path).expect("isobar.example.yml is there");
    assert!(
        example == expected,
        "isobar.example.yml differs from the defaults; run this test with UPDATE_EXAMPLE=1 and look at the change"
    );
    let read = Inputs { file: Some(path), ..Inputs::default() }.load().expect("the example is valid");
    assert_eq!(to_yaml(&read.config, false), to_yaml(&Config::default(), false));
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    let file = Some("query:\n  max_samples: 1\n  memory: 1MiB\nlog:\n  level: debug\n");
    let env = [("ISOBAR_QUERY_MAX_SAMPLES", "2"), ("ISOBAR_QUERY_MEMORY", "2MiB")];
    let loaded = load(file, &env, &[("query.max-samples", "3")]).expect("valid");
    let engine = &loaded.config.sections.engine;
    assert_eq!((engine.max_samples, engine.query_memory_bytes, engine.lookback), (3, 2 << 20, Duration::from_secs(300)));
    for (key, origin) in [
        ("query.max-samples", Origin::Flag),
        ("query.memory", Origin::Environment),
        ("log.level", Origin::File),
        ("query.lookback-delta", Origin::Default),
    ] {
        assert_eq!(loaded.origins[key], origin, "{key}");
    }
}

#[test]
fn refuses_with_line_and_nearest_key() {
    for (yaml, part) in [
        ("web:\n  listen-adress: x\n", "line 2: unknown key \"listen-adress\" in section \"web\"; did you mean \"listen_address\"?"),
        ("qery:\n  timeout: 1m\n", "line 1: unknown key \"qery\"; did you mean \"query\"?"),
        ("web:\n  max_samples: 1\n", "line 2: unknown key \"max_samples\" in section \"web\"; it belongs to section \"query\""),
        ("zzzzzzz: 1\n", "known here are blocks, compactor, data, "),
        ("query:\n  max_samples: many\n", "line 2: query.max_samples: \"many\" is not a whole number"),
        ("query:\n  max_samples: [1]\n", "line 2: query.max_samples: expected one value, found a list"),
        ("query:\n  memory: 1.5GiB\n", "line 2: query.memory: \"1.5GiB\" is not a size"),
        ("query:\n  lookback_delta: 5\n", "line 2: query.lookback_delta: \"5\" is not a duration"),
        ("query: 5\n", "line 1: query is a section"),
        ("roles: [ingest, compactor]\n", "line 1: roles: role \"compactor\" is not known; known are all, ingest, query, compact"),
        ("log: {level: loud}\n", "line 1: log.level: \"loud\" is not one of"),
        ("web: {enable_admin_api: perhaps}\n", "neither true nor false"),
        ("- a\n", "line 1: the file must be a mapping"),
        ("data: a\ndata: b\n", "line 2: key \"data\" is given a second time, first in line 1"),
        (
            "limits:\n  tenants:\n    a:\n      max_active_serie: 1\n",
            "line 4: limits.tenants.a: unknown key \"max_active_serie\" (did you mean \"max_active_series\"?)",
        ),
        (
            "limits:\n  tenants:\n    a:\n      max_active_series: x\n",
            "line 4: limits.tenants.a.max_active_series: \"x\" is not a whole number",
        ),
        ("limits:\n  tenants:\n    a/b:\n      max_active_series: 1\n", "line 3: tenants: tenant: \"a/b\" is not a tenant name"),
        ("tenats: {}\n", "line 1: unknown key \"tenats\"; did you mean \"tenants\"?"),
        ("tenants: [a]\n", "line 1: tenants must be a mapping"),
        ("tenants:\n  a:\n    retentoin: {raw: 1d}\n", "line 3: tenants.a: unknown key \"retentoin\" (did you mean \"retention\"?)"),
        ("tenants:\n  a:\n    query: {timeout: 1m}\n", "a tenant can have limits, replicas and retention of its own"),
        ("tenants:\n  a:\n    retention: {row: 1d}\n", "line 3: tenants.a.retention: unknown key \"row\" (did you mean \"raw\"?)"),
        ("tenants:\n  a:\n    retention: {raw: long}\n", "line 3: retention.raw: \"long\" is not a duration"),
        ("tenants:\n  a:\n    limits: {max_active_series: x}\n", "line 3: tenants.a.limits.max_active_series: \"x\" is not a whole number"),
        (
            "limits:\n  tenants:\n    a: {ingestion_rate: 1}\ntenants:\n  a:\n    limits: {ingestion_rate: 1}\n",
            "line 6: limits of tenant \"a\" are given a second time",
        ),
        ("retention:\n  selected: 7d\n", "line 2: write a list of {match: '{team=\"x\"}', keep: 7d}"),
        ("retention:\n  selected:\n    - {mtch: x, keep: 7d}\n", "line 3: retention.selected.match is missing"),
        ("retention:\n  selected:\n    - {match: x, keep: 7d, team: a}\n", "line 3: unknown key \"team\" in \"retention.selected\""),
        ("retention:\n  selected:\n    - {match: '{a=}', keep: 7d}\n", "line 3: retention.selected: 1:4: parse error"),
        ("retention:\n  selected:\n    - {match: '{}', keep: 7d}\n", "at least one non-empty matcher"),
        ("retention:\n  selected:\n    - {match: x, keep: 0}\n", "keep of x is 0, which would delete every sample"),
    ] {
        let error = load(Some(yaml), &[], &[]).expect_err(yaml).to_string();
        assert!(error.contains(part), "{yaml}\n{error}");
    }
}

#[test]
fn refuses_wrong_flags_and_variables_by_name() {
    for (env, flags, part) in [
        (vec![("ISOBAR_QUERY_MEMORY", "lots")], vec![], "environment variable ISOBAR_QUERY_MEMORY: \"lots\" is not a size"),
        (vec![], vec![("query.memory", "lots")], "--query.memory: \"lots\" is not a size"),
        (vec![], vec![("web.listen-address", "nowhere")], "web.listen-address: \"nowhere\" is not host:port"),
        (vec![], vec![("web.external-url", "ftp://x/")], "web.external-url"),
        (vec![], vec![("web.route-prefix", "/a?b")], "web.route-prefix"),
        (vec![], vec![("web.cors.origin", "(")], "web.cors.origin"),
        (vec![], vec![("web.config.file", "/nonexistent/web.yml")], "/nonexistent/web.yml"),
    ] {
        let error = load(None, &env, &flags).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_admin_api_is_not_given_to_the_network() {
    let open = [("web.enable-admin-api", "true"), ("web.listen-address", "0.0.0.0:9292")];
    let error = load(None, &[], &open).expect_err("no users").to_string();
    assert!(error.contains("--web.config.file"), "{error}");
    load(None, &[], &[open[0]]).expect("loopback is fine");
    load(None, &[], &[open[1]]).expect("without the admin API is fine");
    let folder = tempfile::tempdir().expect("temporary folder");
    let web = folder.path().join("web.yml");
    std::fs::write(&web, "basic_auth_users:\n  a: $2y$04$ncR1PgAsVDHRIAwJxSGsb.TvVZ5b/GwN0XJQDhzUeJzsbhQmO6JMC\n").expect("written");
    load(None, &[], &[open[0], open[1], ("web.config.file", &web.display().to_string())]).expect("with users is fine");
}

#[test]
fn an_unknown_variable_is_only_mentioned() {
    let loaded = load(None, &[("ISOBAR_QUERY_MEMROY", "1MiB"), ("ISOBAR_SERVICE_HOST", "10.0.0.1"), ("ISOBAR_SERVER", "http://x")], &[])
        .expect("valid");
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("did you mean \"ISOBAR_QUERY_MEMORY\""), "{:?}", loaded.warnings);
}

#[test]
fn tenants_differ_where_the_file_says_so() {
    let yaml =
        "limits:\n  max_active_series: 10\n  tenants:\n    team-a:\n      max_active_series: 5\n      out_of_order_time_window: 1h\n";
    let loaded = load(Some(yaml), &[], &[]).expect("valid");
    let tenant = isobar_block::TenantId::new("team-a").expect("valid");
    let limits = loaded.config.sections.limits.of(&tenant);
    assert_eq!((limits.max_active_series, limits.out_of_order_time_window), (5, Duration::from_secs(3600)));
    let shown = to_yaml(&loaded.config, false);
    let again = load(Some(&shown), &[], &[]).expect("what is shown can be read");
    assert_eq!(to_yaml(&again.config, false), shown);
}

#[test]
fn rules_of_tenants_are_put_on_top_of_the_rules() {
    let yaml = "retention: {raw: 90d, size: 10GiB}\nreplicas: {labels: [replica, pod]}\ntenants:\n  team-a:\n    limits: {max_active_series: 5}\n    \
                retention:\n      raw: 30d\n      selected: [{match: '{team=\"x\"}', keep: 7d}, {match: 'up{a!~\"b\"}', keep: 2d}]\n  team-b:\n    \
                replicas: {labels: ''}\n    retention: {size: 0}\n";
    let day = Duration::from_secs(86_400);
    let loaded = load(Some(yaml), &[], &[("retention.raw", "60d"), ("retention.1h", "1y")]).expect("valid");
    let rules = loaded.config.rules();
    assert_eq!(rules.default.raw_retention, Some(60 * day), "a flag goes before the file");
    assert_eq!(rules.default.replica_labels, ["replica", "pod"]);
    let (a, b) = (&rules.tenants["team-a"], &rules.tenants["team-b"]);
    assert_eq!((a.raw_retention, a.one_hour_retention, a.max_bytes), (Some(30 * day), Some(365 * day), Some(10 << 30)));
    assert_eq!(a.selected_retention.iter().map(|s| s.keep).collect::<Vec<_>>(), [7 * day, 2 * day]);
    assert_eq!(crate::selector::show(&a.selected_retention[0].matchers), "{team=\"x\"}");
    assert_eq!((b.raw_retention, b.max_bytes, b.replica_labels.len()), (Some(60 * day), None, 0));
    let tenant = isobar_block::TenantId::new("team-a").expect("valid");
    assert_eq!(loaded.config.sections.limits.of(&tenant).max_active_series, 5);
    let shown = to_yaml(&loaded.config, false);
    let again = load(Some(&shown), &[], &[]).expect("what is shown can be read");
    assert_eq!(to_yaml(&again.config, false), shown);
    assert_eq!(again.config.rules().tenants["team-a"].selected_retention.len(), 2);
}

#[test]
fn selected_retention_can_be_a_flag() {
    let loaded = load(None, &[("ISOBAR_RETENTION_SELECTED", "[{match: '{team=\"x\"}', keep: 7d}]")], &[]).expect("valid");
    assert_eq!(loaded.config.rules().default.selected_retention.len(), 1);
    assert!(load(None, &[("ISOBAR_RETENTION_SELECTED", "")], &[]).expect("valid").config.rules().default.selected_retention.is_empty());
    let error = load(None, &[], &[("retention.selected", "7d")]).expect_err("no list").to_string();
    assert!(error.starts_with("--retention.selected: "), "{error}");
}

#[test]
fn refuses_what_would_lose_data_unawares() {
    for (flags, part) in [
        (vec![("retention.raw", "1d")], "retention: raw retention: raw data must be kept for 72 h"),
        (vec![("retention.raw", "1d"), ("retention.5m", "1d")], "or turn downsampling off"),
        (vec![("compactor.levels", "")], "compactor.levels: there must be at least one level"),
        (vec![("compactor.levels", "2h,8h,12h")], "compactor.levels: 12h after 8h is not a multiple of it"),
        (vec![("compactor.levels", "8h,2h")], "compactor.levels: 2h after 8h"),
        (vec![("compactor.levels", "2h,2h")], "compactor.levels: 2h after 2h"),
        (vec![("compactor.levels", "3h")], "begin with a multiple of 2h"),
        (vec![("compactor.levels", "0")], "compactor.levels: 0s"),
        (vec![("compactor.memory", "1MiB")], "compactor.memory: 1MiB is too little; use 96MiB or more"),
        (vec![("compactor.interval", "0")], "compactor.interval: 0 would never rest"),
        (vec![("replicas.labels", "__name__")], "replicas.labels: __name__ is the name of the metric"),
    ] {
        let error = load(None, &[], &flags).expect_err(part).to_string();
        assert!(error.contains(part), "{flags:?}\n{error}");
    }
    load(None, &[], &[("retention.raw", "1d"), ("compactor.downsampling", "false")]).expect("without buckets it is fine");
    load(None, &[], &[("retention.raw", "1d"), ("retention.5m", "1d"), ("retention.1h", "1d")]).expect("no bucket is promised");
    load(None, &[], &[("retention.raw", "3d"), ("compactor.levels", "4h, 1d")]).expect("is fine");
    let error = load(Some("tenants: {a: {retention: {raw: 1h}}}\n"), &[], &[]).expect_err("too short").to_string();
    assert!(error.contains("tenants.a.retention: raw retention"), "{error}");
    let loaded = load(None, &[], &[("compactor.delete-delay", "1m"), ("compactor.orphan-age", "10m")]).expect("only mentioned");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
}

#[test]
fn roles_are_a_list() {
    for (given, shown, names) in [
        ("all", "all", vec!["ingest", "query", "compact", "lineage"]),
        ("compact, query", "query,compact", vec!["query", "compact"]),
        ("lineage,ingest,query,compact", "all", vec!["ingest", "query", "compact", "lineage"]),
        ("ingest,query,compact", "ingest,query,compact", vec!["ingest", "query", "compact"]),
        ("compact", "compact", vec!["compact"]),
    ] {
        let roles = load(None, &[], &[("roles", given)]).expect("valid").config.roles;
        assert_eq!((roles.show().as_str(), roles.names()), (shown, names));
    }
}

#[test]
fn routes_get_the_prefix_of_the_external_url() {
    for (url, prefix, expected) in [
        ("", "", ""),
        ("https://m.example/isobar/", "", "/isobar"),
        ("https://m.example/isobar", "/", "/isobar"),
        ("", "a/b/", "/a/b"),
        ("https://m.example/x", "/y", "/y"),
    ] {
        let mut config = Config::default();
        config.web.external_url = url.into();
        config.web.route_prefix = prefix.into();
        let prefix_given = if prefix == "/" { "" } else { expected };
        assert_eq!(config.route_prefix().expect("valid"), prefix_given, "{url} {prefix}");
    }
}

#[test]
fn every_setting_has_one_name_and_a_sentence() {
    let rows = table();
    let mut names: Vec<_> = rows.iter().flat_map(|r| [r.env(), r.file_path().join(".")]).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two settings share a name");
    for row in rows {
        assert!(row.help.ends_with('.'), "{}", row.key);
        let mut config = Config::default();
        row.set(&mut config, &row.get(&Config::default())).unwrap_or_else(|e| panic!("{}: the default is refused: {e}", row.key));
    }
}
