//! Sales: what everybody sees of them, and what staff make of them.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use souk_actors::{
    CommandKey, Made,
    domain::{Money, NewSale, SaleChange, SaleId, SaleItem, SalePhase, SkuId},
    store::read::{SaleItemView, SaleList, SaleView},
};

use super::{
    State,
    extract::{Body, Id, Query, Staff, fingerprint, idempotency_key, within},
    products::{Page, cursor, most},
};
use crate::{
    problem::{Answer, Problem},
    shop::{Shop, products::PriceTag},
};

/// A sale to be made.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaleRequest {
    #[schema(example = "Black Friday")]
    name: String,
    /// When it begins; at once where this is left out.
    #[serde(default)]
    starts_at: Option<DateTime<Utc>>,
    /// When it ends; this moment is no longer in it.
    ends_at: DateTime<Utc>,
    /// Units of one SKU that one customer can have, over all orders, paid or not; no limit where it is left out.
    #[serde(default)]
    limit_per_customer: Option<i64>,
    /// How long a checkout of it holds its lines, 1 to 1440; as the shop's others where it is left out.
    #[serde(default)]
    hold_minutes: Option<i64>,
    /// Whether buyers queue for it.
    #[serde(default)]
    waiting_room: bool,
    /// 1 to 1 000 different SKUs.
    skus: Vec<SaleSkuRequest>,
}

/// What a sale has of a SKU.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaleSkuRequest {
    #[schema(value_type = String)]
    sku_id: SkuId,
    /// How many units the sale has. They are set aside until it ends.
    quantity: i64,
    /// Until the sale ends the SKU is sold in it alone. Where it is left out: if the sale has all there is.
    #[serde(default)]
    exclusive: Option<bool>,
    /// One price a currency; in other currencies the SKU is not sold while the sale runs.
    #[schema(value_type = Vec<PriceTag>)]
    prices: Vec<Money>,
}

impl SaleSkuRequest {
    fn read(self) -> (SaleItem, Option<bool>) {
        let Self { sku_id, quantity, exclusive, prices } = self;
        (SaleItem { sku_id, quantity, exclusive: false, prices }, exclusive)
    }
}

/// What of a sale is to change; what is not given stays. Once it runs: `name`, `ends_at` and `quantities` alone.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaleUpdate {
    name: Option<String>,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    /// Null: no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    limit_per_customer: Option<Option<i64>>,
    /// Null: as the shop's other checkouts.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    hold_minutes: Option<Option<i64>>,
    waiting_room: Option<bool>,
    /// Everything that is sold in it.
    skus: Option<Vec<SaleSkuRequest>>,
    /// How many units it has of some of its SKUs.
    #[serde(default)]
    quantities: Vec<SaleQuantity>,
}

/// How many units a sale has of a SKU.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaleQuantity {
    #[schema(value_type = String)]
    sku_id: SkuId,
    /// No less than is sold, paid or not.
    quantity: i64,
}

/// A field that is there, and may be null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::<i64>::deserialize(deserializer).map(Some)
}

/// A sale.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SaleAnswer {
    #[schema(value_type = String)]
    sale_id: SaleId,
    name: String,
    /// `coming`, `running`, `over`, or `cancelled` where it was called off before it began.
    #[schema(value_type = String)]
    status: SalePhase,
    starts_at: DateTime<Utc>,
    /// This moment is no longer in it.
    ends_at: DateTime<Utc>,
    /// Units of one SKU that one customer can have, over all orders, paid or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_per_customer: Option<i64>,
    /// How long a checkout of it holds its lines, where not as long as the shop's others.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_minutes: Option<i64>,
    /// Whether buyers queue for it.
    waiting_room: bool,
    skus: Vec<SaleSku>,
}

/// What a sale has of a SKU.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SaleSku {
    #[schema(value_type = String)]
    sku_id: SkuId,
    prices: Vec<PriceTag>,
    quantity: i64,
    /// Units in orders that were not called off, paid or not.
    sold: i64,
    /// Units that can still be had in it.
    left: i64,
    /// Until the sale ends the SKU is sold in it alone.
    exclusive: bool,
}

