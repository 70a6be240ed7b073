//! How the engine is doing.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    State,
    extract::{Body, Query, Staff, within},
};
use crate::{
    problem::{Answer, Problem},
    telemetry,
};

/// How much of the tree.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Depth {
    /// Actors shown of each kind, the troubled and busy first; 100 where it is not given.
    limit: Option<usize>,
}

/// An actor by its name in the tree.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Name {
    #[schema(example = "sku/sku_…")]
    name: String,
}

/// By how much to move the clock.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Advance {
    advance_seconds: i64,
}

/// The clock after it was moved.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Now {
    now: DateTime<Utc>,
}

/// The supervision tree: every actor's status, mailbox, messages handled, restarts, last error.
#[utoipa::path(
    get, path = "/v1/ops/actors", tag = "ops", security(("staff" = [])), params(Depth),
    responses((status = 200, body = Object), (status = 401, body = Problem))
)]
pub(crate) async fn actors(
    _: Staff,
    axum::extract::State(shop): State,
    Query(depth): Query<Depth>,
) -> Json<souk_actors::Node> {
    Json(shop.engine.tree(depth.limit.unwrap_or(100).min(100_000)))
}

/// Let a quarantined actor start again.
#[utoipa::path(
    post, path = "/v1/ops/actors/release", tag = "ops", security(("staff" = [])), request_body = Name,
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn release(_: Staff, axum::extract::State(shop): State, Body(name): Body<Name>) -> Answer<StatusCode> {
    shop.engine.release(&name.name)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The journal: epoch, sequence, batches, conflicts, recoveries.
#[utoipa::path(
    get, path = "/v1/ops/journal", tag = "ops", security(("staff" = [])),
    responses((status = 200, body = Object), (status = 401, body = Problem))
)]
pub(crate) async fn journal(_: Staff, axum::extract::State(shop): State) -> Json<souk_actors::journal::JournalReport> {
    Json(shop.engine.journal())
}

/// Every sentence of the audit that is not true of the database; none is a clean audit.
#[utoipa::path(
    get, path = "/v1/ops/audit", tag = "ops", security(("staff" = [])),
    responses((status = 200, body = Object), (status = 401, body = Problem))
)]
pub(crate) async fn audit(_: Staff, axum::extract::State(shop): State) -> Answer<Json<Value>> {
    let findings = shop.engine.audit().await?;
    Ok(Json(json!({ "clean": findings.is_empty(), "findings": findings })))
}

/// Move the engine's clock forward, in development: fifteen minutes pass at once, and holds fall due.
#[utoipa::path(
    post, path = "/v1/ops/clock", tag = "ops", security(("staff" = [])), request_body = Advance,
    responses((status = 200, body = Now), (status = 401, body = Problem), (status = 404, body = Problem, description = "In production"))
)]
pub(crate) async fn clock(
    _: Staff,
    axum::extract::State(shop): State,
    Body(advance): Body<Advance>,
) -> Answer<Json<Now>> {
    if !shop.limits.movable_clock {
        return Err(Problem::not_found("page"));
    }
    if !(0..=31_536_000).contains(&advance.advance_seconds) {
        return Err(souk_actors::domain::Invalid::new("advance_seconds", "is a whole number from 0 to a year").into());
    }
    shop.engine.clock().advance(TimeDelta::seconds(advance.advance_seconds));
    Ok(Json(Now { now: shop.engine.clock().now() }))
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "ops", responses((status = 200)))]
pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// The shop serves: the journal runs and the database answers.
#[utoipa::path(get, path = "/readyz", tag = "ops", responses((status = 200), (status = 503, body = Problem)))]
pub(crate) async fn ready(axum::extract::State(shop): State) -> Answer<Json<Value>> {
    shop.engine.serving()?;
    let asked = async {
        let answer = sqlx::query("select 1").execute(&shop.pool).await;
        answer.map_err(|error| souk_actors::store::refusal(&error))
    };
    within(shop.limits.timeout, asked).await?;
    Ok(Json(json!({ "status": "ready" })))
}

/// Figures in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "ops", responses((status = 200, content_type = "text/plain")))]
pub(crate) async fn metrics(axum::extract::State(shop): State) -> Response {
    let journal = shop.engine.journal();
    metrics::gauge!("souk_journal_queued").set(journal.queued as f64);
    metrics::gauge!("souk_journal_epoch").set(journal.epoch as f64);
    metrics::counter!("souk_journal_batches_total").absolute(journal.batches);
    metrics::counter!("souk_journal_entries_total").absolute(journal.entries);
    metrics::counter!("souk_journal_conflicts_total").absolute(journal.conflicts);
    metrics::counter!("souk_journal_failures_total").absolute(journal.failures);
    metrics::counter!("souk_journal_recoveries_total").absolute(journal.recoveries);
    let text = telemetry::metrics().render();
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
