//! Merchants' subscriptions to events, and what became of every call.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use souk_actors::{
    CommandKey, Resubscribe, Subscribe,
    domain::{Invalid, NoticeId, Subscription, SubscriptionId, clean},
    store::notices::DeliveryView,
};

use super::{
    State,
    extract::{Body, Id, Ids, Query, Staff, fingerprint, idempotency_key, within},
    notices::{Part, next_cursor},
};
use crate::{
    gateways::merchants::new_secret,
    problem::{Answer, Problem},
    shop::Shop,
};

/// A subscription to be made.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscriptionRequest {
    #[schema(example = "https://merchant.example/souk")]
    url: String,
    /// `order.confirmed`, `order.shipped` … as in an order's timeline, or `*` for all.
    #[schema(example = json!(["order.confirmed"]))]
    events: Vec<String>,
    #[serde(default)]
    description: String,
}

/// What of a subscription is to change; what is not given stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscriptionUpdate {
    url: Option<String>,
    events: Option<Vec<String>>,
    description: Option<String>,
    /// One that was disabled is called again, from now on.
    enabled: Option<bool>,
}

/// A subscription as staff see it.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SubscriptionView {
    #[schema(value_type = String)]
    subscription_id: SubscriptionId,
    url: String,
    events: Vec<String>,
    description: String,
    enabled: bool,
    /// Why it is not called.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_because: Option<String>,
    /// Since when no call has gone well.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// What calls are signed with (Standard Webhooks). Told once, when the subscription is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<Subscription> for SubscriptionView {
    fn from(subscription: Subscription) -> Self {
        Self {
            subscription_id: subscription.id,
            url: subscription.url,
            events: subscription.events,
            description: subscription.description,
            enabled: subscription.disabled.is_none(),
            disabled_because: subscription.disabled,
            failing_since: subscription.failing_since,
            created_at: subscription.created_at,
            secret: None,
        }
    }
}

/// Every subscription.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Subscriptions {
    subscriptions: Vec<SubscriptionView>,
}

/// A page of deliveries, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Deliveries {
    /// Each with `notice_id` (the call's `webhook-id`), `order_id`, `kind`, `state` and its `calls`.
    #[schema(value_type = Vec<Object>)]
    deliveries: Vec<DeliveryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Subscribe an address to events. Its secret is in this answer and in no other; the same Idempotency-Key again finds the
/// same subscription, with its secret.
#[utoipa::path(
    post, path = "/v1/admin/webhook-subscriptions", tag = "staff", request_body = SubscriptionRequest,
    security(("staff" = [])), params(("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = SubscriptionView),
        (status = 200, body = SubscriptionView, description = "The same key again: the same subscription"),
        (status = 401, body = Problem), (status = 422, body = Problem)
    )
)]
pub(crate) async fn subscribe(
    _: Staff,
    axum::extract::State(shop): State,
    headers: HeaderMap,
    Body(request): Body<SubscriptionRequest>,
) -> Answer<(StatusCode, Json<SubscriptionView>)> {
    let key = idempotency_key(&headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let fingerprint = fingerprint("subscribe", &request)?;
    let wish = Subscribe {
        url: callable(&shop, &request.url)?,
        secret: new_secret(),
        events: request.events,
        description: described(&request.description)?,
        key: CommandKey { principal: "staff".to_owned(), key, fingerprint },
    };
    let (made, replayed) = within(shop.limits.timeout, shop.engine.subscribe(wish)).await?;
    let secret = Some(made.secret.clone());
    let status = if replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(SubscriptionView { secret, ..made.into() })))
}

/// Every subscription, in the order in which they were made.
#[utoipa::path(
    get, path = "/v1/admin/webhook-subscriptions", tag = "staff", security(("staff" = [])),
    responses((status = 200, body = Subscriptions), (status = 401, body = Problem))
)]
pub(crate) async fn list(_: Staff, axum::extract::State(shop): State) -> Json<Subscriptions> {
    let subscriptions = shop.engine.subscriptions().into_iter().map(Into::into).collect();
    Json(Subscriptions { subscriptions })
}

