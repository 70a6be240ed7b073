//! What the bank knows. A [`Change`] carries the new state of whatever it touches, so that living and replaying are the
//! same [`Books::apply`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    money::{Money, Purse},
    records::{
        Authorization, Capture, CaptureState, Delivery, Dispute, Event, Named, Order, Refund, RefundKind, RefundStatus,
        Webhook,
    },
};

/// The new state of all that one step has touched; a line of the journal.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) orders: Vec<Arc<Order>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) authorizations: Vec<Arc<Authorization>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) captures: Vec<Arc<Capture>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refunds: Vec<Arc<Refund>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) disputes: Vec<Arc<Dispute>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) webhooks: Vec<Arc<Webhook>>,
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

    pub(super) fn webhook(webhook: Webhook) -> Self {
        Self { webhooks: vec![Arc::new(webhook)], ..Self::default() }
    }

    /// Adds an event; the bank adds a transmission to each webhook that wants it.
    pub(super) fn announce(&mut self, event: Event) {
        self.events.push(Arc::new(event));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
            && self.authorizations.is_empty()
            && self.captures.is_empty()
            && self.refunds.is_empty()
            && self.disputes.is_empty()
            && self.webhooks.is_empty()
            && self.events.is_empty()
            && self.deliveries.is_empty()
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

    /// The records of these names, as far as they are there.
    fn all(&self, names: &[String]) -> Vec<Arc<T>> {
        names.iter().filter_map(|name| self.get(name).cloned()).collect()
    }

    /// Puts a record in its place and returns what stood there.
    fn put(&mut self, record: Arc<T>) -> Option<Arc<T>> {
        if let Some(row) = self.index.get(record.name()) {
            return Some(std::mem::replace(&mut self.rows[*row], record));
        }
        self.index.insert(record.name().to_owned(), self.rows.len());
        self.rows.push(record);
        None
    }
}

/// Money by what became of it.
#[derive(Default, Clone, Serialize)]
pub(super) struct Funds {
    /// What is open of authorizations.
    pub(super) authorized: Purse,
    /// Charged and settled, before anything went back.
    pub(super) captured: Purse,
    pub(super) pending: Purse,
    /// Given back by the merchant.
    pub(super) refunded: Purse,
    pub(super) refunds_pending: Purse,
    /// Taken back by PayPal.
    pub(super) reversed: Purse,
}

impl Funds {
    /// Of orders, with all that was paid on them.
    pub(super) fn of<'a>(sheets: impl IntoIterator<Item = &'a Sheet>) -> Self {
        let mut funds = Self::default();
        for sheet in sheets {
            sheet.authorizations.iter().for_each(|authorization| funds.weigh_authorization(authorization, 1));
            sheet.captures.iter().for_each(|capture| funds.weigh_capture(capture, 1));
            sheet.refunds.iter().for_each(|refund| funds.weigh_refund(refund, 1));
        }
        funds
    }

    /// What the merchant has in the end.
    pub(super) fn kept(&self) -> Purse {
        let mut kept = self.captured.clone();
        for (code, minor) in self.refunded.iter().chain(&self.reversed) {
            *kept.entry(code).or_default() -= minor;
        }
        kept
    }

    /// A renewed authorization stands for the same money as the one that it has renewed.
    fn weigh_authorization(&mut self, authorization: &Authorization, sign: i64) {
        if authorization.is_open() && authorization.parent.is_none() {
            let rest = authorization.amount.minor - authorization.captured;
            add(&mut self.authorized, authorization.amount, sign * rest.max(0));
        }
    }

    fn weigh_capture(&mut self, capture: &Capture, sign: i64) {
        let purse = match capture.state {
            CaptureState::Completed => &mut self.captured,
            CaptureState::Pending { .. } => &mut self.pending,
            CaptureState::Declined | CaptureState::Failed => return,
        };
        add(purse, capture.amount, sign * capture.amount.minor);
    }

    fn weigh_refund(&mut self, refund: &Refund, sign: i64) {
        let purse = match (refund.status, refund.kind) {
            (RefundStatus::Completed, RefundKind::Refund) => &mut self.refunded,
            (RefundStatus::Completed, RefundKind::Reversal) => &mut self.reversed,
            (RefundStatus::Pending, _) => &mut self.refunds_pending,
            (RefundStatus::Failed | RefundStatus::Cancelled, _) => return,
        };
        add(purse, refund.amount, sign * refund.amount.minor);
    }
}

