//! Which tenant a request is for, told by its headers.

use axum::http::HeaderMap;
use isobar_block::TenantId;
use serde::{Deserialize, Serialize};

/// Headers that name the tenant: that of Mimir, Cortex and Loki, and that of Thanos.
pub const TENANT_HEADERS: [&str; 2] = ["x-scope-orgid", "thanos-tenant"];

/// The section `tenancy` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// Whether the headers are read. If not, all requests are for `default_tenant`.
    pub enabled: bool,
    /// The tenant of requests that name none.
    pub default_tenant: String,
}

impl Default for TenantConfig {
    fn default() -> Self {
        Self { enabled: true, default_tenant: TenantId::DEFAULT.to_owned() }
    }
}

impl TenantConfig {
    /// Checks the name of the default tenant.
    ///
    /// # Errors
    /// A message that names the key and the rule.
    pub fn validate(&self) -> Result<(), String> {
        TenantId::new(&self.default_tenant).map(drop).map_err(|e| format!("tenancy.default_tenant: {e}"))
    }

    /// The tenant of a request.
    ///
    /// # Errors
    /// A message for a 400, if the name is not valid or two headers name different tenants.
    pub fn of_request(&self, headers: &HeaderMap) -> Result<TenantId, String> {
        let mut found: Option<&str> = None;
        if self.enabled {
            for header in TENANT_HEADERS {
                for value in headers.get_all(header) {
                    let name = value.to_str().map_err(|_| format!("header {header} is not ASCII"))?.trim();
                    if found.is_some_and(|other| other != name) {
                        return Err(format!("headers {} name different tenants; send one", TENANT_HEADERS.join(" and ")));
                    }
                    found = Some(name);
                }
            }
        }
        TenantId::new(found.unwrap_or(&self.default_tenant)).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(config: &TenantConfig, headers: &[(&'static str, &'static str)], expected: Result<&str, &str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("header"));
        }
        match (config.of_request(&map), expected) {
            (Ok(tenant), Ok(name)) => assert_eq!(tenant.as_str(), name),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (got, _) => panic!("{headers:?} gave {got:?}"),
        }
    }

    #[test]
    fn reads_either_header() {
        let config = TenantConfig::default();
        check(&config, &[], Ok("default"));
        check(&config, &[("x-scope-orgid", "team-a")], Ok("team-a"));
        check(&config, &[("thanos-tenant", "team-a")], Ok("team-a"));
        check(&config, &[("x-scope-orgid", "team-a"), ("thanos-tenant", "team-a")], Ok("team-a"));
        check(&config, &[("x-scope-orgid", "team-a"), ("thanos-tenant", "team-b")], Err("different tenants"));
        check(&config, &[("x-scope-orgid", "a"), ("x-scope-orgid", "b")], Err("different tenants"));
        for bad in ["", "a|b", "../x", "a/b", ".."] {
            check(&config, &[("x-scope-orgid", bad)], Err("not a tenant name"));
        }
    }

    #[test]
    fn can_be_turned_off() {
        let config = TenantConfig { enabled: false, default_tenant: "only".into() };
        check(&config, &[("x-scope-orgid", "../x")], Ok("only"));
        assert!(TenantConfig { default_tenant: "a b".into(), ..config }.validate().is_err());
    }
}
