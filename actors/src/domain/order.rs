//! The order: its statuses, its parts, what it all comes to.

use std::{cmp::Ordering, collections::HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    Address, Capture, Email, Intent, Money, OrderId, Payment, PaymentId, PaymentState, Refund, RefundId, RefundKind,
    RefundState, Return, SaleShare, Service, Shipment, ShipmentId, ShipmentState, SkuId, Standing, TaskId, TaskKind,
    words,
};

words! {
    /// An order's headline.
    OrderStatus {
        /// Its lines are held until the deadline.
        AwaitingPayment = "awaiting_payment",
        /// Paid; its lines are sold.
        Confirmed = "confirmed",
        /// Delivered.
        Completed = "completed",
        /// Paid, and being undone.
        Cancelling = "cancelling",
        /// Called off.
        Cancelled = "cancelled",
        /// Not paid in time.
        Expired = "expired",
    }
}

words! {
    /// A reservation's state.
    PartState {
        /// Kept for the buyer until the deadline.
        Held = "held",
        /// Sold.
        Committed = "committed",
        /// Given back on a cancel.
        Released = "released",
        /// Given back at the deadline.
        Expired = "expired",
        /// Gone to the buyer.
        Shipped = "shipped",
        /// Came back, and can be sold again.
        Restocked = "restocked",
        /// Came back, and is put aside.
        Quarantined = "quarantined",
        /// Came back, and was thrown away.
        Scrapped = "scrapped",
    }
}

impl PartState {
    /// Whether its units count as reserved.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Held | Self::Committed => true,
            Self::Released | Self::Expired | Self::Shipped | Self::Restocked | Self::Quarantined | Self::Scrapped => {
                false
            }
        }
    }

    /// Whether its units were given back before they left.
    #[must_use]
    pub fn is_given_back(self) -> bool {
        match self {
            Self::Released | Self::Expired => true,
            Self::Held | Self::Committed | Self::Shipped | Self::Restocked | Self::Quarantined | Self::Scrapped => {
                false
            }
        }
    }

    /// Whether its units have left, whatever became of them later.
    #[must_use]
    pub fn is_out(self) -> bool {
        match self {
            Self::Shipped | Self::Restocked | Self::Quarantined | Self::Scrapped => true,
            Self::Held | Self::Committed | Self::Released | Self::Expired => false,
        }
    }
}

words! {
    /// Goods of an order, derived from its parts and shipments.
    Fulfilment {
        /// Nothing has left.
        Unfulfilled = "unfulfilled",
        /// Some of what is sold has left.
        Partial = "partially_fulfilled",
        /// All of it has.
        Fulfilled = "fulfilled",
        /// All of it is with the buyer.
        Delivered = "delivered",
    }
}

words! {
    /// Money of an order, derived from its payments and refunds.
    PaymentSummary {
        /// Nothing has arrived.
        Unpaid = "unpaid",
        /// The provider is undecided.
        Pending = "pending",
        /// The total is reserved, to be taken when the goods leave.
        Authorised = "authorised",
        /// Less than the total is here.
        Partial = "partially_paid",
        /// The total is here.
        Paid = "paid",
        /// More than the total is here.
        Over = "overpaid",
        /// The buyer disputes what is here.
        Disputed = "disputed",
        /// What came was taken back.
        Reversed = "reversed",
        /// Some of what came went back, or is going.
        PartlyRefunded = "partially_refunded",
        /// What came is going back.
        Refunding = "refunding",
        /// What came has gone back.
        Refunded = "refunded",
    }
}

words! {
    /// Who caused a change.
    Who {
        /// The buyer, member or guest.
        Buyer = "buyer",
        /// Staff.
        Staff = "staff",
        /// A provider's word.
        Provider = "provider",
        /// A deadline or another rule of the engine.
        Engine = "engine",
    }
}

/// The rules of a shop that decisions need.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How long a checkout holds its lines.
    pub hold: TimeDelta,
    /// No charge begins in the last moments of a hold: its answer could come too late.
    pub capture_margin: TimeDelta,
    /// How long an undecided charge (e-check, review) keeps its lines.
    pub pending_hold: TimeDelta,
    /// How many attempts to pay one order may have.
    pub attempts: usize,
    /// When approved payments are charged.
    pub intent: Intent,
}