/// A page of sales, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SalesAnswer {
    sales: Vec<SaleAnswer>,
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Sales that are coming or running, newest first.
#[utoipa::path(
    get, path = "/v1/sales", tag = "catalogue", params(Page),
    responses((status = 200, body = SalesAnswer), (status = 422, body = Problem))
)]
pub(crate) async fn list(axum::extract::State(shop): State, Query(page): Query<Page>) -> Answer<Json<SalesAnswer>> {
    page_of(&shop, &page, true).await.map(Json)
}

/// One sale: what, when, at what price, and what is left.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}", tag = "catalogue", params(("sale_id" = String, Path)),
    responses((status = 200, body = SaleAnswer), (status = 404, body = Problem))
)]
pub(crate) async fn show(axum::extract::State(shop): State, Id(sale_id): Id<SaleId>) -> Answer<Json<SaleAnswer>> {
    let sale = within(shop.limits.timeout, shop.engine.sale(sale_id)).await?;
    one(&shop, sale).await.map(Json)
}

/// Every sale, newest first.
#[utoipa::path(
    get, path = "/v1/admin/sales", tag = "staff", security(("staff" = [])), params(Page),
    responses((status = 200, body = SalesAnswer), (status = 401, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn list_all(
    _: Staff,
    axum::extract::State(shop): State,
    Query(page): Query<Page>,
) -> Answer<Json<SalesAnswer>> {
    page_of(&shop, &page, false).await.map(Json)
}

/// One sale.
#[utoipa::path(
    get, path = "/v1/admin/sales/{sale_id}", tag = "staff", security(("staff" = [])), params(("sale_id" = String, Path)),
    responses((status = 200, body = SaleAnswer), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn show_to_staff(_: Staff, state: State, id: Id<SaleId>) -> Answer<Json<SaleAnswer>> {
    show(state, id).await
}

/// Make a sale. A SKU is in one sale at a time.
#[utoipa::path(
    post, path = "/v1/admin/sales", tag = "staff", request_body = SaleRequest, security(("staff" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = SaleAnswer, description = "Made; with Idempotent-Replayed: true if it was before"),
        (status = 401, body = Problem),
        (status = 409, body = Problem, description = "`sale_overlaps` with the SKU and the other sale"),
        (status = 422, body = Problem, description = "`invalid`, also for a SKU that is not there; `idempotency_key_reused`")
    )
)]
pub(crate) async fn create(
    _: Staff,
    axum::extract::State(shop): State,
    headers: HeaderMap,
    Body(request): Body<SaleRequest>,
) -> Answer<Response> {
    let key = sale_key(&headers, "make a sale", &request)?;
    let new = NewSale {
        name: request.name,
        starts_at: request.starts_at,
        ends_at: request.ends_at,
        per_customer: request.limit_per_customer,
        hold: request.hold_minutes.map(minutes),
        waiting_room: request.waiting_room,
        items: request.skus.into_iter().map(SaleSkuRequest::read).collect(),
    };
    let made = within(shop.limits.timeout, shop.engine.make_sale(new, key)).await?;
    told(&shop, StatusCode::CREATED, made).await
}

/// Change a sale: all of it until ten seconds before it begins; then its name, its end and how many units it has.
#[utoipa::path(
    patch, path = "/v1/admin/sales/{sale_id}", tag = "staff", request_body = SaleUpdate, security(("staff" = [])),
    params(("sale_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = SaleAnswer), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`sale_state` where it is too late for that; `below_sold` with `sold`; \
            `sale_overlaps`"),
        (status = 422, body = Problem)
    )
)]
pub(crate) async fn update(
    _: Staff,
    axum::extract::State(shop): State,
    Id(sale_id): Id<SaleId>,
    headers: HeaderMap,
    Body(request): Body<SaleUpdate>,
) -> Answer<Response> {
    let key = sale_key(&headers, &format!("change {sale_id}"), &request)?;
    let items = request.skus.map(|skus| skus.into_iter().map(SaleSkuRequest::read).collect());
    let change = SaleChange {
        name: request.name,
        starts_at: request.starts_at,
        ends_at: request.ends_at,
        per_customer: request.limit_per_customer,
        hold: request.hold_minutes.map(|hold| hold.map(minutes)),
        waiting_room: request.waiting_room,
        items: None,
        quantities: request.quantities.iter().map(|row| (row.sku_id, row.quantity)).collect(),
    };
    let made = within(shop.limits.timeout, shop.engine.change_sale(sale_id, change, items, key)).await?;
    told(&shop, StatusCode::OK, made).await
}

