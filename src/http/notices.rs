//! News that were given up: seen, and told again.

use axum::{Json, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use souk_actors::{
    domain::{Invalid, NoticeId},
    store::notices::NoticeView,
};

use super::{
    State,
    extract::{Id, Query, Staff, within},
    products::most,
};
use crate::problem::{Answer, Problem};

/// Which part of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// At most so many, 1 to 100; 50 where it is not given.
    limit: Option<i64>,
}

impl Part {
    /// Where the page begins, and how much it holds.
    pub(super) fn read(&self) -> Result<(Option<NoticeId>, i64), Problem> {
        let wrong = |_| Invalid::new("cursor", "is the next_cursor of a page");
        let before = self.cursor.as_deref().map(str::parse).transpose().map_err(wrong)?;
        Ok((before, most(Some(self.limit.unwrap_or(50)))?))
    }
}

/// A page of dead letters, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetters {
    /// Each with `notice_id`, `channel`, `order_id`, `kind`, `attempts`, `last_error`.
    #[schema(value_type = Vec<Object>)]
    dead_letters: Vec<NoticeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What a page that is full goes on after.
pub(super) fn next_cursor(shown: usize, most: i64, last: Option<NoticeId>) -> Option<String> {
    let full = i64::try_from(shown).is_ok_and(|shown| shown >= most);
    last.filter(|_| full).map(|id| id.to_string())
}

/// Mails and calls that were given up, newest first.
#[utoipa::path(
    get, path = "/v1/ops/dead-letters", tag = "ops", security(("staff" = [])), params(Part),
    responses((status = 200, body = DeadLetters), (status = 401, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn dead_letters(
    _: Staff,
    axum::extract::State(shop): State,
    Query(part): Query<Part>,
) -> Answer<Json<DeadLetters>> {
    let (before, most) = part.read()?;
    let dead_letters = within(shop.limits.timeout, shop.engine.dead_letters(before, most)).await?;
    let next_cursor = next_cursor(dead_letters.len(), most, dead_letters.last().map(|notice| notice.notice_id));
    Ok(Json(DeadLetters { dead_letters, next_cursor }))
}

/// Tell a dead letter again, as if for the first time.
#[utoipa::path(
    post, path = "/v1/ops/dead-letters/{notice_id}/replay", tag = "ops", security(("staff" = [])),
    params(("notice_id" = String, Path)),
    responses((status = 202), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn replay(
    _: Staff,
    axum::extract::State(shop): State,
    Id(notice_id): Id<NoticeId>,
) -> Answer<StatusCode> {
    within(shop.limits.timeout, shop.engine.replay_dead(notice_id)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Tell every dead letter again.
#[utoipa::path(
    post, path = "/v1/ops/dead-letters/replay", tag = "ops", security(("staff" = [])),
    responses((status = 202, body = Object), (status = 401, body = Problem))
)]
pub(crate) async fn replay_all(_: Staff, axum::extract::State(shop): State) -> Answer<(StatusCode, Json<Value>)> {
    let replayed = within(shop.limits.timeout, shop.engine.replay_all_dead()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "replayed": replayed }))))
}
