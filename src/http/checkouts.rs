//! Placing an order.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use souk_actors::{
    Retry,
    domain::{Address, ChosenShipping, Currency, Email, Money, OrderId, Quantity, SkuId},
};

use super::{
    State,
    extract::{Body, NotFull, fingerprint, idempotency_key},
    room,
};
use crate::{
    problem::{Answer, Problem},
    shop::{
        Shop,
        checkout::{self, Outcome, Wish},
        products::PriceTag,
    },
};

/// A checkout: what is bought, by whom, where it goes.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckoutRequest {
    /// 1 to 1 000 lines; the same SKU twice is added up.
    lines: Vec<LineRequest>,
    /// Where word of the order goes.
    #[schema(example = "ann@example.com")]
    email: String,
    /// ISO 4217; every line needs a price in it.
    #[schema(value_type = String, example = "USD")]
    currency: Currency,
    /// Where the goods go.
    #[schema(value_type = ShippingAddress)]
    shipping_address: Address,
    /// How the goods are sent: an `option` that `POST /v1/shipping/quotes` has offered for these lines, this currency and
    /// this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shipping_option: Option<String>,
    /// If given and not the server's own total, shipping included, nothing is placed: 409 `quote_changed` brings the new quote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PriceTag>)]
    expected_total: Option<Money>,
    /// `paypal` announces the payment at once and answers with its `approve_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "paypal")]
    payment: Option<String>,
}

/// One line of a checkout.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineRequest {
    #[schema(value_type = String)]
    sku_id: SkuId,
    /// 1 to 1 000 000.
    #[schema(value_type = i64)]
    quantity: Quantity,
}

impl LineRequest {
    /// What, and how many.
    pub(super) fn wanted(&self) -> (SkuId, Quantity) {
        (self.sku_id, self.quantity)
    }
}

/// Where a parcel goes.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the engine's Address, which knows nothing of OpenAPI")]
pub(crate) struct ShippingAddress {
    #[schema(example = "Ann Lee")]
    name: String,
    #[schema(example = "1 Main St")]
    line1: String,
    line2: Option<String>,
    #[schema(example = "Springfield")]
    city: String,
    #[schema(example = "IL")]
    region: Option<String>,
    #[schema(example = "62701")]
    postal_code: Option<String>,
    /// ISO 3166-1 alpha-2.
    #[schema(example = "US")]
    country: String,
}

/// A placed order.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CheckoutAnswer {
    #[schema(value_type = String)]
    order_id: OrderId,
    /// `awaiting_payment`; `confirmed` where there is nothing to pay.
    status: String,
    lines: Vec<LineAnswer>,
    /// How the goods are sent, where that was chosen; a part of the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    shipping: Option<ShippingAnswer>,
    total: PriceTag,
    /// The lines are given back then, unless the order is paid.
    hold_expires_at: DateTime<Utc>,
    /// What opens the order to a guest: `GET /v1/orders/{order_id}?token=…`
    order_token: String,
    /// Where the buyer approves the payment, if one was asked for and the provider has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    approve_url: Option<String>,
}

/// How an order is sent, and what the buyer pays for it.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ShippingAnswer {
    #[schema(example = "USPS Priority Mail")]
    name: String,
    price: PriceTag,
}

impl From<ChosenShipping> for ShippingAnswer {
    fn from(shipping: ChosenShipping) -> Self {
        Self { name: shipping.service.name, price: shipping.price.into() }
    }
}

/// One line as it was bought.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct LineAnswer {
    #[schema(value_type = String)]
    sku_id: SkuId,
    quantity: i64,
    unit_price: PriceTag,
    total: PriceTag,
}

