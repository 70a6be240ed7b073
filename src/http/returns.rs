//! Goods that come back: buyers ask, staff agree, receive and look.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::{
    CommandKey,
    domain::{
        Command, Inspected, Invalid, OrderId, ReturnId, ReturnLine, ReturnState, ReturnStep, Units, Wanted, Who, clean,
    },
    store::read::ReturnView,
};

use super::{
    State,
    commands::{carry_out, said, staff_key},
    extract::{Body, Id, OwnOrder, Query, Staff, fingerprint, idempotency_key, within},
    products::most,
    refunds::LineUnits,
};
use crate::{
    problem::{Answer, Problem},
    shop::Shop,
};

/// Returns on one page where nobody says how many.
const PAGE: i64 = 100;

/// Some units of a line that are to go back, and why.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedLine {
    line: i32,
    quantity: i64,
    #[schema(example = "too small")]
    reason: String,
}

/// What is to go back.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReturnRequest {
    lines: Vec<WantedLine>,
    note: Option<String>,
}

impl ReturnRequest {
    fn command(&self) -> Result<Command, Invalid> {
        let wanted = |wish: &WantedLine| {
            let units = Units { line: wish.line, quantity: wish.quantity };
            Ok::<_, Invalid>(Wanted { units, reason: said("lines.reason", &wish.reason)? })
        };
        let lines = self.lines.iter().map(wanted).collect::<Result<_, _>>()?;
        let note = self.note.as_deref().map(|note| clean("note", note, 500)).transpose()?;
        Ok(Command::AskReturn { lines, note: note.filter(|note| !note.is_empty()) })
    }
}

/// Why a return is not agreed to, for the buyer.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeclineRequest {
    reason: String,
}

/// What arrived.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiveRequest {
    lines: Vec<LineUnits>,
}

/// What becomes of a line's units that arrived; together they are all of them.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verdict {
    line: i32,
    /// Can be sold again.
    #[serde(default)]
    restock: i64,
    /// Put aside.
    #[serde(default)]
    quarantine: i64,
    /// Thrown away.
    #[serde(default)]
    scrap: i64,
}

/// What becomes of what arrived.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InspectRequest {
    lines: Vec<Verdict>,
    /// Whether what arrived is paid back.
    #[serde(default)]
    refund: bool,
}

/// How a return ends.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseRequest {
    /// Whether what arrived is paid back.
    #[serde(default)]
    refund: bool,
}

/// A return.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Return {
    return_id: String,
    order_id: String,
    /// `requested`, `approved`, `declined`, `in_transit`, `partly_received`, `received`, `inspected`, `closed`.
    status: String,
    lines: Vec<ReturnedLine>,
    note: Option<String>,
    /// The parcel that the carrier brings back, where nobody asked for it.
    shipment_id: Option<String>,
    /// What pays it back.
    refund_ids: Vec<String>,
    created_at: DateTime<Utc>,
}

/// Some units of a line in a return, and what became of them.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ReturnedLine {
    line: i32,
    sku_id: String,
    quantity: i64,
    reason: String,
    received: i64,
    restocked: i64,
    quarantined: i64,
    scrapped: i64,
}

impl From<ReturnView> for Return {
    fn from(view: ReturnView) -> Self {
        let line = |line: ReturnLine| ReturnedLine {
            line: line.line,
            sku_id: line.sku_id.to_string(),
            quantity: line.quantity,
            reason: line.reason,
            received: line.received,
            restocked: line.restocked,
            quarantined: line.quarantined,
            scrapped: line.scrapped,
        };
        Self {
            return_id: view.return_id.to_string(),
            order_id: view.order_id.to_string(),
            status: view.status.to_string(),
            lines: view.lines.into_iter().map(line).collect(),
            note: view.note,
            shipment_id: view.shipment_id.map(|shipment_id| shipment_id.to_string()),
            refund_ids: view.refund_ids.iter().map(ToString::to_string).collect(),
            created_at: view.created_at,
        }
    }
}

/// Returns.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Returns {
    returns: Vec<Return>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which returns.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listing {
    status: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Ask to send goods back that were shipped and are in no other return.
#[utoipa::path(
    post, path = "/v1/orders/{order_id}/returns", tag = "checkout", request_body = ReturnRequest,
    params(("order_id" = String, Path), ("token" = Option<String>, Query), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = Return), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`order_state`: so much was not shipped, or is coming back already"),
        (status = 422, body = Problem)
    )
)]
pub(crate) async fn ask(
    axum::extract::State(shop): State,
    own: OwnOrder,
    headers: HeaderMap,
    Body(request): Body<ReturnRequest>,
) -> Answer<(StatusCode, Json<Return>)> {
    let command = request.command()?;
    let (who, key) = if own.is_staff {
        (Who::Staff, staff_key(&headers, own.order_id, "return", &request)?)
    } else {
        (Who::Buyer, buyer_key(&headers, own.order_id, &request)?)
    };
    let asked = within(shop.limits.timeout, shop.engine.command(own.order_id, command, who, key)).await?;
    let view = within(shop.limits.timeout, shop.engine.goods_return(ReturnId(asked.id))).await?;
    Ok((StatusCode::CREATED, Json(view.into())))
}

