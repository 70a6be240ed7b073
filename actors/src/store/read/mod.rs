//! What people read: committed state, straight from Postgres.

mod parcels;
mod sales;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgPool, Row, postgres::PgRow};

pub use parcels::{PackedView, ReturnView, ShipmentView, TrackingView, returns, shipments};
pub use sales::{SaleItemView, SaleList, SaleView, sale, sales};

use super::load;
use crate::domain::{
    Address, ChosenShipping, Counters, Currency, Fulfilment, Money, NextStep, Order, OrderId, OrderStatus, PartState,
    PaymentId, PaymentState, PaymentSummary, Refund, SkuId, buyers_view::seen_by_buyer,
};

/// An order as its buyer and staff see it.
#[derive(Debug, Clone, Serialize)]
pub struct OrderView {
    /// Its id.
    pub order_id: OrderId,
    /// Its headline.
    pub status: OrderStatus,
    /// Its money's headline.
    pub payment_status: PaymentSummary,
    /// Its goods' headline.
    pub fulfilment_status: Fulfilment,
    /// Why nothing of it is shipped for now.
    pub hold_reason: Option<String>,
    /// What happens next, and by when.
    pub next: NextStep,
    /// What was bought.
    pub lines: Vec<LineView>,
    /// How it is sent, and what of the total that is.
    pub shipping: Option<ChosenShipping>,
    /// What it costs.
    pub total: Money,
    /// When its hold ends, or ended.
    pub hold_expires_at: DateTime<Utc>,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// Whose it is.
    pub email: String,
    /// Where it goes.
    pub shipping_address: Address,
    /// Its attempts to pay.
    pub payments: Vec<PaymentView>,
    /// Its refunds.
    pub refunds: Vec<Refund>,
}

/// One line of an order.
#[derive(Debug, Clone, Serialize)]
pub struct LineView {
    /// What.
    pub sku_id: SkuId,
    /// How many.
    pub quantity: i64,
    /// At what price each.
    pub unit_price: Money,
    /// What the line costs.
    pub total: Money,
    /// Where it stands: while any of it is reserved that, else its newest reservation.
    pub reservation: PartState,
}

/// One attempt to pay.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentView {
    /// Ours.
    pub payment_id: PaymentId,
    /// With whom.
    pub provider: String,
    /// Where it stands.
    pub status: PaymentState,
    /// Where the buyer approves it, while that is of use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approve_url: Option<String>,
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> Self {
        let money = |minor| Money::new(minor, order.total.currency);
        let line = |part: crate::domain::Part| LineView {
            sku_id: part.sku_id,
            quantity: part.quantity,
            unit_price: money(part.unit_price_minor),
            total: money(part.unit_price_minor * part.quantity),
            reservation: order.line_state(&part),
        };
        let payment = |payment: &crate::domain::Payment| PaymentView {
            payment_id: payment.id,
            provider: payment.provider.clone(),
            status: payment.state,
            approve_url: payment
                .announced
                .as_ref()
                .filter(|_| payment.state == PaymentState::Created && order.status == OrderStatus::AwaitingPayment)
                .map(|created| created.approve_url.clone()),
        };
        Self {
            order_id: order.id,
            status: order.status,
            payment_status: order.payment_summary(),
            fulfilment_status: order.fulfilment(),
            hold_reason: order.hold_reason.clone(),
            next: order.next_step(),
            lines: order.lines().map(line).collect(),
            shipping: order
                .service
                .clone()
                .map(|service| ChosenShipping { service, price: money(order.shipping_minor) }),
            total: order.total,
            hold_expires_at: order.deadline,
            created_at: order.created_at,
            email: order.email.as_str().to_owned(),
            shipping_address: order.ship_to.clone(),
            payments: order.payments.iter().map(payment).collect(),
            refunds: order.refunds.clone(),
        }
    }
}

impl OrderView {
    /// The order without what staff has written for itself.
    #[must_use]
    pub fn for_buyer(self) -> Self {
        let untold = |refund| Refund { reason: String::new(), ..refund };
        Self { hold_reason: None, refunds: self.refunds.into_iter().map(untold).collect(), ..self }
    }
}

/// An order, if there is one.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn order(pool: &PgPool, order_id: OrderId) -> Result<Option<OrderView>, sqlx::Error> {
    Ok(load::order(pool, order_id).await?.as_ref().map(OrderView::from))
}

