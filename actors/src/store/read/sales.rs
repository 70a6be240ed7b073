//! Sales as people read them.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{
    domain::{Sale, SaleId, SaleItem, SalePhase},
    store::load::sales as load,
};

/// A sale and how it goes.
#[derive(Debug, Clone)]
pub struct SaleView {
    /// The sale.
    pub sale: Sale,
    /// Where it stands.
    pub phase: SalePhase,
    /// What is sold in it.
    pub items: Vec<SaleItemView>,
}

/// What a sale has of a SKU, and how much of that is sold.
#[derive(Debug, Clone)]
pub struct SaleItemView {
    /// What it has.
    pub item: SaleItem,
    /// Units in orders that were not called off, paid or not.
    pub sold: i64,
}

impl SaleItemView {
    /// Units that the sale still has.
    #[must_use]
    pub fn left(&self) -> i64 {
        self.item.quantity - self.sold
    }
}

impl SaleView {
    fn of((sale, sold): (Sale, Vec<i64>), at: DateTime<Utc>) -> Self {
        let items = sale.items.iter().cloned().zip(sold).map(|(item, sold)| SaleItemView { item, sold }).collect();
        Self { phase: sale.phase(at), items, sale }
    }
}

/// Which page of sales.
#[derive(Debug, Clone, Copy)]
pub struct SaleList {
    /// Those alone that are coming or running.
    pub open: bool,
    /// Those numbered before this one.
    pub before: Option<SaleId>,
    /// So many at the most.
    pub most: i64,
}

/// Sales as they stand at a moment, newest first.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn sales(pool: &PgPool, list: SaleList, at: DateTime<Utc>) -> Result<Vec<SaleView>, sqlx::Error> {
    let which = load::Which { id: None, open_at: list.open.then_some(at), before: list.before };
    let found = load::sales(pool, &which, list.most).await?;
    Ok(found.into_iter().map(|sale| SaleView::of(sale, at)).collect())
}

/// A sale as it stands at a moment, if there is one.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn sale(pool: &PgPool, id: SaleId, at: DateTime<Utc>) -> Result<Option<SaleView>, sqlx::Error> {
    let found = load::sales(pool, &load::Which { id: Some(id), ..load::Which::default() }, 1).await?;
    Ok(found.into_iter().next().map(|sale| SaleView::of(sale, at)))
}