/// One reservation of an order: a line, or what became of (part of) it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its number within the order, from 0.
    pub part: i32,
    /// The line it belongs to, from 0.
    pub line: i32,
    /// What is reserved.
    pub sku_id: SkuId,
    /// How many.
    pub quantity: i64,
    /// At what price each.
    pub unit_price_minor: i64,
    /// Where it stands.
    pub state: PartState,
    /// The part that was reserved, where this one was split off it.
    pub split_of: Option<i32>,
    /// The sale that it was bought in.
    pub share: Option<SaleShare>,
}

/// What a provider call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// An attempt to pay.
    Payment(PaymentId),
    /// A refund of an attempt.
    Refund(PaymentId, RefundId),
    /// A shipment.
    Shipment(ShipmentId),
}

impl About {
    /// The attempt to pay, where it is about money.
    #[must_use]
    pub fn payment_id(self) -> Option<PaymentId> {
        match self {
            Self::Payment(payment_id) | Self::Refund(payment_id, _) => Some(payment_id),
            Self::Shipment(_) => None,
        }
    }

    /// The refund, where it is about one.
    #[must_use]
    pub fn refund_id(self) -> Option<RefundId> {
        match self {
            Self::Refund(_, refund_id) => Some(refund_id),
            Self::Payment(_) | Self::Shipment(_) => None,
        }
    }

    /// The shipment, where it is about one.
    #[must_use]
    pub fn shipment_id(self) -> Option<ShipmentId> {
        match self {
            Self::Shipment(shipment_id) => Some(shipment_id),
            Self::Payment(_) | Self::Refund(..) => None,
        }
    }
}

/// A provider call that was committed and is not yet answered.
#[derive(Debug, Clone)]
pub struct Task {
    /// Ours, and the provider's idempotency key.
    pub id: TaskId,
    /// What it is about.
    pub about: About,
    /// What is asked.
    pub kind: TaskKind,
    /// How much is asked for, where a later decision must not change it.
    pub amount: Option<Money>,
    /// How often it was made without an answer.
    pub attempts: i32,
    /// It was refused for good, and the timeline says so; what is owed is asked for again all the same.
    pub refused: bool,
    /// When it is to be made (again).
    pub due_at: DateTime<Utc>,
    /// When it was decided.
    pub created_at: DateTime<Utc>,
}

/// An order with everything that decisions about it need.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Grows by one with every entry.
    pub version: i32,
    /// The number of its newest event.
    pub last_event: i32,
    /// Its headline.
    pub status: OrderStatus,
    /// Why nothing of it may be shipped for now, where that is so.
    pub hold_reason: Option<String>,
    /// When its hold ends, or ended.
    pub deadline: DateTime<Utc>,
    /// The hold's own end, while an undecided payment keeps the lines for longer.
    pub hold_ends_at: Option<DateTime<Utc>>,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// What it costs, sending included.
    pub total: Money,
    /// How much of that is for sending.
    pub shipping_minor: i64,
    /// How it is sent, where that was chosen.
    pub service: Option<Service>,
    /// Whose it is.
    pub email: Email,
    /// Where it goes.
    pub ship_to: Address,
    /// Its reservations, by number.
    pub parts: Vec<Part>,
    /// Its attempts to pay, oldest first.
    pub payments: Vec<Payment>,
    /// Its refunds.
    pub refunds: Vec<Refund>,
    /// Provider calls under way.
    pub tasks: Vec<Task>,
    /// Its shipments, oldest first.
    pub shipments: Vec<Shipment>,
    /// Its returns, oldest first.
    pub returns: Vec<Return>,
}

/// What happens next, and by when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NextStep {
    /// What, for a person.
    pub what: &'static str,
    /// The latest time, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<DateTime<Utc>>,
}