/// A subscription.
#[utoipa::path(
    get, path = "/v1/admin/webhook-subscriptions/{subscription_id}", tag = "staff", security(("staff" = [])),
    params(("subscription_id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn show(
    _: Staff,
    axum::extract::State(shop): State,
    Id(id): Id<SubscriptionId>,
) -> Answer<Json<SubscriptionView>> {
    Ok(Json(shop.engine.subscription(id)?.into()))
}

/// Change a subscription, or have a disabled one called again.
#[utoipa::path(
    patch, path = "/v1/admin/webhook-subscriptions/{subscription_id}", tag = "staff", request_body = SubscriptionUpdate,
    security(("staff" = [])), params(("subscription_id" = String, Path)),
    responses((status = 200, body = SubscriptionView), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn update(
    _: Staff,
    axum::extract::State(shop): State,
    Id(id): Id<SubscriptionId>,
    Body(update): Body<SubscriptionUpdate>,
) -> Answer<Json<SubscriptionView>> {
    let wish = Resubscribe {
        url: update.url.as_deref().map(|url| callable(&shop, url)).transpose()?,
        events: update.events,
        description: update.description.as_deref().map(described).transpose()?,
        enabled: update.enabled,
    };
    let changed = within(shop.limits.timeout, shop.engine.resubscribe(id, wish)).await?;
    Ok(Json(changed.into()))
}

/// End a subscription, with everything that was on its way to it.
#[utoipa::path(
    delete, path = "/v1/admin/webhook-subscriptions/{subscription_id}", tag = "staff", security(("staff" = [])),
    params(("subscription_id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn unsubscribe(
    _: Staff,
    axum::extract::State(shop): State,
    Id(id): Id<SubscriptionId>,
) -> Answer<StatusCode> {
    within(shop.limits.timeout, shop.engine.unsubscribe(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Call a subscription's address now, once, with an event of type `souk.test`; the answer says how it went.
#[utoipa::path(
    post, path = "/v1/admin/webhook-subscriptions/{subscription_id}/test", tag = "staff", security(("staff" = [])),
    params(("subscription_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn test(
    _: Staff,
    axum::extract::State(shop): State,
    Id(id): Id<SubscriptionId>,
) -> Answer<Json<Value>> {
    let subscription = shop.engine.subscription(id)?;
    let webhook_id = NoticeId(shop.engine.ids(1).await?.start).to_string();
    let delivery = shop.merchants.ping(&webhook_id, &subscription).await;
    let error = delivery.end.as_ref().err().map(ToString::to_string);
    Ok(Json(json!({ "delivered": error.is_none(), "status": delivery.status, "error": error, "said": delivery.said })))
}

/// What was and is to be told to a subscription, with every call that was made, newest first.
#[utoipa::path(
    get, path = "/v1/admin/webhook-subscriptions/{subscription_id}/deliveries", tag = "staff", security(("staff" = [])),
    params(("subscription_id" = String, Path), Part),
    responses((status = 200, body = Deliveries), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn deliveries(
    _: Staff,
    axum::extract::State(shop): State,
    Id(id): Id<SubscriptionId>,
    Query(part): Query<Part>,
) -> Answer<Json<Deliveries>> {
    let (before, most) = part.read()?;
    let deliveries = within(shop.limits.timeout, shop.engine.deliveries(id, before, most)).await?;
    let next_cursor = next_cursor(deliveries.len(), most, deliveries.last().map(|one| one.notice.notice_id));
    Ok(Json(Deliveries { deliveries, next_cursor }))
}

/// Tell one thing again, under the same `webhook-id`.
#[utoipa::path(
    post, path = "/v1/admin/webhook-subscriptions/{subscription_id}/deliveries/{notice_id}/replay", tag = "staff",
    security(("staff" = [])), params(("subscription_id" = String, Path), ("notice_id" = String, Path)),
    responses((status = 202), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn replay(
    _: Staff,
    axum::extract::State(shop): State,
    Ids(id, notice_id): Ids<SubscriptionId, NoticeId>,
) -> Answer<StatusCode> {
    within(shop.limits.timeout, shop.engine.replay_delivery(id, notice_id)).await?;
    Ok(StatusCode::ACCEPTED)
}

fn callable(shop: &Shop, url: &str) -> Result<String, Invalid> {
    let url = clean("url", url, 2_000)?;
    shop.merchants.check(&url).map(String::from).map_err(|problem| Invalid::new("url", problem))
}

fn described(text: &str) -> Result<String, Invalid> {
    clean("description", text, 500)
}
