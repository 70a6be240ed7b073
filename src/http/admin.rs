//! What staff do: products, stock, orders.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::{
    Adjust,
    domain::{Correction, Currency, Invalid, Money, OrderId, OrderStatus, ProductId, Refusal, SkuId, clean},
};

use super::{
    State,
    extract::{Body, Id, Query, Staff, fingerprint, idempotency_key, within},
    products::{Page, cursor, most},
};
use crate::{
    problem::{Answer, Problem},
    shop::products::{self, NewProduct, NewSku, PriceTag, Product, Size, Update, Which},
};

/// A product to be made.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductRequest {
    #[schema(example = "Copper coffee pot")]
    name: String,
    /// The currency of the prices below.
    #[schema(value_type = String, example = "USD")]
    currency: Currency,
    #[serde(default)]
    description: String,
    /// Its name in addresses; made from the name where none is given.
    #[serde(default)]
    slug: Option<String>,
    skus: Vec<SkuRequest>,
}

/// A SKU to be made.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkuRequest {
    /// The shop's own code, unique.
    #[schema(example = "CEZVE-2")]
    code: String,
    #[schema(example = "12.50")]
    price: String,
    /// Units that are there.
    #[serde(default)]
    on_hand: i64,
    /// What one weighs, 1 to 1 000 000 grams.
    #[serde(default)]
    grams: Option<i32>,
    /// 1 to 10 000 millimetres, given with the other two or not at all.
    #[serde(default)]
    length_mm: Option<i32>,
    #[serde(default)]
    width_mm: Option<i32>,
    #[serde(default)]
    height_mm: Option<i32>,
}

/// What of a product is to change; what is not given stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductUpdate {
    name: Option<String>,
    description: Option<String>,
    /// New prices and sizes; a SKU without a price in the currency gets one.
    #[serde(default)]
    skus: Vec<SkuUpdate>,
}

/// A SKU's new price, size, or both.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkuUpdate {
    #[schema(value_type = String)]
    sku_id: SkuId,
    /// Given with its currency.
    #[schema(example = "12.50")]
    price: Option<String>,
    #[schema(value_type = Option<String>, example = "USD")]
    currency: Option<Currency>,
    /// What one weighs, 1 to 1 000 000 grams.
    grams: Option<i32>,
    /// 1 to 10 000 millimetres, given with the other two or not at all.
    length_mm: Option<i32>,
    width_mm: Option<i32>,
    height_mm: Option<i32>,
}

/// A correction of stock: by `delta`, or to `set` if `expected` are on hand.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StockRequest {
    /// Units to add, or, below zero, to take away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<i64>,
    /// Units that there are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<i64>,
    /// Units that must be on hand when `set` is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected: Option<i64>,
    /// Why, for the ledger.
    #[schema(example = "counted")]
    reason: String,
}

/// A SKU's counters.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Stock {
    #[schema(value_type = String)]
    sku_id: SkuId,
    on_hand: i64,
    reserved: i64,
    available: i64,
}

/// A page of a SKU's ledger, newest first, with its counters now.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Ledger {
    stock: Stock,
    rows: Vec<LedgerRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One move of stock.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct LedgerRow {
    id: i64,
    d_on_hand: i64,
    d_reserved: i64,
    /// `open`, `adjust`, `reserve`, `commit`, `release`, `expire`.
    cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    /// `buyer`, `staff`, `provider`, `engine`.
    who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    at: DateTime<Utc>,
}

/// A page of orders, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Orders {
    orders: Vec<OrderRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One order in a list.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OrderRow {
    order_id: String,
    status: String,
    total: PriceTag,
    email: String,
    created_at: DateTime<Utc>,
    hold_expires_at: DateTime<Utc>,
}

/// Which part of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 100; 20 where it is not given.
    limit: Option<i64>,
    /// Orders of one status only.
    status: Option<String>,
}