/// Lines that were given back and are wanted again, because money or an approval came late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restock {
    /// Money arrived for an expired order.
    LateMoney {
        /// With which attempt.
        payment_id: PaymentId,
        /// As which capture.
        capture_id: String,
        /// How much.
        amount: Money,
    },
    /// Money was reserved for an expired order.
    LateAuthorisation {
        /// With which attempt.
        payment_id: PaymentId,
    },
    /// The buyer approved an order that has expired; nothing is charged.
    LateApproval {
        /// With which attempt.
        payment_id: PaymentId,
    },
}

impl Order {
    /// How the buyer chose to have it sent; by hand where nothing was offered.
    #[must_use]
    pub fn chosen_service(&self) -> Service {
        self.service.clone().unwrap_or_else(|| Service {
            provider: Service::MANUAL.to_owned(),
            carrier: String::new(),
            token: String::new(),
            name: "By hand".to_owned(),
        })
    }

    /// The lines as they were bought: the first part of each, with what was split off it.
    pub fn lines(&self) -> impl Iterator<Item = Part> {
        let mut split_off: HashMap<i32, i64> = HashMap::new();
        for part in &self.parts {
            if let Some(first) = part.split_of {
                *split_off.entry(first).or_default() += part.quantity;
            }
        }
        let first = self.parts.iter().filter(|part| part.part == part.line);
        first.map(move |first| {
            let quantity = first.quantity + split_off.get(&first.part).copied().unwrap_or(0);
            Part { quantity, ..first.clone() }
        })
    }

    /// Whether any of it was bought in a sale.
    #[must_use]
    pub fn is_of_a_sale(&self) -> bool {
        self.parts.iter().any(|part| part.share.is_some())
    }

    /// Where a line stands: while any of it is reserved that, else its newest part.
    #[must_use]
    pub fn line_state(&self, line: &Part) -> PartState {
        let parts = || self.parts.iter().rev().filter(|part| part.line == line.line);
        parts().find(|part| part.state.is_open()).or_else(|| parts().next()).map_or(line.state, |part| part.state)
    }

    // ── money: every sum is over the set of facts, so it does not matter in which order they came ──────────────────────────

    /// What arrived, one entry a capture, also what was taken back again.
    #[must_use]
    pub fn captures(&self) -> Vec<Capture> {
        self.payments.iter().flat_map(Payment::captures).collect()
    }

    fn our_captures(&self) -> impl Iterator<Item = Capture> {
        self.captures().into_iter().filter(|capture| capture.amount.is_some_and(|a| a.currency == self.total.currency))
    }

    fn live_refunds_of(&self, payment_id: PaymentId, capture_id: &str) -> impl Iterator<Item = &Refund> {
        let of = move |refund: &&Refund| refund.payment_id == payment_id && refund.capture_id == capture_id;
        self.refunds.iter().filter(of).filter(|refund| refund.is_live())
    }

    /// How much of a capture is promised to go back, or has gone.
    #[must_use]
    pub fn refunding_of(&self, payment_id: PaymentId, capture_id: &str) -> i64 {
        self.live_refunds_of(payment_id, capture_id).map(|refund| refund.amount.minor).sum()
    }

    /// How much of a capture can go back at all: not what was taken back or lost, which may show as a refund too.
    #[must_use]
    pub fn refundable_of(&self, capture: &Capture) -> i64 {
        let came = capture.amount.map_or(0, |amount| amount.minor);
        if capture.standing == Standing::Gone {
            return 0;
        }
        let live = self.live_refunds_of(capture.payment_id, &capture.capture_id);
        let mirrored = live.filter(|refund| refund.kind == RefundKind::Mirrored).map(|refund| refund.amount.minor);
        came - (capture.lost - mirrored.sum::<i64>()).max(0)
    }

    /// How much of a capture is here and promised to nobody, not even once it can be given back again.
    #[must_use]
    pub fn left_of(&self, capture: &Capture) -> i64 {
        (self.refundable_of(capture) - self.owed_of(capture, |_| true)).max(0)
    }