/// A buyer's keys are the order's: no other buyer's are like them.
fn buyer_key(headers: &HeaderMap, order_id: OrderId, request: &impl Serialize) -> Result<CommandKey, Problem> {
    let key = idempotency_key(headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let fingerprint = fingerprint(&format!("return {order_id}"), request)?;
    Ok(CommandKey { principal: format!("buyer of {order_id}"), key, fingerprint })
}

/// An order's returns, oldest first.
#[utoipa::path(
    get, path = "/v1/orders/{order_id}/returns", tag = "checkout",
    params(("order_id" = String, Path), ("token" = Option<String>, Query)),
    responses((status = 200, body = Returns), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn of_order(axum::extract::State(shop): State, own: OwnOrder) -> Answer<Json<Returns>> {
    let returns = within(shop.limits.timeout, shop.engine.returns(own.order_id)).await?;
    Ok(Json(Returns { returns: returns.into_iter().map(Return::from).collect(), next_cursor: None }))
}

/// Returns of all orders, newest first.
#[utoipa::path(
    get, path = "/v1/admin/returns", tag = "staff", security(("staff" = [])),
    params(("status" = Option<String>, Query), ("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query)),
    responses((status = 200, body = Returns), (status = 401, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn list(
    _: Staff,
    axum::extract::State(shop): State,
    Query(listing): Query<Listing>,
) -> Answer<Json<Returns>> {
    let state = listing.status.as_deref().map(str::parse::<ReturnState>).transpose();
    let state = state.map_err(|_| Invalid::new("status", "is no status of a return"))?;
    let before = listing.cursor.as_deref().map(str::parse::<ReturnId>).transpose();
    let before = before.map_err(|_| Invalid::new("cursor", "is none that was given out"))?;
    let most = most(Some(listing.limit.unwrap_or(PAGE)))?;
    let views = within(shop.limits.timeout, shop.engine.all_returns(before, state, most)).await?;
    let full = i64::try_from(views.len()).is_ok_and(|count| count == most);
    let next_cursor = views.last().filter(|_| full).map(|view| view.return_id.to_string());
    Ok(Json(Returns { returns: views.into_iter().map(Return::from).collect(), next_cursor }))
}

/// A return.
#[utoipa::path(
    get, path = "/v1/admin/returns/{return_id}", tag = "staff", security(("staff" = [])),
    params(("return_id" = String, Path)),
    responses((status = 200, body = Return), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn show(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
) -> Answer<Json<Return>> {
    Ok(Json(within(shop.limits.timeout, shop.engine.goods_return(return_id)).await?.into()))
}

/// Agree to a return.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/approve", tag = "staff", security(("staff" = [])),
    params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn approve(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
) -> Answer<Json<Return>> {
    step(&shop, return_id, &headers, "approve", &(), ReturnStep::Approve).await
}

/// Do not agree to a return.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/decline", tag = "staff", request_body = DeclineRequest,
    security(("staff" = [])), params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn decline(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
    Body(request): Body<DeclineRequest>,
) -> Answer<Json<Return>> {
    let reason = said("reason", &request.reason)?;
    step(&shop, return_id, &headers, "decline", &request, ReturnStep::Decline { reason }).await
}

/// The goods were sent back.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/sent", tag = "staff", security(("staff" = [])),
    params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn sent(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
) -> Answer<Json<Return>> {
    step(&shop, return_id, &headers, "sent", &(), ReturnStep::Sent).await
}

/// Goods arrived, all of them or some.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/receive", tag = "staff", request_body = ReceiveRequest,
    security(("staff" = [])), params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn receive(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
    Body(request): Body<ReceiveRequest>,
) -> Answer<Json<Return>> {
    let lines = request.lines.iter().copied().map(Units::from).collect();
    step(&shop, return_id, &headers, "receive", &request, ReturnStep::Receive { lines }).await
}

/// Decide what becomes of everything that arrived.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/inspect", tag = "staff", request_body = InspectRequest,
    security(("staff" = [])), params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn inspect(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
    Body(request): Body<InspectRequest>,
) -> Answer<Json<Return>> {
    let verdict = |verdict: &Verdict| Inspected {
        line: verdict.line,
        restock: verdict.restock,
        quarantine: verdict.quarantine,
        scrap: verdict.scrap,
    };
    let lines = request.lines.iter().map(verdict).collect();
    step(&shop, return_id, &headers, "inspect", &request, ReturnStep::Inspect { lines, refund: request.refund }).await
}

/// Close a return: nothing more is done about it.
#[utoipa::path(
    post, path = "/v1/admin/returns/{return_id}/close", tag = "staff", request_body = CloseRequest,
    security(("staff" = [])), params(("return_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Return), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn close(
    _: Staff,
    axum::extract::State(shop): State,
    Id(return_id): Id<ReturnId>,
    headers: HeaderMap,
    Body(request): Body<CloseRequest>,
) -> Answer<Json<Return>> {
    step(&shop, return_id, &headers, "close", &request, ReturnStep::Close { refund: request.refund }).await
}

async fn step(
    shop: &Shop,
    return_id: ReturnId,
    headers: &HeaderMap,
    verb: &str,
    request: &impl Serialize,
    step: ReturnStep,
) -> Answer<Json<Return>> {
    let order_id = within(shop.limits.timeout, shop.engine.order_of_return(return_id)).await?;
    let key = staff_key(headers, order_id, &format!("{verb} {return_id}"), request)?;
    carry_out(shop, order_id, Command::Return { return_id, step }, key).await?;
    Ok(Json(within(shop.limits.timeout, shop.engine.goods_return(return_id)).await?.into()))
}