/// Make a product with its SKUs and their first stock.
#[utoipa::path(
    post, path = "/v1/admin/products", tag = "staff", request_body = ProductRequest, security(("staff" = [])),
    responses(
        (status = 201, body = Product), (status = 401, body = Problem),
        (status = 409, body = Problem, description = "`code_taken`, `slug_taken`"), (status = 422, body = Problem)
    )
)]
pub(crate) async fn create_product(
    _: Staff,
    axum::extract::State(shop): State,
    Body(request): Body<ProductRequest>,
) -> Answer<(StatusCode, Json<Product>)> {
    let new = read_product(request)?;
    // on its own: a client that goes away must not come between the product and its stock
    let made = tokio::spawn(async move {
        let at = shop.engine.clock().now();
        products::create(&shop.pool, &shop.engine, new, at).await
    });
    let product = made.await.map_err(|_| Refusal::Fault)??; // it panicked, and the panic is in the log
    Ok((StatusCode::CREATED, Json(product)))
}

fn read_product(request: ProductRequest) -> Answer<NewProduct> {
    let currency = request.currency;
    let sku = |(at, sku): (usize, SkuRequest)| {
        let price = Money::parse(&sku.price, currency);
        let price = price.map_err(|error| Invalid::new(format!("skus[{at}].price"), error.to_string()))?;
        let SkuRequest { grams, length_mm, width_mm, height_mm, .. } = sku;
        let size = Size { grams, length_mm, width_mm, height_mm };
        Ok(NewSku { code: sku.code, price, on_hand: sku.on_hand, size })
    };
    let skus: Result<Vec<NewSku>, Invalid> = request.skus.into_iter().enumerate().map(sku).collect();
    let description = read_description(&request.description)?;
    Ok(NewProduct { name: request.name, description, slug: request.slug, skus: skus? })
}

/// Descriptions may have line breaks; everything else that is a control character is refused.
fn read_description(text: &str) -> Result<String, Invalid> {
    clean("description", &text.replace(['\n', '\r', '\t'], " "), 20_000)?;
    Ok(text.trim().to_owned())
}

