//! What it costs to send lines to an address: the shop's own methods at flat prices, and what a carrier asks, each told with
//! an option that the buyer's checkout brings back. An option is signed, not stored: it says itself what was offered, for
//! what, and until when, so that placing an order asks no carrier and trusts no client.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use souk_actors::{
    PricedLine,
    domain::{Address, ChosenShipping, Currency, Invalid, Money, Parcel, Quantity, Service, SkuId},
    ports::{Customs, CustomsItem, ProviderError},
};

use super::{
    Shop,
    products::{self, Size},
    quote::Quote,
};
use crate::{
    config::{self, Config},
    gateways::shippo::{AddressCheck, Offer, Shippo},
    problem::Problem,
};

/// What options are sealed for.
const PURPOSE: &str = "shipping option";
/// Longer than any option that was ever made.
const LONGEST_OPTION: usize = 4_096;
/// No box is larger; its sides are still numbers.
const LONGEST_SIDE: i64 = 1_000_000;

/// What sending costs, and who is asked.
pub struct Shipping {
    /// Who sells labels, where anybody does.
    pub carrier: Option<Arc<Shippo>>,
    settings: config::Shipping,
    services: Vec<String>,
    markup_percent: i64,
    /// How long the carrier is waited for: less than a request may take.
    patience: Duration,
}

/// Ways to send lines to an address.
#[derive(Debug)]
pub struct Quoted {
    /// The cheapest first; empty where nobody goes there.
    pub methods: Vec<Method>,
    /// Until when they may be chosen.
    pub expires_at: DateTime<Utc>,
}

/// One way to send, offered.
#[derive(Debug)]
pub struct Method {
    /// What buyers see.
    pub name: String,
    /// What they pay.
    pub price: Money,
    /// How long it takes, as a rule.
    pub estimated_days: Option<u32>,
    /// What a checkout brings back.
    pub option: String,
}

/// What an option says.
#[derive(Serialize, Deserialize)]
struct Promise {
    service: Service,
    minor: i64,
    currency: Currency,
    /// Of which SKUs and how many of each.
    lines: String,
    /// As far as it decides what sending costs.
    to: String,
    /// Unix seconds.
    until: i64,
}

impl Shipping {
    /// By these settings, with this carrier.
    #[must_use]
    pub fn new(config: &Config, carrier: Option<Arc<Shippo>>) -> Self {
        let patience = Duration::from_secs(config.shipping.patience_seconds);
        let limit = Duration::from_secs(config.http.timeout_seconds);
        Self {
            carrier,
            settings: config.shipping.clone(),
            services: config.shippo.services.clone(),
            markup_percent: config.shippo.markup_percent.into(),
            patience: patience.min(limit * 3 / 4),
        }
    }

    /// The shop's own methods that go there.
    fn flat(&self, goods: &Quote, to: &Address) -> Vec<Offer> {
        let currency = goods.total.currency;
        let goes_there =
            |method: &&config::Method| method.countries.is_empty() || method.countries.contains(&to.country);
        let offer = |method: &config::Method| {
            let is_free = method.free_above.of(currency).is_some_and(|above| goods.total.minor >= above.minor);
            let price = method.prices.of(currency)?;
            Some(Offer {
                service: Service {
                    provider: Service::MANUAL.to_owned(),
                    carrier: String::new(),
                    token: method.code.clone(),
                    name: method.name.clone(),
                },
                price: if is_free { Money::new(0, currency) } else { price },
                estimated_days: method.estimated_days,
            })
        };
        self.settings.methods.iter().filter(goes_there).filter_map(offer).collect()
    }

    /// What the carrier asks, with the shop's markup; nothing where it does not answer in time.
    async fn by_carrier(&self, parcel: Parcel, goods: &Quote, to: &Address) -> Vec<Offer> {
        let Some(carrier) = &self.carrier else { return Vec::new() };
        let from = self.settings.from.address();
        let customs = (from.country != to.country).then(|| declared(&from, goods, parcel));
        let rates = carrier.rates(&from, to, parcel, customs.as_ref(), goods.total.currency);
        let asked = tokio::time::timeout(self.patience, rates).await;
        let (offers, outcome) = match asked {
            Ok(Ok(offers)) => (offers, "answered"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a shipping quote goes without the carrier");
                (Vec::new(), "failed")
            }
            Err(_) => {
                tracing::warn!("a shipping quote does not wait for the carrier any longer");
                (Vec::new(), "late")
            }
        };
        metrics::counter!("souk_shipping_rates_total", "outcome" => outcome).increment(1);
        let is_offered = |offer: &Offer| self.services.is_empty() || self.services.contains(&offer.service.token);
        offers.into_iter().filter(is_offered).filter_map(|offer| self.marked_up(offer)).collect()
    }