fn add(purse: &mut Purse, money: Money, minor: i64) {
    *purse.entry(money.currency.code).or_default() += minor;
}

/// Sums that are kept while the books change, because counting a hundred thousand orders takes too long.
#[derive(Default, Clone, Serialize)]
pub(super) struct Totals {
    #[serde(flatten)]
    pub(super) funds: Funds,
    pub(super) orders_by_status: Counts,
    pub(super) authorizations_by_status: Counts,
    pub(super) captures_by_status: Counts,
    pub(super) deliveries_by_state: Counts,
}

type Counts = BTreeMap<&'static str, i64>;

/// What a `PayPal-Request-Id` is remembered for: the kind of call, what it was made on, and the id itself.
type Key = (Replay, String, String);

/// The calls that can be repeated without being done again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Replay {
    /// On nothing: the scope is empty.
    Create,
    /// On an authorization; what it has made is a capture.
    Capture,
    /// On an authorization; what it has made is another one.
    Reauthorize,
    /// On a capture.
    Refund,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) orders: Shelf<Order>,
    pub(super) authorizations: Shelf<Authorization>,
    pub(super) captures: Shelf<Capture>,
    pub(super) refunds: Shelf<Refund>,
    pub(super) disputes: Shelf<Dispute>,
    pub(super) webhooks: Shelf<Webhook>,
    pub(super) events: Shelf<Event>,
    pub(super) deliveries: Shelf<Delivery>,
    pub(super) totals: Totals,
    keys: HashMap<Key, String>,
    /// By capture.
    cases: HashMap<String, Vec<String>>,
}

/// An order with everything that was paid on it.
#[derive(Clone)]
pub(super) struct Sheet {
    pub(super) order: Arc<Order>,
    pub(super) authorizations: Vec<Arc<Authorization>>,
    pub(super) captures: Vec<Arc<Capture>>,
    pub(super) refunds: Vec<Arc<Refund>>,
    pub(super) disputes: Vec<Arc<Dispute>>,
}

impl Sheet {
    /// Of an order that nothing was paid on.
    pub(super) fn blank(order: Order) -> Self {
        Self {
            order: Arc::new(order),
            authorizations: Vec::new(),
            captures: Vec::new(),
            refunds: Vec::new(),
            disputes: Vec::new(),
        }
    }
}

impl Books {
    pub(super) fn apply(&mut self, change: &Change) {
        change.orders.iter().for_each(|order| self.put_order(order));
        change.authorizations.iter().for_each(|authorization| self.put_authorization(authorization));
        change.captures.iter().for_each(|capture| self.put_capture(capture));
        change.refunds.iter().for_each(|refund| self.put_refund(refund));
        change.disputes.iter().for_each(|dispute| self.put_dispute(dispute));
        for webhook in &change.webhooks {
            self.webhooks.put(Arc::clone(webhook));
        }
        for event in &change.events {
            self.events.put(Arc::clone(event));
        }
        change.deliveries.iter().for_each(|delivery| self.put_delivery(delivery));
    }

    fn put_order(&mut self, order: &Arc<Order>) {
        let before = self.orders.put(Arc::clone(order));
        if let Some(before) = &before {
            count(&mut self.totals.orders_by_status, before.status(), -1);
        } else {
            self.remember(Replay::Create, "", order.request_id.as_deref(), &order.id);
        }
        count(&mut self.totals.orders_by_status, order.status(), 1);
    }