/// Change a product's name, description, prices or sizes.
#[utoipa::path(
    patch, path = "/v1/admin/products/{product_id}", tag = "staff", request_body = ProductUpdate, security(("staff" = [])),
    params(("product_id" = String, Path)),
    responses((status = 200, body = Product), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn update_product(
    _: Staff,
    axum::extract::State(shop): State,
    Id(product_id): Id<ProductId>,
    Body(request): Body<ProductUpdate>,
) -> Answer<Json<Product>> {
    let update = read_update(request)?;
    products::update(&shop.pool, product_id, &update, shop.engine.clock().now()).await?;
    shop.prices.forget();
    let found = products::find(&shop.pool, &shop.engine, &Which::Id(product_id)).await?;
    found.into_iter().next().map(Json).ok_or_else(|| Problem::not_found("product"))
}

fn read_update(request: ProductUpdate) -> Answer<Update> {
    let (mut prices, mut sizes) = (Vec::new(), Vec::new());
    for (at, row) in request.skus.into_iter().enumerate() {
        let field = |name: &str| format!("skus[{at}].{name}");
        let SkuUpdate { sku_id, price, currency, grams, length_mm, width_mm, height_mm } = row;
        match (price, currency) {
            (Some(price), Some(currency)) => {
                let price = Money::parse(&price, currency);
                prices.push((sku_id, price.map_err(|error| Invalid::new(field("price"), error.to_string()))?));
            }
            (None, None) => {}
            (Some(_), None) => return Err(Invalid::new(field("currency"), "is missing: of what is the price?").into()),
            (None, Some(_)) => return Err(Invalid::new(field("price"), "is missing").into()),
        }
        let size = Size { grams, length_mm, width_mm, height_mm };
        if size != Size::default() {
            sizes.push((sku_id, size));
        }
    }
    let description = request.description.as_deref().map(read_description).transpose()?;
    Ok(Update { name: request.name, description, prices, sizes })
}

/// Correct a SKU's stock: by so many units, or to so many if as many are on hand as expected. With an Idempotency-Key a
/// retry corrects nothing more.
#[utoipa::path(
    post, path = "/v1/admin/skus/{sku_id}/stock", tag = "staff", request_body = StockRequest, security(("staff" = [])),
    params(("sku_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, body = Stock), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`below_reserved`; `stock_changed` with `on_hand`"),
        (status = 422, body = Problem)
    )
)]
pub(crate) async fn adjust_stock(
    _: Staff,
    axum::extract::State(shop): State,
    Id(sku_id): Id<SkuId>,
    headers: HeaderMap,
    Body(request): Body<StockRequest>,
) -> Answer<Json<Stock>> {
    let key = idempotency_key(&headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let reason = clean("reason", &request.reason, 500)?;
    if reason.is_empty() {
        return Err(Invalid::new("reason", "is missing").into());
    }
    let correction = read_correction(&request)?;
    let fingerprint = fingerprint(&format!("adjust {sku_id}"), &request)?;
    let adjust = Adjust { principal: "staff".to_owned(), key, fingerprint, sku_id, correction, reason };
    let counters = within(shop.limits.timeout, shop.engine.adjust(adjust)).await?;
    Ok(Json(stock(sku_id, counters)))
}

fn read_correction(request: &StockRequest) -> Result<Correction, Invalid> {
    match (request.delta, request.set, request.expected) {
        (Some(delta), None, None) => Ok(Correction::By(delta)),
        (None, Some(units), Some(expected)) => Ok(Correction::To { units, expected }),
        (None, Some(_), None) => Err(Invalid::new("expected", "is missing: `set` needs it")),
        _ => Err(Invalid::new("delta", "give either `delta`, or `set` with `expected`")),
    }
}

fn stock(sku_id: SkuId, counters: souk_actors::domain::Counters) -> Stock {
    Stock { sku_id, on_hand: counters.on_hand, reserved: counters.reserved, available: counters.available() }
}

/// Every move of a SKU's stock, newest first.
#[utoipa::path(
    get, path = "/v1/admin/skus/{sku_id}/ledger", tag = "staff", security(("staff" = [])),
    params(("sku_id" = String, Path), Page),
    responses((status = 200, body = Ledger), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn ledger(
    _: Staff,
    axum::extract::State(shop): State,
    Id(sku_id): Id<SkuId>,
    Query(page): Query<Page>,
) -> Answer<Json<Ledger>> {
    let most = most(page.limit)?;
    let before = cursor::<i64>(page.cursor.as_deref())?;
    let counters = within(shop.limits.timeout, shop.engine.counters(sku_id)).await?;
    let rows = within(shop.limits.timeout, shop.engine.ledger(sku_id, before, most)).await?;
    let next_cursor = rows.last().filter(|_| rows.len() as i64 == most).map(|last| last.id.to_string());
    let row = |row: souk_actors::store::read::LedgerRow| LedgerRow {
        id: row.id,
        d_on_hand: row.d_on_hand,
        d_reserved: row.d_reserved,
        cause: row.cause,
        order_id: row.order_id.map(|order_id| order_id.to_string()),
        who: row.who,
        note: row.note,
        at: row.at,
    };
    Ok(Json(Ledger { stock: stock(sku_id, counters), rows: rows.into_iter().map(row).collect(), next_cursor }))
}

/// Orders, newest first.
#[utoipa::path(
    get, path = "/v1/admin/orders", tag = "staff", security(("staff" = [])), params(Part),
    responses((status = 200, body = Orders), (status = 401, body = Problem), (status = 422, body = Problem))
)]
pub(crate) async fn orders(
    _: Staff,
    axum::extract::State(shop): State,
    Query(part): Query<Part>,
) -> Answer<Json<Orders>> {
    let most = most(part.limit)?;
    let before = cursor::<OrderId>(part.cursor.as_deref())?;
    let status = part.status.as_deref().map(str::parse::<OrderStatus>).transpose();
    let status = status.map_err(|_| Invalid::new("status", "is no status of an order"))?;
    let rows = within(shop.limits.timeout, shop.engine.orders(before, status, most)).await?;
    let next_cursor = rows.last().filter(|_| rows.len() as i64 == most).map(|last| last.order_id.to_string());
    let row = |row: souk_actors::store::read::OrderRow| OrderRow {
        order_id: row.order_id.to_string(),
        status: row.status,
        total: row.total.into(),
        email: row.email,
        created_at: row.created_at,
        hold_expires_at: row.hold_expires_at,
    };
    Ok(Json(Orders { orders: rows.into_iter().map(row).collect(), next_cursor }))
}
