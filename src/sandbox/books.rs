//! What the bank knows. A [`Change`] carries the new state of whatever it touches, so that living and replaying are the
//! same [`Books::apply`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::money::{Money, Purse};

/// What the buyer is asked to pay, and how far that has come.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) request_id: Option<String>,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    /// Created with `payment_source.paypal`: PayPal then uses other words for its status and links.
    pub(super) wallet: bool,
    pub(super) experience: Experience,
    pub(super) units: Vec<Unit>,
    pub(super) stage: Stage,
}

impl Order {
    /// The sum over all purchase units.
    pub(super) fn total(&self) -> Money {
        let first = self.units[0].amount.money; // a draft without units is refused
        first.of(self.units.iter().map(|unit| unit.amount.money.minor).sum())
    }

    pub(super) fn status(&self) -> &'static str {
        match (&self.stage, self.wallet) {
            (Stage::Open, true) => "PAYER_ACTION_REQUIRED",
            (Stage::Open, false) => "CREATED",
            (Stage::Approved(_), _) => "APPROVED",
            (Stage::Completed { .. }, _) => "COMPLETED",
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Open,
    Approved(Instrument),
    Completed { at: DateTime<Utc>, request_id: Option<String>, captures: Vec<String> },
}

/// What happens when the instrument that the buyer has chosen is charged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Instrument {
    /// The money comes at once.
    #[default]
    Good,
    /// The capture stays PENDING, as with an eCheck.
    Slow,
    /// The capture call answers 422 `INSTRUMENT_DECLINED`, until the buyer chooses another one.
    Refused,
    /// The capture call answers 201 with a capture that is DECLINED.
    Declined,
}

/// `experience_context`, as far as the approval page needs it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Experience {
    pub(super) return_url: Option<String>,
    pub(super) cancel_url: Option<String>,
    pub(super) brand_name: Option<String>,
}

/// A purchase unit, in the shape of the wire.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Unit {
    pub(super) reference_id: String,
    pub(super) amount: Amount,
    /// Who is paid, if somebody was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payee: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) custom_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invoice_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) soft_descriptor: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shipping: Option<Value>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Amount {
    #[serde(flatten)]
    pub(super) money: Money,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) breakdown: BTreeMap<String, Money>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) quantity: String,
    pub(super) unit_amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tax: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sku: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) category: Option<String>,
}

/// Money taken from the buyer, or the attempt.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Capture {
    pub(super) id: String,
    pub(super) order_id: String,
    pub(super) reference_id: String,
    pub(super) amount: Money,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) state: CaptureState,
    /// What has gone back to the buyer, in minor units.
    pub(super) refunded: i64,
    pub(super) refunds: Vec<String>,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
}

impl Capture {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            CaptureState::Completed if self.refunded == 0 => "COMPLETED",
            CaptureState::Completed if self.refunded < self.amount.minor => "PARTIALLY_REFUNDED",
            CaptureState::Completed => "REFUNDED",
            CaptureState::Pending { .. } => "PENDING",
            CaptureState::Declined => "DECLINED",
            CaptureState::Failed => "FAILED",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CaptureState {
    Completed,
    Pending { reason: String },
    Declined,
    Failed,
}

/// Money given back.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) capture_id: String,
    pub(super) order_id: String,
    pub(super) request_id: Option<String>,
    pub(super) amount: Money,
    /// The sum of the capture's refunds including this one, in minor units.
    pub(super) total_refunded: i64,
    pub(super) custom_id: Option<String>,
    pub(super) invoice_id: Option<String>,
    pub(super) note_to_payer: Option<String>,
    pub(super) created: DateTime<Utc>,
}

/// A fact that the merchant is told of.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) event_type: String,
    pub(super) order_id: String,
    pub(super) resource_id: String,
    pub(super) created: DateTime<Utc>,
    /// The envelope, byte for byte as it is delivered.
    pub(super) body: Box<RawValue>,
}

