//! The rules that an order must keep before PayPal takes it: presence, lengths, decimals, one currency, and sums that
//! come out. Fields that are not known here are passed over, as PayPal does.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::{
    errors::Problem,
    money::Money,
    records::{Amount, Experience, Intent, Item, Unit},
};

/// The parts of an amount, and whether they are added to it or taken off.
const PARTS: [(&str, i128); 7] = [
    ("item_total", 1),
    ("tax_total", 1),
    ("shipping", 1),
    ("handling", 1),
    ("insurance", 1),
    ("shipping_discount", -1),
    ("discount", -1),
];

#[derive(Deserialize)]
pub(super) struct OrderRequest {
    intent: Option<String>,
    purchase_units: Option<Vec<UnitRequest>>,
    payment_source: Option<SourceRequest>,
    /// Deprecated, and still sent by many.
    application_context: Option<ExperienceRequest>,
}

#[derive(Deserialize)]
struct SourceRequest {
    paypal: Option<WalletRequest>,
}

/// The body of `confirm-payment-source`.
#[derive(Deserialize)]
pub(super) struct ConfirmRequest {
    payment_source: Option<SourceRequest>,
}

impl ConfirmRequest {
    /// How the wallet is to be shown; no other source is known here.
    pub(super) fn check(self) -> Result<Experience, Problem> {
        let source = self.payment_source.ok_or_else(|| missing("/payment_source"))?;
        let wallet =
            source.paypal.ok_or_else(|| Problem::issue("PAYMENT_SOURCE_CANNOT_BE_USED").at("/payment_source"))?;
        wallet.experience_context.unwrap_or_default().check()
    }
}

#[derive(Deserialize)]
struct WalletRequest {
    experience_context: Option<ExperienceRequest>,
}

#[derive(Deserialize, Default)]
struct ExperienceRequest {
    return_url: Option<String>,
    cancel_url: Option<String>,
    brand_name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct UnitRequest {
    reference_id: Option<String>,
    amount: Option<AmountRequest>,
    payee: Option<Value>,
    description: Option<String>,
    custom_id: Option<String>,
    invoice_id: Option<String>,
    soft_descriptor: Option<String>,
    items: Option<Vec<ItemRequest>>,
    shipping: Option<Value>,
}

#[derive(Deserialize)]
struct AmountRequest {
    #[serde(flatten)]
    money: MoneyRequest,
    breakdown: Option<BTreeMap<String, Option<MoneyRequest>>>,
}

/// An amount as it was written, before anybody has looked at it.
#[derive(Deserialize)]
pub(super) struct MoneyRequest {
    currency_code: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct ItemRequest {
    name: Option<String>,
    quantity: Option<String>,
    unit_amount: Option<MoneyRequest>,
    tax: Option<MoneyRequest>,
    sku: Option<String>,
    description: Option<String>,
    category: Option<String>,
}

/// An order that may be opened.
pub(super) struct Draft {
    pub(super) intent: Intent,
    pub(super) wallet: bool,
    pub(super) experience: Experience,
    pub(super) units: Vec<Unit>,
}

impl OrderRequest {
    /// Whether a `PayPal-Request-Id` has to come with it.
    pub(super) fn has_payment_source(&self) -> bool {
        self.payment_source.is_some()
    }