    /// Money that is here, in the order's currency, and promised to nobody.
    #[must_use]
    pub fn kept_minor(&self) -> i64 {
        self.our_captures().map(|capture| self.left_of(&capture)).sum()
    }

    /// What the order has been given: what arrived, without what was taken back as a whole, what it had no claim to, and
    /// what went back for lines that were called off. A kindness, a refund of a line that was sold, or part of it that a
    /// bank took back (which holds the order, until people decide) does not make it less; nor does what was given back at
    /// the provider, unless more than the total had come.
    #[must_use]
    pub fn paid_minor(&self) -> i64 {
        let mut for_called_off = self.refunded_and_called_off();
        let (mut paid, mut by_hand) = (0, 0);
        for capture in self.our_captures() {
            let owed = |counts: fn(RefundKind) -> bool| self.owed_of(&capture, counts);
            let corrected = owed(|kind| matches!(kind, RefundKind::Correction | RefundKind::Cancellation));
            let of_lines = owed(|kind| kind == RefundKind::Lines).min(for_called_off);
            for_called_off -= of_lines;
            if capture.standing != Standing::Gone {
                let came = capture.amount.map_or(0, |amount| amount.minor);
                paid += (came - corrected - of_lines).max(0);
                by_hand += owed(|kind| kind == RefundKind::Mirrored);
            }
        }
        let too_much = (paid - self.total.minor).max(0);
        paid - too_much.min(by_hand)
    }

    fn owed_of(&self, capture: &Capture, counts: fn(RefundKind) -> bool) -> i64 {
        let of = |refund: &&Refund| {
            refund.payment_id == capture.payment_id && refund.capture_id == capture.capture_id && refund.is_owed()
        };
        let counted = self.refunds.iter().filter(of).filter(|refund| counts(refund.kind));
        counted.map(|refund| refund.amount.minor).sum()
    }

    /// Units of a line whose price went back by a refund of the line, or is owed so.
    #[must_use]
    pub fn refunded_units(&self, line: i32) -> i64 {
        let of_lines = self.refunds.iter().filter(|refund| refund.is_owed() && refund.kind == RefundKind::Lines);
        let units = of_lines.flat_map(|refund| &refund.lines).filter(|units| units.line == line);
        units.map(|units| units.quantity).sum()
    }

    /// The price of units that were refunded, and called off as well: more than was bought is one or the other.
    fn refunded_and_called_off(&self) -> i64 {
        let both = |line: &Part| {
            let called_off = self.units(line.line, |state| state == PartState::Released);
            (self.refunded_units(line.line) + called_off - line.quantity).max(0) * line.unit_price_minor
        };
        self.lines().map(|line| both(&line)).sum()
    }

    /// What the order costs as it is: less what was called off after it had been confirmed.
    #[must_use]
    pub fn due_minor(&self) -> i64 {
        let called_off = self.parts.iter().filter(|part| part.state == PartState::Released);
        self.total.minor - called_off.map(|part| part.quantity * part.unit_price_minor).sum::<i64>()
    }

    /// Whether what it costs is here.
    #[must_use]
    pub fn is_paid(&self) -> bool {
        self.paid_minor() >= self.due_minor()
    }

    /// The attempt whose money is reserved for this order, if there is one.
    #[must_use]
    pub fn authorised(&self) -> Option<&Payment> {
        let reserved =
            |payment: &&Payment| payment.state != PaymentState::Failed && payment.authorisation_left().is_some();
        self.payments.iter().find(reserved)
    }

    /// Whether anything of it has left, or is about to.
    #[must_use]
    pub fn has_goods_out(&self) -> bool {
        self.parts.iter().any(|part| part.state.is_out())
    }

    /// Until when a charge may begin: while the lines are held, and not in the last moments of that. None: no more.
    #[must_use]
    pub fn charge_before(&self, policy: &Policy) -> Option<DateTime<Utc>> {
        (self.status == OrderStatus::AwaitingPayment).then(|| self.deadline - policy.capture_margin)
    }

    pub(super) fn may_charge(&self, at: DateTime<Utc>, policy: &Policy) -> bool {
        self.charge_before(policy).is_some_and(|limit| at < limit)
    }

