//! Quotes: what lines cost, by the server's prices. Prices are cached for a minute and dropped when staff change them, so
//! placing an order asks Postgres for nothing it does not write; stock is never cached here.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use souk_actors::{
    Engine, PricedLine, Selling,
    domain::{ChosenShipping, Currency, Invalid, Money, Quantity, Refusal, SaleId, SkuId},
};
use sqlx::PgPool;

use crate::problem::Problem;

/// The most lines that one checkout has.
pub const MOST_LINES: usize = 1_000;
/// How long a price is kept, and how many are.
const KEPT_FOR: Duration = Duration::from_secs(60);
const MOST_KEPT: usize = 200_000;

/// A quoted checkout: every line another SKU.
#[derive(Debug, Clone)]
pub struct Quote {
    /// The lines, in the order in which their SKUs were first named.
    pub lines: Vec<PricedLine>,
    /// How they are sent, where that was chosen.
    pub shipping: Option<ChosenShipping>,
    /// What it costs together, shipping included.
    pub total: Money,
}

impl Quote {
    /// The same, sent in this way.
    ///
    /// # Errors
    /// 422 where it is too much to be charged.
    pub fn sent_by(self, shipping: ChosenShipping) -> Result<Self, Invalid> {
        let total = self.total.plus(shipping.price);
        let total = total.map_err(|_| Invalid::new("shipping_option", "costs more than can be charged"))?;
        Ok(Self { shipping: Some(shipping), total, ..self })
    }
}

/// Prices by SKU and currency.
pub struct Prices {
    pool: PgPool,
    /// With the end of their time. A plain map: a cache that minds who is asked for how often costs a checkout more than a
    /// price that is loaded again now and then.
    kept: DashMap<(SkuId, Currency), (i64, Instant)>,
    /// Grows with every change, so that a price read before it is not kept after it.
    changes: AtomicU64,
}

impl Prices {
    /// Prices of this shop.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, kept: DashMap::new(), changes: AtomicU64::new(0) }
    }

    /// Staff have changed prices.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.kept.clear();
    }

    /// Quotes lines, by their sales where they are in one: the same SKU twice becomes one line.
    ///
    /// # Errors
    /// 409 for a SKU that is sold in a sale which has not begun; 422 for too many lines, an unknown SKU, or one without a
    /// price in this currency.
    pub async fn quote(
        &self,
        engine: &Engine,
        lines: &[(SkuId, Quantity)],
        currency: Currency,
    ) -> Result<Quote, Problem> {
        let mut priced = Vec::with_capacity(lines.len());
        let mut usual = Vec::with_capacity(lines.len());
        for (sku_id, quantity) in merge(lines)? {
            let in_sale = sale_price(engine, sku_id, currency)?;
            let (sale_id, unit_price) = in_sale.unzip();
            if in_sale.is_none() {
                usual.push((sku_id, quantity));
            }
            let unit_price = unit_price.unwrap_or(Money::new(0, currency));
            priced.push(PricedLine { sku_id, quantity, unit_price, sale_id });
        }
        let prices = self.of(&usual, currency).await?;
        for (line, price) in priced.iter_mut().filter(|line| line.sale_id.is_none()).zip(prices) {
            line.unit_price = price;
        }
        let total = total(&priced, currency)?;
        Ok(Quote { lines: priced, shipping: None, total })
    }

    async fn of(&self, lines: &[(SkuId, i64)], currency: Currency) -> Result<Vec<Money>, Problem> {
        let now = Instant::now();
        let price = |(sku_id, _): &(SkuId, i64)| {
            let kept = self.kept.get(&(*sku_id, currency))?;
            Some(kept.0).filter(|_| now < kept.1)
        };
        let prices: Vec<Option<i64>> = lines.iter().map(price).collect();
        let missing: Vec<i64> =
            lines.iter().zip(&prices).filter(|(_, price)| price.is_none()).map(|((sku_id, _), _)| sku_id.0).collect();
        let loaded = if missing.is_empty() { Vec::new() } else { self.load(&missing, currency).await? };
        let find = |(sku_id, known): (SkuId, Option<i64>)| {
            let minor = known.or_else(|| loaded.iter().find(|(id, _)| *id == sku_id.0).map(|(_, minor)| *minor));
            minor.map(|minor| Money::new(minor, currency)).ok_or(sku_id)
        };
        let found: Result<Vec<Money>, SkuId> = lines.iter().map(|(sku_id, _)| *sku_id).zip(prices).map(find).collect();
        found.map_err(|sku_id| Invalid::new("lines", format!("{sku_id} is not sold in {currency}")).into())
    }

    async fn load(&self, sku_ids: &[i64], currency: Currency) -> Result<Vec<(i64, i64)>, Problem> {
        let before = self.changes.load(Ordering::SeqCst);
        let loaded: Vec<(i64, i64)> =
            sqlx::query_as("select sku_id, minor from sku_price where sku_id = any($1) and currency = $2")
                .bind(sku_ids)
                .bind(currency.code())
                .fetch_all(&self.pool)
                .await?;
        self.keep(&loaded, currency);
        if self.changes.load(Ordering::SeqCst) != before {
            self.kept.clear();
        }
        Ok(loaded)
    }

    fn keep(&self, prices: &[(i64, i64)], currency: Currency) {
        let now = Instant::now();
        if self.kept.len() + prices.len() > MOST_KEPT {
            self.kept.retain(|_, kept| now < kept.1);
        }
        if self.kept.len() + prices.len() > MOST_KEPT {
            self.kept.clear();
        }
        for (sku_id, minor) in prices {
            self.kept.insert((SkuId(*sku_id), currency), (*minor, now + KEPT_FOR));
        }
    }
}