/// Call a sale off that has not begun, or end one that runs. What was bought in it stays bought, at its price.
#[utoipa::path(
    post, path = "/v1/admin/sales/{sale_id}/cancel", tag = "staff", security(("staff" = [])),
    params(("sale_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = SaleAnswer), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn cancel(
    _: Staff,
    axum::extract::State(shop): State,
    Id(sale_id): Id<SaleId>,
    headers: HeaderMap,
) -> Answer<Response> {
    let key = sale_key(&headers, &format!("cancel {sale_id}"), &())?;
    let made = within(shop.limits.timeout, shop.engine.end_sale(sale_id, key)).await?;
    told(&shop, StatusCode::OK, made).await
}

/// The key of what staff ask of a sale; one that is given none is never a repetition.
fn sale_key(headers: &HeaderMap, what: &str, request: &impl Serialize) -> Answer<CommandKey> {
    let key = idempotency_key(headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Ok(CommandKey { principal: "staff".to_owned(), key, fingerprint: fingerprint(what, request)? })
}

/// What is out of all bounds stays so, and is refused by the engine with the field's name.
fn minutes(minutes: i64) -> TimeDelta {
    TimeDelta::try_minutes(minutes).unwrap_or(TimeDelta::MAX)
}

async fn told(shop: &Shop, status: StatusCode, made: Made) -> Answer<Response> {
    let mut response = (status, Json(one(shop, made.sale).await?)).into_response();
    if made.replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn page_of(shop: &Shop, page: &Page, open: bool) -> Answer<SalesAnswer> {
    let most = most(page.limit)?;
    let before = cursor::<SaleId>(page.cursor.as_deref())?;
    let found = within(shop.limits.timeout, shop.engine.sales(SaleList { open, before, most })).await?;
    let full = found.len() as i64 == most;
    let next_cursor = found.last().filter(|_| full).map(|last| last.sale.id.to_string());
    Ok(SalesAnswer { sales: shape(shop, found).await?, next_cursor })
}

async fn one(shop: &Shop, sale: SaleView) -> Answer<SaleAnswer> {
    shape(shop, vec![sale]).await?.pop().ok_or_else(|| Problem::not_found("sale"))
}

async fn shape(shop: &Shop, sales: Vec<SaleView>) -> Answer<Vec<SaleAnswer>> {
    let sku_ids: Vec<SkuId> = sales.iter().flat_map(|sale| sale.items.iter().map(|row| row.item.sku_id)).collect();
    let available = within(shop.limits.timeout, shop.engine.available(&sku_ids)).await?;
    let sku = |row: SaleItemView| SaleSku {
        sku_id: row.item.sku_id,
        quantity: row.item.quantity,
        sold: row.sold,
        left: row.left().min(available.get(&row.item.sku_id).copied().unwrap_or(0)),
        exclusive: row.item.exclusive,
        prices: row.item.prices.into_iter().map(PriceTag::from).collect(),
    };
    let sale = |view: SaleView| SaleAnswer {
        sale_id: view.sale.id,
        name: view.sale.name,
        status: view.phase,
        starts_at: view.sale.starts_at,
        ends_at: view.sale.ends_at,
        limit_per_customer: view.sale.per_customer,
        hold_minutes: view.sale.hold.map(|hold| hold.num_minutes()),
        waiting_room: view.sale.waiting_room,
        skus: view.items.into_iter().map(sku).collect(),
    };
    Ok(sales.into_iter().map(sale).collect())
}