    /// An approval of an expired order that nobody has answered yet.
    #[must_use]
    pub fn late_approval(&self) -> Option<Restock> {
        let approved = self.payments.iter().find(|payment| payment.state == PaymentState::Approved)?;
        (self.status == OrderStatus::Expired).then_some(Restock::LateApproval { payment_id: approved.id })
    }

    /// Units of a line whose reservations are in one of some states.
    #[must_use]
    pub fn units(&self, line: i32, of: impl Fn(PartState) -> bool) -> i64 {
        self.parts.iter().filter(|part| part.line == line && of(part.state)).map(|part| part.quantity).sum()
    }

    /// Units of a line that are sold and in no shipment: they can be packed, or called off.
    #[must_use]
    pub fn unpacked(&self, line: i32) -> i64 {
        let packed: i64 = self.shipments.iter().filter(|own| own.is_packed()).map(|own| own.units(line)).sum();
        self.units(line, |state| state == PartState::Committed) - packed
    }

    /// Whether a carrier still decides about a label of this order.
    #[must_use]
    pub fn awaits_carrier(&self) -> bool {
        let undecided = |state| matches!(state, ShipmentState::Purchasing | ShipmentState::Voiding);
        self.shipments.iter().any(|shipment| undecided(shipment.state))
    }

    /// Units of a line that left and are in no return.
    #[must_use]
    pub fn returnable(&self, line: i32) -> i64 {
        let claimed: i64 = self.returns.iter().map(|own| own.claims(line)).sum();
        self.units(line, PartState::is_out) - claimed
    }

    /// Units of a line that are with the buyer, or were.
    fn delivered(&self, line: i32) -> i64 {
        let delivered = self.shipments.iter().filter(|own| own.state == ShipmentState::Delivered);
        delivered.map(|own| own.units(line)).sum()
    }

    /// Units of a line that left and are neither with the buyer nor back. What no carrier has brought back came from the
    /// buyer, who sends back first what has arrived.
    fn under_way(&self, line: i32) -> i64 {
        let lost_sight_of = |own: &&Shipment| own.left_at.is_some() && own.state != ShipmentState::Delivered;
        let (mut under_way, mut brought_back) = (0, 0);
        for shipment in self.shipments.iter().filter(lost_sight_of) {
            under_way += shipment.units(line);
            let returns = self.returns.iter().filter(|goods| goods.shipment_id == Some(shipment.id));
            brought_back += returns.map(|goods| goods.looked_at(line)).sum::<i64>();
        }
        let back = self.units(line, |state| state.is_out() && state != PartState::Shipped);
        let sent_back = back - brought_back;
        under_way - brought_back - (sent_back - self.delivered(line)).max(0)
    }

    /// The goods' headline.
    #[must_use]
    pub fn fulfilment(&self) -> Fulfilment {
        let sum = |of: &dyn Fn(i32) -> i64| self.lines().map(|line| of(line.line)).sum::<i64>();
        let left = sum(&|line| self.units(line, PartState::is_out));
        let waiting = sum(&|line| self.units(line, PartState::is_open));
        match (left, waiting) {
            (0, _) => Fulfilment::Unfulfilled,
            (_, 1..) => Fulfilment::Partial,
            _ if sum(&|line| self.delivered(line)) == left => Fulfilment::Delivered,
            _ => Fulfilment::Fulfilled,
        }
    }

    /// Whether nothing of the goods is open any more: all that was sold is with the buyer, or came back and was looked at.
    #[must_use]
    pub fn is_served(&self) -> bool {
        let open = |line: i32| self.units(line, PartState::is_open) > 0 || self.under_way(line) > 0;
        self.parts.iter().any(|part| part.state.is_out()) && !self.lines().any(|line| open(line.line))
    }