    pub(super) fn check(self) -> Result<Draft, Problem> {
        let intent = read_intent(self.intent.as_deref())?;
        let requests = self.purchase_units.ok_or_else(|| missing("/purchase_units"))?;
        check_count(requests.len())?;
        let several = requests.len() > 1;
        let units = requests.into_iter().enumerate().map(|(index, unit)| unit.check(index, several));
        let units = units.collect::<Result<Vec<_>, _>>()?;
        check_units(intent, &units)?;

        let wallet = self.payment_source.and_then(|source| source.paypal);
        let is_wallet = wallet.is_some();
        let context = wallet.and_then(|wallet| wallet.experience_context).or(self.application_context);
        Ok(Draft { intent, wallet: is_wallet, experience: context.unwrap_or_default().check()?, units })
    }
}

pub(super) fn read_intent(intent: Option<&str>) -> Result<Intent, Problem> {
    match intent {
        Some("CAPTURE") => Ok(Intent::Capture),
        Some("AUTHORIZE") => Ok(Intent::Authorize),
        Some(other) => Err(Problem::issue("INVALID_PARAMETER_VALUE").at("/intent").value(other)),
        None => Err(missing("/intent")),
    }
}

/// What must be true of all units together.
pub(super) fn check_units(intent: Intent, units: &[Unit]) -> Result<(), Problem> {
    if intent == Intent::Authorize && units.len() > 1 {
        return Err(Problem::issue("UNSUPPORTED_INTENT").at("/intent").value("AUTHORIZE"));
    }
    check_references(units)?;
    check_currency(units)
}

fn check_count(units: usize) -> Result<(), Problem> {
    match units {
        0 => Err(Problem::issue("INVALID_ARRAY_MIN_ITEMS").at("/purchase_units")),
        1..=10 => Ok(()),
        _ => Err(Problem::issue("INVALID_ARRAY_MAX_ITEMS").at("/purchase_units")),
    }
}

fn check_references(units: &[Unit]) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    match units.iter().find(|unit| !seen.insert(&unit.reference_id)) {
        Some(twice) => Err(Problem::issue("DUPLICATE_REFERENCE_ID").value(&twice.reference_id)),
        None => Ok(()),
    }
}

fn check_currency(units: &[Unit]) -> Result<(), Problem> {
    let items = units.iter().flat_map(|unit| &unit.items);
    let prices = items.flat_map(|item| [Some(item.unit_amount), item.tax]).flatten();
    let parts = units.iter().flat_map(|unit| unit.amount.breakdown.values().copied());
    let mut all = units.iter().map(|unit| unit.amount.money).chain(parts).chain(prices);
    let one = all.next().map(|first| first.currency);
    if all.all(|money| Some(money.currency) == one) { Ok(()) } else { Err(Problem::issue("MULTI_CURRENCY_ORDER")) }
}

impl ExperienceRequest {
    fn check(self) -> Result<Experience, Problem> {
        for (field, url) in [("return_url", &self.return_url), ("cancel_url", &self.cancel_url)] {
            if let Some(url) = url
                && url::Url::parse(url).is_err()
            {
                let place = format!("/payment_source/paypal/experience_context/{field}");
                return Err(Problem::issue("INVALID_PARAMETER_SYNTAX").at(place).value(url));
            }
        }
        Ok(Experience { return_url: self.return_url, cancel_url: self.cancel_url, brand_name: self.brand_name })
    }
}

impl UnitRequest {
    /// Reads the unit at this place of the body, which may be one of several.
    pub(super) fn check(self, index: usize, several: bool) -> Result<Unit, Problem> {
        if several && self.reference_id.is_none() {
            return Err(Problem::issue("REFERENCE_ID_REQUIRED").at(format!("/purchase_units/{index}/reference_id")));
        }
        let reference_id = self.reference_id.unwrap_or_else(|| "default".to_owned());
        let place = format!("/purchase_units/@reference_id=='{reference_id}'");
        let texts = [
            ("custom_id", &self.custom_id, 127),
            ("invoice_id", &self.invoice_id, 127),
            ("description", &self.description, 127),
            ("soft_descriptor", &self.soft_descriptor, 22),
        ];
        check_length(&place, "reference_id", &reference_id, 256)?;
        for (field, text, limit) in texts {
            check_length(&place, field, text.as_deref().unwrap_or("-"), limit)?;
        }

        let amount =
            self.amount.ok_or_else(|| missing(format!("{place}/amount")))?.check(&format!("{place}/amount"))?;
        let requests = self.items.unwrap_or_default().into_iter().enumerate();
        let items = requests.map(|(index, item)| item.check(&format!("{place}/items/{index}")));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        check_items(&place, &amount, &items)?;
        Ok(Unit {
            reference_id,
            amount,
            payee: self.payee,
            description: self.description,
            custom_id: self.custom_id,
            invoice_id: self.invoice_id,
            soft_descriptor: self.soft_descriptor,
            items,
            shipping: self.shipping,
        })
    }
}

impl AmountRequest {
    fn check(self, place: &str) -> Result<Amount, Problem> {
        let money = self.money.check(place)?;
        if money.minor <= 0 {
            return Err(Problem::issue("CANNOT_BE_ZERO_OR_NEGATIVE").at(format!("{place}/value")).value(money.value()));
        }
        let mut breakdown = BTreeMap::new();
        let mut sum: i128 = 0;
        let mut requests = self.breakdown.unwrap_or_default();
        for (part, sign) in PARTS {
            let Some(request) = requests.remove(part).flatten() else { continue };
            let money = request.check_at_least_zero(&format!("{place}/breakdown/{part}"))?;
            sum += sign * i128::from(money.minor);
            breakdown.insert(part.to_owned(), money);
        }
        if !breakdown.is_empty() && sum != i128::from(money.minor) {
            return Err(Problem::issue("AMOUNT_MISMATCH").at(format!("{place}/value")).value(money.value()));
        }
        Ok(Amount { money, breakdown })
    }
}

impl MoneyRequest {
    /// Reads the amount; `place` is where it stands in the body.
    pub(super) fn check(&self, place: &str) -> Result<Money, Problem> {
        let code = self.currency_code.as_deref().ok_or_else(|| missing(format!("{place}/currency_code")))?;
        let value = self.value.as_deref().ok_or_else(|| missing(format!("{place}/value")))?;
        Money::read(code, value).map_err(|issue| match issue {
            "INVALID_CURRENCY_CODE" => Problem::issue(issue).at(format!("{place}/currency_code")).value(code),
            _ => Problem::issue(issue).at(format!("{place}/value")).value(value),
        })
    }

