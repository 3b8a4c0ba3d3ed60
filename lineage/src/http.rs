//! The HTTP API of lineage: events in, answers out. Routes of each kind are in their own module.

pub(crate) mod refusal;
pub(crate) mod params;
mod openlineage;
mod marquez;
mod traces;
mod alerts;
mod answers;
mod facts;
mod capacity;
mod import;

use axum::Router;

use crate::service::Service;

/// The routes.
pub fn router(service: Service) -> Router {
    Router::new()
        .merge(openlineage::routes())
        .merge(marquez::routes())
        .merge(traces::routes())
        .merge(alerts::routes())
        .merge(answers::routes())
        .merge(facts::routes())
        .merge(capacity::routes())
        .merge(import::routes())
        .with_state(service)
}
