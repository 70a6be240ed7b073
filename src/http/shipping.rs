//! What sending costs, and whether an address is one.

use axum::Json;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_actors::domain::{Address, Currency};

use super::{
    State,
    checkouts::{LineRequest, ShippingAddress},
    extract::Body,
};
use crate::{
    problem::{Answer, Problem},
    shop::{products::PriceTag, shipping},
};

/// What is to be sent, and where to.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuoteRequest {
    /// 1 to 1 000 lines; the same SKU twice is added up.
    lines: Vec<LineRequest>,
    /// ISO 4217; every line needs a price in it, and only methods with a price in it are offered.
    #[schema(value_type = String, example = "USD")]
    currency: Currency,
    /// Where the goods go.
    #[schema(value_type = ShippingAddress)]
    shipping_address: Address,
}

/// Ways to send it.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct QuoteAnswer {
    /// The cheapest first; empty where nobody goes there.
    methods: Vec<Method>,
    /// Until when an option may be chosen, at its price.
    expires_at: DateTime<Utc>,
}

/// One way to send it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ShippingMethod)]
pub(crate) struct Method {
    #[schema(example = "USPS Priority Mail")]
    name: String,
    price: PriceTag,
    /// How many days it takes, as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_days: Option<u32>,
    /// What a checkout takes as its `shipping_option`.
    option: String,
}

/// What the carrier's books say of an address.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct AddressAnswer {
    /// Whether a parcel can be sent there. There may be something to say of it all the same, e.g. that a flat's number is
    /// missing.
    valid: bool,
    messages: Vec<AddressMessage>,
    /// How the carrier writes it, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ShippingAddress>)]
    suggested: Option<Address>,
}

/// Something to say of an address, for a person.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct AddressMessage {
    /// The carrier's own; `not_checked` where there is no carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    text: String,
}

/// Ways to send lines to an address, each with its price and a signed option that a checkout takes.
///
/// A carrier that does not answer in time is left out; the shop's own methods are offered all the same.
#[utoipa::path(
    post, path = "/v1/shipping/quotes", tag = "checkout", request_body = QuoteRequest,
    responses(
        (status = 200, body = QuoteAnswer),
        (status = 400, body = Problem, description = "`malformed_json`"),
        (status = 422, body = Problem, description = "`invalid`"),
        (status = 503, body = Problem, description = "`unavailable`: ask again")
    )
)]
pub(crate) async fn quotes(
    axum::extract::State(shop): State,
    Body(request): Body<QuoteRequest>,
) -> Answer<Json<QuoteAnswer>> {
    let to = request.shipping_address.checked()?;
    let lines: Vec<_> = request.lines.iter().map(LineRequest::wanted).collect();
    let quoted = shipping::quote(&shop, &lines, request.currency, &to).await?;
    let method = |method: shipping::Method| Method {
        name: method.name,
        price: method.price.into(),
        estimated_days: method.estimated_days,
        option: method.option,
    };
    let methods = quoted.methods.into_iter().map(method).collect();
    Ok(Json(QuoteAnswer { methods, expires_at: quoted.expires_at }))
}

/// Have an address checked by the carrier, before anything is sent there. Whatever it says, an order may go there.
#[utoipa::path(
    post, path = "/v1/shipping/addresses", tag = "checkout", request_body = ShippingAddress,
    responses(
        (status = 200, body = AddressAnswer),
        (status = 400, body = Problem, description = "`malformed_json`"),
        (status = 422, body = Problem, description = "`invalid`"),
        (status = 503, body = Problem, description = "`unavailable`: the carrier does not answer now")
    )
)]
pub(crate) async fn addresses(
    axum::extract::State(shop): State,
    Body(address): Body<Address>,
) -> Answer<Json<AddressAnswer>> {
    let address = address.checked()?;
    let check = shipping::check_address(&shop, &address).await?;
    let message = |(code, text): (Option<String>, String)| AddressMessage { code, text };
    Ok(Json(AddressAnswer {
        valid: check.is_valid,
        messages: check.messages.into_iter().map(message).collect(),
        suggested: check.suggested,
    }))
}
