//! Requests of the commands that ask a running server.

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// Where a running server is.
#[derive(Args, Clone)]
pub struct ServerArgs {
    /// URL of the server, with its route prefix.
    #[arg(long, env = "ISOBAR_SERVER", default_value = "http://127.0.0.1:9292", value_name = "URL")]
    pub server: String,
    /// User and password for basic auth, `NAME:PASSWORD`.
    #[arg(long, env = "ISOBAR_USER", hide_env_values = true, value_name = "NAME:PASSWORD")]
    pub user: Option<String>,
    /// Tenant, sent as X-Scope-OrgID.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
}

impl ServerArgs {
    /// A request to a path below `/api/v1`, with credentials and tenant.
    ///
    /// # Errors
    /// If `--user` is not a name and a password.
    pub fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = format!("{}/api/v1/{path}", self.server.trim_end_matches('/'));
        let mut request = reqwest::Client::new().request(method, url);
        if let Some(user) = &self.user {
            let (name, password) = user.split_once(':').context("--user must be NAME:PASSWORD")?;
            request = request.basic_auth(name, Some(password));
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        Ok(request)
    }

    /// Sends a request and gives its answer's text, whatever the server says in it.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<(reqwest::StatusCode, String)> {
        let answer = request
            .send()
            .await
            .with_context(|| format!("no server answers at {}; start one with `isobar serve`, or name it with --server", self.server))?;
        Ok((answer.status(), answer.text().await?))
    }

    /// Sends a request whose answer is in the envelope of the API, and gives the envelope.
    ///
    /// # Errors
    /// If no server answers, or the answer is an error.
    pub async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let (status, body) = self.send(request).await?;
        let json: Value = serde_json::from_str(&body).with_context(|| format!("{} answered {status}: {}", self.server, body.trim()))?;
        if json["status"] != "success" {
            bail!("{}: {}", json["errorType"].as_str().unwrap_or("error"), json["error"].as_str().unwrap_or(&body));
        }
        Ok(json)
    }

    /// Asks a path with parameters and gives `data` of the answer.
    ///
    /// # Errors
    /// As [`ServerArgs::json`].
    pub async fn get(&self, path: &str, params: &[(&str, String)]) -> anyhow::Result<Value> {
        Ok(self.json(self.request(Method::GET, &with_params(path, params))?).await?["data"].take())
    }
}

/// A path with parameters behind it.
pub fn with_params(path: &str, params: &[(&str, String)]) -> String {
    if params.is_empty() { path.to_owned() } else { format!("{path}?{}", encode(params)) }
}

/// Parameters as a form.
pub fn encode(form: &[(&str, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}