    fn marked_up(&self, offer: Offer) -> Option<Offer> {
        let hundredths = offer.price.minor.checked_mul(100 + self.markup_percent)?;
        let minor = hundredths / 100 + i64::from(hundredths % 100 != 0);
        let price = Money::new(minor, offer.price.currency).times(1).ok()?;
        Some(Offer { price, ..offer })
    }

    /// The parcel that these lines would make.
    fn parcel(&self, lines: &[(i64, Size)]) -> Parcel {
        estimate(self.settings.parcel, self.settings.unit_grams, lines)
    }
}

/// Ways to send lines to an address.
///
/// # Errors
/// As a quote of the lines. A carrier that is away is none: the shop's own methods are offered all the same.
pub async fn quote(
    shop: &Shop,
    lines: &[(SkuId, Quantity)],
    currency: Currency,
    to: &Address,
) -> Result<Quoted, Problem> {
    let goods = shop.prices.quote(&shop.engine, lines, currency).await?;
    let shipping = &shop.shipping;
    let mut offers = shipping.flat(&goods, to);
    if shipping.carrier.is_some() {
        let sku_ids: Vec<SkuId> = goods.lines.iter().map(|line| line.sku_id).collect();
        let sizes = products::sizes(&shop.pool, &sku_ids).await?;
        let size = |line: &PricedLine| (line.quantity, sizes.get(&line.sku_id).copied().unwrap_or_default());
        let parcel = shipping.parcel(&goods.lines.iter().map(size).collect::<Vec<_>>());
        offers.extend(shipping.by_carrier(parcel, &goods, to).await);
    }
    offers.sort_by_key(|offer| offer.price.minor);
    // the promise begins when it is made, not when the carrier was asked
    let expires = shop.engine.clock().now() + TimeDelta::seconds(shipping.settings.option_seconds);
    let until = expires.timestamp();
    let (lines, to) = (print_lines(&goods.lines), print_place(to));
    let method = |offer: Offer| {
        let Offer { service, price, estimated_days } = offer;
        let name = service.name.clone();
        let promise = Promise { service, minor: price.minor, currency, lines: lines.clone(), to: to.clone(), until };
        Method { name, price, estimated_days, option: seal(shop, &promise) }
    };
    let expires_at = DateTime::from_timestamp(until, 0).unwrap_or(expires);
    Ok(Quoted { methods: offers.into_iter().map(method).collect(), expires_at })
}

fn seal(shop: &Shop, promise: &Promise) -> String {
    let payload = serde_json::to_vec(promise).expect("texts and numbers");
    shop.keys.seal(PURPOSE, &payload)
}

/// What an option promised, if it was made here, for these lines and this address, and still holds.
///
/// # Errors
/// 422 for what is no option, or for none where one is required; 409 for one of something else, or past its time.
pub fn chosen(
    shop: &Shop,
    option: Option<&str>,
    goods: &Quote,
    to: &Address,
) -> Result<Option<ChosenShipping>, Problem> {
    let Some(option) = option else {
        if shop.shipping.settings.required {
            return Err(Invalid::new("shipping_option", "is missing: POST /v1/shipping/quotes offers some").into());
        }
        return Ok(None);
    };
    let ours = Some(option).filter(|option| option.len() <= LONGEST_OPTION);
    let ours = ours.and_then(|option| shop.keys.unseal(PURPOSE, option));
    let promise: Option<Promise> = ours.and_then(|payload| serde_json::from_slice(&payload).ok());
    let promise = promise.ok_or_else(|| Invalid::new("shipping_option", "is none that this shop has offered"))?;
    if shop.engine.clock().now().timestamp() >= promise.until {
        let expired = Problem::new(axum::http::StatusCode::CONFLICT, "shipping_option_expired", "Offered too long ago");
        return Err(expired.detail("Ask for shipping quotes again."));
    }
    if promise.currency != goods.total.currency {
        return Err(mismatch("another currency"));
    }
    if promise.lines != print_lines(&goods.lines) {
        return Err(mismatch("other lines"));
    }
    if promise.to != print_place(to) {
        return Err(mismatch("another place: its country or postal code differs"));
    }
    Ok(Some(ChosenShipping { service: promise.service, price: Money::new(promise.minor, promise.currency) }))
}