/// The running sale that a SKU is sold in, and its price there; none where it is sold at its usual price.
fn sale_price(engine: &Engine, sku_id: SkuId, currency: Currency) -> Result<Option<(SaleId, Money)>, Problem> {
    match engine.selling(sku_id) {
        Selling::Usual => Ok(None),
        Selling::InSale(sale) => {
            let price = sale.item(sku_id).and_then(|item| item.price(currency));
            let not_sold = || Invalid::new("lines", format!("{sku_id} is not sold in {currency} while its sale runs"));
            Ok(Some((sale.id, price.ok_or_else(not_sold)?)))
        }
        Selling::NotBefore(sale) => {
            let (sale_id, starts_at) = (sale.id, sale.starts_at);
            Err(Refusal::SaleNotStarted { sku_id, sale_id, starts_at }.into())
        }
    }
}

fn total(lines: &[PricedLine], currency: Currency) -> Result<Money, Invalid> {
    let too_much = |_| Invalid::new("lines", "cost more than can be charged");
    let add = |total: Money, line: &PricedLine| total.plus(line.unit_price.times(line.quantity)?);
    lines.iter().try_fold(Money::new(0, currency), add).map_err(too_much)
}

fn merge(lines: &[(SkuId, Quantity)]) -> Result<Vec<(SkuId, i64)>, Invalid> {
    if lines.is_empty() || lines.len() > MOST_LINES {
        return Err(Invalid::new("lines", format!("an order has 1 to {MOST_LINES} lines")));
    }
    let mut merged: Vec<(SkuId, i64)> = Vec::with_capacity(lines.len());
    let mut places = std::collections::HashMap::with_capacity(lines.len());
    for (sku_id, quantity) in lines {
        let place = *places.entry(*sku_id).or_insert(merged.len());
        match merged.get_mut(place) {
            Some((_, units)) => *units += quantity.units(),
            None => merged.push((*sku_id, quantity.units())),
        }
    }
    match merged.iter().find(|(_, units)| *units > Quantity::MAX) {
        Some(_) => Err(Invalid::new("lines", format!("ask for more than {} of one SKU", Quantity::MAX))),
        None => Ok(merged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_sku_twice_is_one_line() {
        let quantity = |units| Quantity::new(units).expect("valid");
        let lines = [(SkuId(2), quantity(1)), (SkuId(1), quantity(1)), (SkuId(2), quantity(3))];
        assert_eq!(merge(&lines).expect("valid"), vec![(SkuId(2), 4), (SkuId(1), 1)]);
        assert!(merge(&[]).is_err());
        assert!(merge(&vec![(SkuId(1), quantity(1)); MOST_LINES + 1]).is_err());
        assert!(merge(&[(SkuId(1), quantity(Quantity::MAX)), (SkuId(1), quantity(1))]).is_err());
    }
}