/// One transmission of an event, with its retries.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) transmission_id: String,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) order_id: String,
    pub(super) created: DateTime<Utc>,
    pub(super) state: DeliveryState,
    pub(super) attempts: Vec<Attempt>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryState {
    Due(DateTime<Utc>),
    /// Answered with a 2xx.
    Delivered,
    /// Lost on purpose by a scripted fault.
    Dropped,
    /// All retries are used up.
    GivenUp,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) at: DateTime<Utc>,
    /// The status of the answer, or why there was none.
    pub(super) answer: String,
    /// The fault that was applied to this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<String>,
}

/// The new state of all that one step has touched; a line of the journal.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) orders: Vec<Arc<Order>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) captures: Vec<Arc<Capture>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refunds: Vec<Arc<Refund>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) events: Vec<Arc<Event>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) deliveries: Vec<Arc<Delivery>>,
}

impl Change {
    pub(super) fn order(order: Order) -> Self {
        Self { orders: vec![Arc::new(order)], ..Self::default() }
    }

    pub(super) fn delivery(delivery: Delivery) -> Self {
        Self { deliveries: vec![Arc::new(delivery)], ..Self::default() }
    }

    /// Adds an event and its first transmission.
    pub(super) fn announce(&mut self, event: Event) {
        self.deliveries.push(Arc::new(Delivery::of(&event, event.created)));
        self.events.push(Arc::new(event));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
            && self.captures.is_empty()
            && self.refunds.is_empty()
            && self.events.is_empty()
            && self.deliveries.is_empty()
    }
}

impl Delivery {
    pub(super) fn of(event: &Event, now: DateTime<Utc>) -> Self {
        Self {
            transmission_id: super::ids::transmission(),
            event_id: event.id.clone(),
            event_type: event.event_type.clone(),
            order_id: event.order_id.clone(),
            created: now,
            state: DeliveryState::Due(now),
            attempts: Vec::new(),
        }
    }
}

/// Whatever has a name in the books.
pub(super) trait Named {
    fn name(&self) -> &str;
}

impl Named for Order {
    fn name(&self) -> &str {
        &self.id
    }
}

impl Named for Capture {
    fn name(&self) -> &str {
        &self.id
    }
}

impl Named for Refund {
    fn name(&self) -> &str {
        &self.id
    }
}

impl Named for Event {
    fn name(&self) -> &str {
        &self.id
    }
}

impl Named for Delivery {
    fn name(&self) -> &str {
        &self.transmission_id
    }
}

/// Records by name and in the order of their first appearance.
pub(super) struct Shelf<T> {
    rows: Vec<Arc<T>>,
    index: HashMap<String, usize>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), index: HashMap::new() }
    }
}

impl<T: Named> Shelf<T> {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.index.get(name).map(|row| &self.rows[*row])
    }

    pub(super) fn rows(&self) -> &[Arc<T>] {
        &self.rows
    }

    /// Puts a record in its place and returns what stood there.
    pub(super) fn put(&mut self, record: Arc<T>) -> Option<Arc<T>> {
        if let Some(row) = self.index.get(record.name()) {
            return Some(std::mem::replace(&mut self.rows[*row], record));
        }
        self.index.insert(record.name().to_owned(), self.rows.len());
        self.rows.push(record);
        None
    }
}

/// Sums that are kept while the books change, because counting a hundred thousand orders takes too long.
#[derive(Default, Clone, Serialize)]
pub(super) struct Totals {
    /// Charged and settled, before refunds.
    pub(super) captured: Purse,
    pub(super) pending: Purse,
    pub(super) refunded: Purse,
    pub(super) orders_by_status: BTreeMap<&'static str, i64>,
    pub(super) captures_by_status: BTreeMap<&'static str, i64>,
    pub(super) deliveries_by_state: BTreeMap<&'static str, i64>,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) orders: Shelf<Order>,
    pub(super) captures: Shelf<Capture>,
    pub(super) refunds: Shelf<Refund>,
    pub(super) events: Shelf<Event>,
    pub(super) deliveries: Shelf<Delivery>,
    pub(super) totals: Totals,
    order_keys: HashMap<String, String>,
    refund_keys: HashMap<(String, String), String>,
}