    /// The money's headline.
    #[must_use]
    pub fn payment_summary(&self) -> PaymentSummary {
        let (captures, kept, due) = (self.captures(), self.kept_minor(), self.due_minor());
        let any = |state| self.payments.iter().any(|payment| payment.state == state);
        let stands = |standing| captures.iter().any(|capture| capture.standing == standing);
        let waits = |refund: &Refund| matches!(refund.state, RefundState::Requested | RefundState::Pending);
        let over = matches!(self.status, OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired);
        if captures.is_empty() {
            return match () {
                () if any(PaymentState::Pending) => PaymentSummary::Pending,
                () if self.authorised().is_some() && !over => PaymentSummary::Authorised,
                () if self.total.minor > 0 => PaymentSummary::Unpaid,
                () => PaymentSummary::Paid,
            };
        }
        let back = self.refunds.iter().any(Refund::is_live);
        let barred = stands(Standing::Cut) && self.refunds.iter().any(|refund| refund.state == RefundState::SetAside);
        match kept.cmp(&due) {
            _ if stands(Standing::Disputed) => PaymentSummary::Disputed,
            _ if kept == 0 && self.refunds.iter().any(waits) => PaymentSummary::Refunding,
            _ if kept == 0 && (stands(Standing::Gone) || barred) => PaymentSummary::Reversed,
            _ if kept == 0 && any(PaymentState::Pending) => PaymentSummary::Pending,
            _ if kept == 0 => PaymentSummary::Refunded,
            Ordering::Less if back => PaymentSummary::PartlyRefunded,
            Ordering::Less => PaymentSummary::Partial,
            Ordering::Equal => PaymentSummary::Paid,
            Ordering::Greater => PaymentSummary::Over,
        }
    }

    /// What happens next, and by when.
    #[must_use]
    pub fn next_step(&self) -> NextStep {
        let step = |what, by| NextStep { what, by };
        match self.status {
            OrderStatus::AwaitingPayment => step(self.next_of_payment(), Some(self.deadline)),
            OrderStatus::Confirmed => step(self.next_of_goods(), None),
            OrderStatus::Cancelling => step("what was paid goes back, then it is cancelled", None),
            OrderStatus::Completed | OrderStatus::Cancelled | OrderStatus::Expired => {
                let what = match self.payment_summary() {
                    PaymentSummary::Refunding => "the money goes back to the buyer",
                    PaymentSummary::Disputed => "the dispute is decided",
                    PaymentSummary::Unpaid
                    | PaymentSummary::Pending
                    | PaymentSummary::Authorised
                    | PaymentSummary::Partial
                    | PaymentSummary::Paid
                    | PaymentSummary::Over
                    | PaymentSummary::Reversed
                    | PaymentSummary::PartlyRefunded
                    | PaymentSummary::Refunded => "nothing",
                };
                step(what, None)
            }
        }
    }

    fn next_of_payment(&self) -> &'static str {
        match self.payments.iter().rev().find(|payment| payment.is_live()).map(|payment| payment.state) {
            Some(PaymentState::Capturing | PaymentState::Approved) => "the payment is being taken",
            Some(PaymentState::Pending) => "the provider is reviewing the payment",
            Some(_) => "the buyer approves the payment",
            None if self.kept_minor() > 0 => "the buyer pays again: what is too much then goes back",
            None => "the buyer pays",
        }
    }

    fn next_of_goods(&self) -> &'static str {
        match self.payment_summary() {
            PaymentSummary::Disputed => "the dispute is decided",
            PaymentSummary::Reversed => "staff decide: the money was taken back",
            _ if self.hold_reason.is_some() => "staff release it",
            PaymentSummary::Pending => "the provider is reviewing the payment",
            PaymentSummary::Authorised => "the money is taken and the goods are shipped",
            PaymentSummary::Unpaid
            | PaymentSummary::Partial
            | PaymentSummary::Paid
            | PaymentSummary::Over
            | PaymentSummary::PartlyRefunded
            | PaymentSummary::Refunding
            | PaymentSummary::Refunded => match self.fulfilment() {
                Fulfilment::Unfulfilled => "the goods are shipped",
                Fulfilment::Partial => "the rest of the goods is shipped",
                Fulfilment::Fulfilled | Fulfilment::Delivered => "the goods arrive",
            },
        }
    }
}