fn mismatch(what: &str) -> Problem {
    Problem::new(axum::http::StatusCode::CONFLICT, "shipping_option_mismatch", "Offered for something else")
        .detail(format!("The option was offered for {what}. Ask for shipping quotes again."))
}

/// What the carrier's books say of an address; without a carrier, that nobody looked.
///
/// # Errors
/// 503 where the carrier does not answer.
pub async fn check_address(shop: &Shop, address: &Address) -> Result<AddressCheck, Problem> {
    let Some(carrier) = &shop.shipping.carrier else {
        return Ok(AddressCheck::unchecked("No carrier checks addresses for this shop: only the form was looked at."));
    };
    let asked = tokio::time::timeout(shop.shipping.patience, carrier.check_address(address)).await;
    match asked {
        Ok(Ok(check)) => Ok(check),
        Ok(Err(ProviderError::Rejected(_))) => {
            let messages = vec![(Some("refused".to_owned()), "The carrier cannot read this address.".to_owned())];
            Ok(AddressCheck { is_valid: false, messages, suggested: None })
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "an address could not be checked");
            Err(nobody_answers())
        }
        Err(_) => Err(nobody_answers()),
    }
}

fn nobody_answers() -> Problem {
    Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available right now")
        .detail("The carrier does not answer now. An order can be placed all the same.")
        .retry_after(5)
}

/// Which SKUs and how many of each, whatever the order they are named in.
fn print_lines(lines: &[PricedLine]) -> String {
    let mut by_sku: Vec<(i64, i64)> = lines.iter().map(|line| (line.sku_id.0, line.quantity)).collect();
    by_sku.sort_unstable();
    let mut hash = Sha256::new();
    for (sku_id, quantity) in by_sku {
        hash.update(sku_id.to_be_bytes());
        hash.update(quantity.to_be_bytes());
    }
    format!("{:x}", hash.finalize())
}

/// Country and postal code, which decide what sending costs; where there is no postal code, town and region instead. A
/// hash, for an option travels through logs that are not ours.
fn print_place(to: &Address) -> String {
    let plain =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_uppercase).collect::<String>();
    let postal_code = plain(&to.postal_code);
    let finer = if postal_code.is_empty() {
        format!("{}\0{}", plain(&to.city), plain(to.region.as_deref().unwrap_or_default()))
    } else {
        postal_code
    };
    format!("{:x}", Sha256::new().chain_update(&to.country).chain_update([0]).chain_update(finer).finalize())
}

/// What customs are told while it is only a question of price: goods from here, of this worth.
fn declared(from: &Address, goods: &Quote, parcel: Parcel) -> Customs {
    let item = CustomsItem {
        description: "Merchandise".to_owned(),
        quantity: goods.lines.iter().map(|line| line.quantity).sum(),
        grams: parcel.grams,
        value: goods.total,
        origin: from.country.clone(),
        hs_code: None,
    };
    Customs { signer: from.name.clone(), items: vec![item] }
}