/// One line of an order's timeline.
#[derive(Debug, Clone, Serialize)]
pub struct EventView {
    /// Its number, from 1.
    pub seq: i32,
    /// What happened, in one word.
    pub kind: String,
    /// Its particulars.
    pub data: serde_json::Value,
    /// Who caused it.
    pub who: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// An order's timeline, oldest first; number 1 is the placement itself. Empty where there is no such order. What is not for
/// its buyer is in it where it is `for_staff`.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn events(pool: &PgPool, order_id: OrderId, for_staff: bool) -> Result<Vec<EventView>, sqlx::Error> {
    let rows = sqlx::query(
        "select 1 as seq, 'placed' as kind, '{}'::jsonb as data, 'buyer' as who, created_at as at
         from customer_order where id = $1
         union all
         select seq, kind, data, who, at from order_event where order_id = $1
         order by seq",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(EventView {
            seq: row.try_get("seq")?,
            kind: row.try_get("kind")?,
            data: row.try_get("data")?,
            who: row.try_get("who")?,
            at: row.try_get("at")?,
        })
    };
    let events: Vec<EventView> = rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?;
    let seen = |event: EventView| {
        if for_staff {
            return Some(event);
        }
        Some(EventView { data: seen_by_buyer(&event.kind, event.data)?, ..event })
    };
    Ok(events.into_iter().filter_map(seen).collect())
}

/// One order in a list.
#[derive(Debug, Clone, Serialize)]
pub struct OrderRow {
    /// Its id, and the cursor after it.
    pub order_id: OrderId,
    /// Its headline.
    pub status: String,
    /// What it costs.
    pub total: Money,
    /// Whose it is.
    pub email: String,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// When its hold ends, or ended.
    pub hold_expires_at: DateTime<Utc>,
}

/// Orders, newest first, those placed before `before` where it is given, of one status where it is given.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn orders(
    pool: &PgPool,
    before: Option<OrderId>,
    status: Option<OrderStatus>,
    most: i64,
) -> Result<Vec<OrderRow>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, status::text, currency, total_minor, email, created_at, deadline from customer_order
         where ($1::bigint is null or id < $1) and ($2::text is null or status = $2::order_status)
         order by id desc limit $3",
    )
    .bind(before)
    .bind(status.map(OrderStatus::as_str))
    .bind(most)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        let currency: Currency = row
            .try_get::<String, _>("currency")?
            .parse()
            .map_err(|_| sqlx::Error::ColumnNotFound("currency".into()))?;
        Ok(OrderRow {
            order_id: row.try_get("id")?,
            status: row.try_get("status")?,
            total: Money::new(row.try_get("total_minor")?, currency),
            email: row.try_get("email")?,
            created_at: row.try_get("created_at")?,
            hold_expires_at: row.try_get("deadline")?,
        })
    };
    rows.iter().map(read).collect()
}

/// One move of stock.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerRow {
    /// Its number, and the cursor after it.
    pub id: i64,
    /// By how much stock on hand moved.
    pub d_on_hand: i64,
    /// By how much reserved stock moved.
    pub d_reserved: i64,
    /// Why.
    pub cause: String,
    /// For which order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Who caused it.
    pub who: String,
    /// What a person wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

/// A SKU's ledger, newest first, rows before number `before` where it is given.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn ledger(
    pool: &PgPool,
    sku_id: SkuId,
    before: Option<i64>,
    most: i64,
) -> Result<Vec<LedgerRow>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, d_on_hand, d_reserved, cause::text, order_id, who, note, at from ledger
         where sku_id = $1 and ($2::bigint is null or id < $2) order by id desc limit $3",
    )
    .bind(sku_id)
    .bind(before)
    .bind(most)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(LedgerRow {
            id: row.try_get("id")?,
            d_on_hand: row.try_get("d_on_hand")?,
            d_reserved: row.try_get("d_reserved")?,
            cause: row.try_get("cause")?,
            order_id: row.try_get("order_id")?,
            who: row.try_get("who")?,
            note: row.try_get("note")?,
            at: row.try_get("at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// A SKU's counters, if it is open.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn counters(pool: &PgPool, sku_id: SkuId) -> Result<Option<Counters>, sqlx::Error> {
    Ok(load::counters(pool, &[sku_id.0]).await?.remove(&sku_id.0))
}
