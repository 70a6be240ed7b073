//! Shipments and returns as people see them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::load;
use crate::domain::{
    Money, OrderId, Refund, RefundId, Return, ReturnId, ReturnLine, ReturnState, Service, Shipment, ShipmentId,
    ShipmentLine, ShipmentState, SkuId, TrackingStatus,
};

/// A shipment.
#[derive(Debug, Clone, Serialize)]
pub struct ShipmentView {
    /// Its id.
    pub shipment_id: ShipmentId,
    /// Whose goods.
    pub order_id: OrderId,
    /// Where it stands.
    pub status: ShipmentState,
    /// What is in it.
    pub lines: Vec<PackedView>,
    /// How it is sent.
    pub service: Service,
    /// What a draft waits for.
    pub waits: Option<String>,
    /// Why there is no label, in the carrier's words.
    pub error: Option<String>,
    /// The carrier's name for itself.
    pub carrier: Option<String>,
    /// The parcel's number.
    pub tracking_number: Option<String>,
    /// Where it can be followed.
    pub tracking_url: Option<String>,
    /// What the label cost the shop.
    pub label_cost: Option<Money>,
    /// What the carrier said of it, newest last.
    pub tracking: Vec<TrackingView>,
    /// When it was packed.
    pub created_at: DateTime<Utc>,
    /// When it left.
    pub left_at: Option<DateTime<Utc>>,
}

/// Some units of a line in a shipment.
#[derive(Debug, Clone, Serialize)]
pub struct PackedView {
    /// The order's line, from 0.
    pub line: i32,
    /// What.
    pub sku_id: SkuId,
    /// How many.
    pub quantity: i64,
}

/// One thing that a carrier said.
#[derive(Debug, Clone, Serialize)]
pub struct TrackingView {
    /// Where the parcel was.
    pub status: TrackingStatus,
    /// The carrier's finer word.
    pub substatus: Option<String>,
    /// For a person.
    pub details: String,
    /// When, by the carrier's clock.
    pub at: DateTime<Utc>,
}

impl ShipmentView {
    fn of(order_id: OrderId, shipment: Shipment) -> Self {
        let packed =
            |packed: &ShipmentLine| PackedView { line: packed.line, sku_id: packed.sku_id, quantity: packed.quantity };
        let lines = shipment.lines.iter().map(packed).collect();
        let mut tracking: Vec<TrackingView> = shipment
            .facts
            .into_iter()
            .map(|fact| TrackingView {
                status: fact.status,
                substatus: fact.substatus,
                details: fact.details,
                at: fact.at,
            })
            .collect();
        tracking.sort_by_key(|fact| (fact.at, fact.status));
        Self {
            shipment_id: shipment.id,
            order_id,
            status: shipment.state,
            lines,
            service: shipment.service,
            waits: shipment.waits,
            error: shipment.error,
            carrier: shipment.carrier,
            tracking_number: shipment.tracking_number,
            tracking_url: shipment.tracking_url,
            label_cost: shipment.cost,
            tracking,
            created_at: shipment.created_at,
            left_at: shipment.left_at,
        }
    }
}

/// A return.
#[derive(Debug, Clone, Serialize)]
pub struct ReturnView {
    /// Its id.
    pub return_id: ReturnId,
    /// Whose goods.
    pub order_id: OrderId,
    /// Where it stands.
    pub status: ReturnState,
    /// What is to come back, and what became of it.
    pub lines: Vec<ReturnLine>,
    /// What pays it back.
    pub refund_ids: Vec<RefundId>,
    /// What the asker said.
    pub note: Option<String>,
    /// The parcel that the carrier brings back, where nobody asked for it.
    pub shipment_id: Option<ShipmentId>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

impl ReturnView {
    fn of(order_id: OrderId, goods: Return, refunds: &[Refund]) -> Self {
        let paid_back = |refund: &&Refund| refund.command_id.is_some() && refund.command_id == goods.refund_command;
        let refund_ids = refunds.iter().filter(paid_back).map(|refund| refund.id).collect();
        Self {
            refund_ids,
            return_id: goods.id,
            order_id,
            status: goods.state,
            lines: goods.lines,
            note: goods.note,
            shipment_id: goods.shipment_id,
            created_at: goods.created_at,
        }
    }
}

/// An order's shipments, oldest first; none where there is no such order.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn shipments(pool: &PgPool, order_id: OrderId) -> Result<Option<Vec<ShipmentView>>, sqlx::Error> {
    let Some(order) = load::order(pool, order_id).await? else { return Ok(None) };
    Ok(Some(order.shipments.into_iter().map(|shipment| ShipmentView::of(order_id, shipment)).collect()))
}

/// An order's returns, oldest first; none where there is no such order.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn returns(pool: &PgPool, order_id: OrderId) -> Result<Option<Vec<ReturnView>>, sqlx::Error> {
    let Some(order) = load::order(pool, order_id).await? else { return Ok(None) };
    Ok(Some(order.returns.into_iter().map(|goods| ReturnView::of(order_id, goods, &order.refunds)).collect()))
}