/// Place an order: its lines are held until `hold_expires_at`, durably, or nothing has happened.
///
/// No provider is called unless `payment` is given. The same Idempotency-Key with the same body finds the same order; keys
/// of one `email` are apart from those of another.
#[utoipa::path(
    post, path = "/v1/checkouts", tag = "checkout", request_body = CheckoutRequest,
    params(
        ("Idempotency-Key" = String, Header, description = "1 to 255 characters of the client's choice"),
        ("Souk-Ticket" = Option<String>, Header, description = "For a sale with a waiting room: the ticket, admitted"),
        ("Souk-Session" = Option<String>, Header, description = "The session that the ticket is bound to")
    ),
    responses(
        (status = 201, body = CheckoutAnswer, description = "Placed; with Idempotent-Replayed: true if it was before"),
        (status = 400, body = Problem, description = "`idempotency_key_missing`, `malformed_json`"),
        (status = 403, body = Problem, description = "`ticket_required`: the sale has a waiting room; `ticket_invalid`: not \
            one of this sale and this session"),
        (status = 409, body = Problem, description = "`out_of_stock` with each short line; `quote_changed` with the new quote; \
            `sale_not_started` with `starts_at`; `limit_reached` with `limit` and `used`; `not_admitted`, `ticket_used`, \
            `ticket_expired`; \
            `shipping_option_expired` and `shipping_option_mismatch`: ask for shipping quotes again"),
        (status = 422, body = Problem, description = "`invalid`, `idempotency_key_reused`"),
        (status = 503, body = Problem, description = "`busy`, `unavailable`, `outcome_unknown`: ask again with the same key")
    )
)]
pub(crate) async fn place(
    axum::extract::State(shop): State,
    headers: HeaderMap,
    _: NotFull,
    Body(request): Body<CheckoutRequest>,
) -> Answer<Response> {
    let key = idempotency_key(&headers)?.ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", "Idempotency-Key missing")
            .detail("Send an Idempotency-Key header, so that a retry cannot order twice.")
    })?;
    let wish = read(key, &request)?;
    let wanted = wish.payment.clone();
    let placed = async {
        match room::shown(&shop, &headers) {
            Ok(ticket) => checkout::place(&shop, Wish { ticket, ..wish }).await,
            Err(fault) => placed_before(&shop, wish).await?.ok_or(fault),
        }
    };
    // the quote and the saga together; what was begun goes on without us
    let outcome = tokio::time::timeout(shop.limits.timeout, placed).await.map_err(|_| Problem::outcome_unknown())??;
    let (answer, replayed) = answer(&shop, outcome, wanted.as_deref()).await?;
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A retry hears of its order, also where what it shows as its ticket is none.
async fn placed_before(shop: &Shop, wish: Wish) -> Answer<Option<Outcome>> {
    let Wish { principal, key, fingerprint, email, .. } = wish;
    let retry = Retry { principal, key, fingerprint, email: email.as_str().to_owned() };
    Ok(shop.engine.placed_before(&retry).await?.map(Outcome::Replayed))
}

fn read(key: String, request: &CheckoutRequest) -> Answer<Wish> {
    if request.payment.as_deref().is_some_and(|provider| provider != "paypal") {
        return Err(souk_actors::domain::Invalid::new("payment", "is `paypal` or left out").into());
    }
    let email: Email = request.email.parse()?;
    Ok(Wish {
        principal: guest(&email),
        key,
        fingerprint: fingerprint("checkout", request)?,
        lines: request.lines.iter().map(LineRequest::wanted).collect(),
        email,
        ship_to: request.shipping_address.checked()?,
        currency: request.currency,
        shipping_option: request.shipping_option.clone(),
        expected_total: request.expected_total,
        payment: request.payment.clone(),
        ticket: None,
    })
}

/// Whose keys these are: two guests may well choose the same one. Half a SHA-256, so that no address stands among the keys,
/// and no more of it than tells guests apart: it is written with every order, twice.
fn guest(email: &Email) -> String {
    format!("guest:{}", URL_SAFE_NO_PAD.encode(&Sha256::digest(email.as_str())[..16]))
}

async fn answer(shop: &Shop, outcome: Outcome, payment: Option<&str>) -> Answer<(CheckoutAnswer, bool)> {
    let (mut answer, replayed) = match outcome {
        Outcome::New(placed, quote) => {
            let line = |line: &souk_actors::PricedLine| LineAnswer {
                sku_id: line.sku_id,
                quantity: line.quantity,
                unit_price: line.unit_price.into(),
                total: Money::new(line.unit_price.minor * line.quantity, line.unit_price.currency).into(),
            };
            let answer = CheckoutAnswer {
                order_id: placed.order_id,
                status: placed.status.to_string(),
                lines: quote.lines.iter().map(line).collect(),
                shipping: quote.shipping.map(ShippingAnswer::from),
                total: quote.total.into(),
                hold_expires_at: placed.hold_expires_at,
                order_token: shop.keys.order_token(placed.order_id),
                approve_url: None,
            };
            (answer, false)
        }
        Outcome::Replayed(order_id) => (replay(shop, order_id).await?, true),
    };
    if let Some(provider) = payment
        && answer.status == "awaiting_payment"
    {
        // a provider that does not answer now delays the address, never the order
        let paid = tokio::time::timeout(shop.limits.timeout, shop.engine.pay(answer.order_id, provider)).await;
        answer.approve_url = paid.ok().and_then(Result::ok);
    }
    Ok((answer, replayed))
}

async fn replay(shop: &Shop, order_id: OrderId) -> Answer<CheckoutAnswer> {
    let order = shop.engine.order(order_id).await?;
    let line = |line: souk_actors::store::read::LineView| LineAnswer {
        sku_id: line.sku_id,
        quantity: line.quantity,
        unit_price: line.unit_price.into(),
        total: line.total.into(),
    };
    Ok(CheckoutAnswer {
        order_id,
        status: order.status.to_string(),
        lines: order.lines.into_iter().map(line).collect(),
        shipping: order.shipping.map(ShippingAnswer::from),
        total: order.total.into(),
        hold_expires_at: order.hold_expires_at,
        order_token: shop.keys.order_token(order_id),
        approve_url: None,
    })
}
