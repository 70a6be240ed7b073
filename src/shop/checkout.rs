//! A checkout as the shop sees it: read, quoted, handed to the engine, and answered the same however often it is asked.

use souk_actors::{
    CheckedOut, Checkout, Retry,
    domain::{Address, Currency, Email, Invalid, Money, OrderId, Quantity, Refusal, SkuId, Ticket},
};

use super::{Shop, quote::Quote, shipping};
use crate::problem::Problem;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whose idempotency key, e.g. `guest`.
    pub principal: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the whole request.
    pub fingerprint: [u8; 32],
    /// What is wanted.
    pub lines: Vec<(SkuId, Quantity)>,
    /// By whom.
    pub email: Email,
    /// Where to.
    pub ship_to: Address,
    /// In which currency.
    pub currency: Currency,
    /// How it is sent: an option as a shipping quote offered it.
    pub shipping_option: Option<String>,
    /// What the client believes that it costs.
    pub expected_total: Option<Money>,
    /// The provider to announce the payment to at once.
    pub payment: Option<String>,
    /// The ticket for a sale with a waiting room.
    pub ticket: Option<Ticket>,
}

/// What became of a wish.
pub enum Outcome {
    /// A new order: all there is to say of it is known without asking Postgres.
    New(souk_actors::Placed, Quote),
    /// The order that this key had placed before.
    Replayed(OrderId),
}

/// Places an order.
///
/// # Errors
/// Every refusal of the quote and the engine. Before any of them is told, the key is looked up: a retry hears of the order
/// that it has placed, not that prices have changed or that the last unit is gone.
pub async fn place(shop: &Shop, wish: Wish) -> Result<Outcome, Problem> {
    let mut quotes = 0;
    loop {
        let quoted = match quote(shop, &wish).await {
            Ok(quote) => quote,
            Err(problem) => {
                let Wish { principal, key, fingerprint, email, .. } = wish;
                let retry = Retry { principal, key, fingerprint, email: email.as_str().to_owned() };
                return shop.engine.placed_before(&retry).await?.map(Outcome::Replayed).ok_or(problem);
            }
        };
        quotes += 1;
        return match shop.engine.checkout(wish.at(&quoted)).await {
            Ok(CheckedOut::New(placed)) => Ok(Outcome::New(placed, quoted)),
            Ok(CheckedOut::Replayed(order_id)) => Ok(Outcome::Replayed(order_id)),
            // a sale began or ended since: quoted again, and a client that expects another total hears of the new one
            Err(Refusal::OfferChanged { .. }) if quotes < QUOTES => continue,
            Err(refusal) => Err(refusal.into()),
        };
    }
}

/// How often a wish is quoted while sales begin and end under it.
const QUOTES: u32 = 3;

impl Wish {
    /// The checkout of this wish at a quote.
    fn at(&self, quoted: &Quote) -> Checkout {
        Checkout {
            principal: self.principal.clone(),
            key: self.key.clone(),
            fingerprint: self.fingerprint,
            lines: quoted.lines.clone(),
            shipping: quoted.shipping.clone(),
            total: quoted.total,
            email: self.email.clone(),
            ship_to: self.ship_to.clone(),
            payment: self.payment.clone(),
            ticket: self.ticket,
        }
    }
}

async fn quote(shop: &Shop, wish: &Wish) -> Result<Quote, Problem> {
    let goods = shop.prices.quote(&shop.engine, &wish.lines, wish.currency).await?;
    let quote = match shipping::chosen(shop, wish.shipping_option.as_deref(), &goods, &wish.ship_to)? {
        Some(shipping) => goods.sent_by(shipping)?,
        None => goods,
    };
    if !shop.paypal.charges(quote.total) {
        return Err(Invalid::new("currency", format!("{} cannot be charged", quote.total)).into());
    }
    match wish.expected_total {
        Some(expected) if expected != quote.total => Err(changed(&quote)),
        _ => Ok(quote),
    }
}

fn changed(quote: &Quote) -> Problem {
    let lines: Vec<_> = quote
        .lines
        .iter()
        .map(|line| serde_json::json!({ "sku_id": line.sku_id, "quantity": line.quantity, "unit_price": line.unit_price }))
        .collect();
    Problem::new(axum::http::StatusCode::CONFLICT, "quote_changed", "The total has changed")
        .detail(format!("The total is {} now.", quote.total))
        .with("lines", lines)
        .with("shipping", quote.shipping.as_ref().map(|shipping| shipping.price))
        .with("total", quote.total)
}