/// The box that is assumed, as large as the largest thing in it; what does not fit by its volume makes it higher.
fn estimate(box_: Parcel, unit_grams: i64, lines: &[(i64, Size)]) -> Parcel {
    let sorted = |mut sides: [i64; 3]| {
        sides.sort_by_key(|side| Reverse(*side));
        sides
    };
    let [mut length, mut width, mut height] = sorted([box_.length_mm, box_.width_mm, box_.height_mm]);
    let mut grams = box_.grams;
    let mut volume: i128 = 0;
    for (quantity, size) in lines {
        grams = grams.saturating_add(quantity.saturating_mul(size.grams.map_or(unit_grams, i64::from)));
        let Some(sides) = size.sides() else { continue }; // assumed to fit
        let [long, wide, high] = sorted(sides);
        (length, width, height) = (length.max(long), width.max(wide), height.max(high));
        volume += i128::from(*quantity) * i128::from(long) * i128::from(wide) * i128::from(high);
    }
    let floor = i128::from(length) * i128::from(width);
    let needed = i64::try_from((volume + floor - 1) / floor).unwrap_or(LONGEST_SIDE).min(LONGEST_SIDE);
    let [length_mm, width_mm, height_mm] = sorted([length, width, height.max(needed)]);
    Parcel { length_mm, width_mm, height_mm, grams }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Parcel = Parcel { length_mm: 250, width_mm: 200, height_mm: 100, grams: 100 };

    fn sides(parcel: Parcel) -> [i64; 3] {
        [parcel.length_mm, parcel.width_mm, parcel.height_mm]
    }

    fn size(grams: Option<i32>, sides: Option<[i32; 3]>) -> Size {
        let [length_mm, width_mm, height_mm] = sides.map_or([None; 3], |sides| sides.map(Some));
        Size { grams, length_mm, width_mm, height_mm }
    }

    #[test]
    fn a_box_weighs_what_is_in_it() {
        let parcel = estimate(BOX, 500, &[(2, size(Some(450), None)), (3, Size::default())]);
        assert_eq!((parcel.grams, sides(parcel)), (100 + 900 + 1_500, [250, 200, 100]));
        let heavy = estimate(BOX, 500, &[(1_000_000, size(Some(1_000_000), None)); 1_000]);
        assert_eq!(heavy.grams, 1_000_000_000_000_000 + 100);
    }

    #[test]
    fn a_box_is_as_large_as_what_is_in_it() {
        assert_eq!(sides(estimate(BOX, 500, &[(1, size(None, Some([80, 60, 40])))])), [250, 200, 100]);
        assert_eq!(sides(estimate(BOX, 500, &[(1, size(None, Some([40, 600, 80])))])), [600, 200, 100]);
        // 20 cubes of a decimetre on a floor of 250 × 200
        assert_eq!(sides(estimate(BOX, 500, &[(20, size(None, Some([100, 100, 100])))])), [400, 250, 200]);
        let vast = estimate(BOX, 500, &[(1_000_000, size(None, Some([10_000; 3]))); 1_000]);
        assert_eq!(sides(vast), [LONGEST_SIDE, 10_000, 10_000]);
    }

    fn address(country: &str, postal_code: &str, city: &str) -> Address {
        Address {
            name: "Ann Lee".into(),
            line1: "1 Main St".into(),
            line2: None,
            city: city.into(),
            region: None,
            postal_code: postal_code.into(),
            country: country.into(),
        }
    }

    #[test]
    fn a_place_is_its_country_and_postal_code_however_it_is_written() {
        let place = |country, postal_code, city| print_place(&address(country, postal_code, city));
        assert_eq!(place("GB", "SW1A 1AA", "London"), place("GB", "sw1a1aa", "Westminster"));
        assert_ne!(place("GB", "SW1A 1AA", "London"), place("GB", "SW1A 1AB", "London"));
        assert_ne!(place("US", "10115", "Berlin"), place("DE", "10115", "Berlin"));
        assert_eq!(place("HK", "", "Kowloon"), place("HK", " ", "KOWLOON"));
        assert_ne!(place("HK", "", "Kowloon"), place("HK", "", "Victoria"));
    }

    #[test]
    fn lines_are_the_same_in_any_order() {
        let unit_price = Money::new(1, "USD".parse().expect("known"));
        let line = |sku_id, quantity| PricedLine { sku_id: SkuId(sku_id), quantity, unit_price, sale_id: None };
        assert_eq!(print_lines(&[line(1, 2), line(3, 4)]), print_lines(&[line(3, 4), line(1, 2)]));
        assert_ne!(print_lines(&[line(1, 2), line(3, 4)]), print_lines(&[line(1, 4), line(3, 2)]));
        assert_ne!(print_lines(&[line(1, 2)]), print_lines(&[line(1, 3)]));
    }
}