/// An order with everything that was paid on it.
#[derive(Clone)]
pub(super) struct Sheet {
    pub(super) order: Arc<Order>,
    pub(super) captures: Vec<Arc<Capture>>,
    pub(super) refunds: Vec<Arc<Refund>>,
}

impl Books {
    pub(super) fn apply(&mut self, change: &Change) {
        for order in &change.orders {
            self.put_order(order);
        }
        for capture in &change.captures {
            self.put_capture(capture);
        }
        for refund in &change.refunds {
            self.put_refund(refund);
        }
        for event in &change.events {
            self.events.put(Arc::clone(event));
        }
        for delivery in &change.deliveries {
            self.put_delivery(delivery);
        }
    }

    fn put_order(&mut self, order: &Arc<Order>) {
        let before = self.orders.put(Arc::clone(order));
        if let Some(before) = &before {
            count(&mut self.totals.orders_by_status, before.status(), -1);
        } else if let Some(key) = &order.request_id {
            self.order_keys.insert(key.clone(), order.id.clone());
        }
        count(&mut self.totals.orders_by_status, order.status(), 1);
    }

    fn put_capture(&mut self, capture: &Arc<Capture>) {
        if let Some(before) = self.captures.put(Arc::clone(capture)) {
            self.totals.weigh(&before, -1);
        }
        self.totals.weigh(capture, 1);
    }

    fn put_refund(&mut self, refund: &Arc<Refund>) {
        if let Some(key) = &refund.request_id {
            self.refund_keys.insert((refund.capture_id.clone(), key.clone()), refund.id.clone());
        }
        self.refunds.put(Arc::clone(refund));
    }

    fn put_delivery(&mut self, delivery: &Arc<Delivery>) {
        if let Some(before) = self.deliveries.put(Arc::clone(delivery)) {
            count(&mut self.totals.deliveries_by_state, before.state.name(), -1);
        }
        count(&mut self.totals.deliveries_by_state, delivery.state.name(), 1);
    }

    /// The order that a create call with this `PayPal-Request-Id` has made.
    pub(super) fn order_by_key(&self, request_id: &str) -> Option<&Arc<Order>> {
        self.orders.get(self.order_keys.get(request_id)?)
    }

    /// The refund that a refund call on this capture with this `PayPal-Request-Id` has made.
    pub(super) fn refund_by_key(&self, capture_id: &str, request_id: &str) -> Option<&Arc<Refund>> {
        self.refunds.get(self.refund_keys.get(&(capture_id.to_owned(), request_id.to_owned()))?)
    }

    pub(super) fn sheet(&self, order_id: &str) -> Option<Sheet> {
        let order = Arc::clone(self.orders.get(order_id)?);
        let capture_ids = match &order.stage {
            Stage::Completed { captures, .. } => captures.as_slice(),
            Stage::Open | Stage::Approved(_) => &[],
        };
        let captures: Vec<_> = capture_ids.iter().filter_map(|id| self.captures.get(id).cloned()).collect();
        let refund_ids = captures.iter().flat_map(|capture| &capture.refunds);
        let refunds = refund_ids.filter_map(|id| self.refunds.get(id).cloned()).collect();
        Some(Sheet { order, captures, refunds })
    }
}

impl Totals {
    fn weigh(&mut self, capture: &Capture, sign: i64) {
        let code = capture.amount.currency.code;
        match capture.state {
            CaptureState::Completed => *self.captured.entry(code).or_default() += sign * capture.amount.minor,
            CaptureState::Pending { .. } => *self.pending.entry(code).or_default() += sign * capture.amount.minor,
            CaptureState::Declined | CaptureState::Failed => {}
        }
        if capture.refunded != 0 {
            *self.refunded.entry(code).or_default() += sign * capture.refunded;
        }
        count(&mut self.captures_by_status, capture.status(), sign);
    }
}

impl DeliveryState {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Due(_) => "due",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::GivenUp => "given_up",
        }
    }
}

fn count(counts: &mut BTreeMap<&'static str, i64>, name: &'static str, by: i64) {
    *counts.entry(name).or_default() += by;
}