    fn put_authorization(&mut self, authorization: &Arc<Authorization>) {
        let before = self.authorizations.put(Arc::clone(authorization));
        if let Some(before) = &before {
            self.totals.funds.weigh_authorization(before, -1);
            count(&mut self.totals.authorizations_by_status, before.status(), -1);
        } else if let Some(parent) = &authorization.parent {
            self.remember(Replay::Reauthorize, parent, authorization.request_id.as_deref(), &authorization.id);
        }
        self.totals.funds.weigh_authorization(authorization, 1);
        count(&mut self.totals.authorizations_by_status, authorization.status(), 1);
    }

    fn put_capture(&mut self, capture: &Arc<Capture>) {
        let before = self.captures.put(Arc::clone(capture));
        if let Some(before) = &before {
            self.totals.funds.weigh_capture(before, -1);
            count(&mut self.totals.captures_by_status, before.status(), -1);
        } else if let Some(authorization_id) = &capture.authorization_id {
            self.remember(Replay::Capture, authorization_id, capture.request_id.as_deref(), &capture.id);
        }
        self.totals.funds.weigh_capture(capture, 1);
        count(&mut self.totals.captures_by_status, capture.status(), 1);
    }

    fn put_refund(&mut self, refund: &Arc<Refund>) {
        let before = self.refunds.put(Arc::clone(refund));
        if let Some(before) = &before {
            self.totals.funds.weigh_refund(before, -1);
        } else {
            self.remember(Replay::Refund, &refund.capture_id, refund.request_id.as_deref(), &refund.id);
        }
        self.totals.funds.weigh_refund(refund, 1);
    }

    fn put_dispute(&mut self, dispute: &Arc<Dispute>) {
        if self.disputes.put(Arc::clone(dispute)).is_none() {
            self.cases.entry(dispute.capture_id.clone()).or_default().push(dispute.id.clone());
        }
    }

    fn put_delivery(&mut self, delivery: &Arc<Delivery>) {
        if let Some(before) = self.deliveries.put(Arc::clone(delivery)) {
            count(&mut self.totals.deliveries_by_state, before.state.name(), -1);
        }
        count(&mut self.totals.deliveries_by_state, delivery.state.name(), 1);
    }

    /// The newest takes the place of one that has been forgotten.
    fn remember(&mut self, call: Replay, scope: &str, request_id: Option<&str>, made: &str) {
        if let Some(request_id) = request_id {
            self.keys.insert((call, scope.to_owned(), request_id.to_owned()), made.to_owned());
        }
    }

    /// The id of what a call of this kind, on this and with this `PayPal-Request-Id`, has made; however long ago.
    pub(super) fn made_by(&self, call: Replay, scope: &str, request_id: Option<&str>) -> Option<&str> {
        let key = (call, scope.to_owned(), request_id?.to_owned());
        self.keys.get(&key).map(String::as_str)
    }

    /// The disputes about a capture.
    pub(super) fn disputes_of(&self, capture_id: &str) -> impl Iterator<Item = &Arc<Dispute>> {
        let cases = self.cases.get(capture_id).into_iter().flatten();
        cases.filter_map(|id| self.disputes.get(id))
    }

    pub(super) fn sheet(&self, order_id: &str) -> Option<Sheet> {
        let order = Arc::clone(self.orders.get(order_id)?);
        let authorizations = self.authorizations.all(order.authorizations());
        let captures = self.captures.all(order.captures());
        let refunds = captures.iter().flat_map(|capture| self.refunds.all(&capture.refunds)).collect();
        let disputes = captures.iter().flat_map(|capture| self.disputes_of(&capture.id)).cloned().collect();
        Some(Sheet { order, authorizations, captures, refunds, disputes })
    }
}

fn count(counts: &mut Counts, name: &'static str, by: i64) {
    *counts.entry(name).or_default() += by;
}