    fn check_at_least_zero(&self, place: &str) -> Result<Money, Problem> {
        let money = self.check(place)?;
        if money.minor < 0 {
            return Err(Problem::issue("CANNOT_BE_NEGATIVE").at(format!("{place}/value")).value(money.value()));
        }
        Ok(money)
    }
}

impl ItemRequest {
    fn check(self, place: &str) -> Result<Item, Problem> {
        let name = self.name.ok_or_else(|| missing(format!("{place}/name")))?;
        let quantity = self.quantity.ok_or_else(|| missing(format!("{place}/quantity")))?;
        let unit_amount = self.unit_amount.ok_or_else(|| missing(format!("{place}/unit_amount")))?;
        check_length(place, "name", &name, 127)?;
        check_length(place, "sku", self.sku.as_deref().unwrap_or("-"), 127)?;
        if !is_quantity(&quantity) {
            return Err(Problem::issue("INVALID_PARAMETER_SYNTAX").at(format!("{place}/quantity")).value(quantity));
        }
        let tax = self.tax.map(|tax| tax.check_at_least_zero(&format!("{place}/tax"))).transpose()?;
        Ok(Item {
            name,
            quantity,
            unit_amount: unit_amount.check_at_least_zero(&format!("{place}/unit_amount"))?,
            tax,
            sku: self.sku,
            description: self.description,
            category: self.category,
        })
    }
}

/// `^[1-9][0-9]{0,9}$`
fn is_quantity(text: &str) -> bool {
    text.len() <= 10 && !text.starts_with('0') && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `item_total` and `tax_total` must be what the items come to.
fn check_items(place: &str, amount: &Amount, items: &[Item]) -> Result<(), Problem> {
    if items.is_empty() {
        return Ok(());
    }
    let total = |price: fn(&Item) -> i64| items.iter().map(|item| pieces(item) * i128::from(price(item))).sum::<i128>();
    let prices = total(|item| item.unit_amount.minor);
    check_sum(place, amount, prices, ("item_total", "ITEM_TOTAL_REQUIRED", "ITEM_TOTAL_MISMATCH"))?;
    if items.iter().all(|item| item.tax.is_none()) {
        return Ok(());
    }
    let taxes = total(|item| item.tax.map_or(0, |tax| tax.minor));
    check_sum(place, amount, taxes, ("tax_total", "TAX_TOTAL_REQUIRED", "TAX_TOTAL_MISMATCH"))
}

fn pieces(item: &Item) -> i128 {
    item.quantity.parse().unwrap_or(0) // the pattern was checked
}

fn check_sum(
    place: &str,
    amount: &Amount,
    sum: i128,
    (part, required, mismatch): (&str, &str, &str),
) -> Result<(), Problem> {
    let place = format!("{place}/amount/breakdown/{part}");
    let Some(stated) = amount.breakdown.get(part) else { return Err(Problem::issue(required).at(place)) };
    if i128::from(stated.minor) != sum {
        return Err(Problem::issue(mismatch).at(format!("{place}/value")).value(stated.value()));
    }
    Ok(())
}

fn check_length(place: &str, field: &str, text: &str, limit: usize) -> Result<(), Problem> {
    if (1..=limit).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(Problem::issue("INVALID_STRING_LENGTH").at(format!("{place}/{field}")).value(text))
}

fn missing(place: impl Into<String>) -> Problem {
    Problem::issue("MISSING_REQUIRED_PARAMETER").at(place)
}
