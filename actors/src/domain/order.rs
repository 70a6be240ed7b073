//! The order: its statuses, its parts, what it all comes to.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    Address, Email, Money, OrderId, Payment, PaymentId, PaymentState, Refund, RefundId, RefundState, Return, Shipment,
    ShipmentId, ShipmentState, SkuId, TaskId, TaskKind, words,
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

    /// Whether its units have left, whatever became of them later.
    #[must_use]
    pub fn has_left(self) -> bool {
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
        /// Less than the total is here.
        Partial = "partially_paid",
        /// The total is here.
        Paid = "paid",
        /// More than the total is here.
        Over = "overpaid",
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
    /// How often it was made without an answer.
    pub attempts: i32,
    /// When it is to be made (again).
    pub due_at: DateTime<Utc>,
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
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// What it costs, sending included.
    pub total: Money,
    /// How much of that is for sending.
    pub shipping_minor: i64,
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
    /// The buyer approved an order that has expired; nothing is charged.
    LateApproval {
        /// With which attempt.
        payment_id: PaymentId,
    },
}

impl Order {
    /// The lines as they were bought: the first part of each, with what was split off it.
    pub fn lines(&self) -> impl Iterator<Item = Part> {
        let first = self.parts.iter().filter(|part| part.part == part.line);
        first.map(|first| {
            let split_off = self.parts.iter().filter(|part| part.split_of == Some(first.part));
            let quantity = first.quantity + split_off.map(|part| part.quantity).sum::<i64>();
            Part { quantity, ..first.clone() }
        })
    }

    /// Where a line stands: while any of it is reserved that, else its newest part.
    #[must_use]
    pub fn line_state(&self, line: &Part) -> PartState {
        let parts = || self.parts.iter().rev().filter(|part| part.line == line.line);
        parts().find(|part| part.state.is_open()).or_else(|| parts().next()).map_or(line.state, |part| part.state)
    }

    /// Money that has arrived, refunds not deducted.
    #[must_use]
    pub fn captured_minor(&self) -> i64 {
        self.payments.iter().map(Payment::captured_minor).sum()
    }

    /// Money that went back or is on its way back.
    #[must_use]
    pub fn refunding_minor(&self) -> i64 {
        self.refunds.iter().filter(|refund| refund.is_live()).map(|refund| refund.amount.minor).sum()
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

    /// Units of a line that left and are in no return.
    #[must_use]
    pub fn returnable(&self, line: i32) -> i64 {
        let claimed: i64 = self.returns.iter().map(|own| own.claims(line)).sum();
        self.units(line, PartState::has_left) - claimed
    }

    /// Units of a line that are with the buyer, or were.
    fn delivered(&self, line: i32) -> i64 {
        let delivered = self.shipments.iter().filter(|own| own.state == ShipmentState::Delivered);
        delivered.map(|own| own.units(line)).sum()
    }

    /// The goods' headline.
    #[must_use]
    pub fn fulfilment(&self) -> Fulfilment {
        let sum = |of: &dyn Fn(i32) -> i64| self.lines().map(|line| of(line.line)).sum::<i64>();
        let left = sum(&|line| self.units(line, PartState::has_left));
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
        let open = |line: i32| {
            let under_way = self.units(line, |state| state == PartState::Shipped) - self.delivered(line);
            self.units(line, PartState::is_open) > 0 || under_way > 0
        };
        self.parts.iter().any(|part| part.state.has_left()) && !self.lines().any(|line| open(line.line))
    }

    /// The money's headline.
    #[must_use]
    pub fn payment_summary(&self) -> PaymentSummary {
        let captured = self.captured_minor();
        let kept = captured - self.refunding_minor();
        let waits = |refund: &Refund| matches!(refund.state, RefundState::Requested | RefundState::Pending);
        if captured > 0 && kept <= 0 {
            let under_way = self.refunds.iter().any(waits);
            return if under_way { PaymentSummary::Refunding } else { PaymentSummary::Refunded };
        }
        match kept.cmp(&self.total.minor) {
            _ if kept == 0 && self.payments.iter().any(|p| p.state == PaymentState::Pending) => PaymentSummary::Pending,
            _ if kept == 0 && self.total.minor > 0 => PaymentSummary::Unpaid,
            std::cmp::Ordering::Less => PaymentSummary::Partial,
            std::cmp::Ordering::Equal => PaymentSummary::Paid,
            std::cmp::Ordering::Greater => PaymentSummary::Over,
        }
    }

    /// What happens next, and by when.
    #[must_use]
    pub fn next_step(&self) -> NextStep {
        let step = |what, by| NextStep { what, by };
        let live = self.payments.iter().rev().find(|payment| payment.is_live());
        match (self.status, live.map(|payment| payment.state)) {
            (OrderStatus::AwaitingPayment, Some(PaymentState::Capturing | PaymentState::Approved)) => {
                step("the payment is being taken", Some(self.deadline))
            }
            (OrderStatus::AwaitingPayment, Some(PaymentState::Pending)) => {
                step("the provider is reviewing the payment", Some(self.deadline))
            }
            (OrderStatus::AwaitingPayment, Some(_)) => step("the buyer approves the payment", Some(self.deadline)),
            (OrderStatus::AwaitingPayment, None) => step("the buyer pays", Some(self.deadline)),
            (OrderStatus::Confirmed, _) if self.hold_reason.is_some() => step("staff releases the order", None),
            (OrderStatus::Confirmed, _) => match self.fulfilment() {
                Fulfilment::Unfulfilled => step("the goods are shipped", None),
                Fulfilment::Partial => step("the rest of the goods is shipped", None),
                Fulfilment::Fulfilled | Fulfilment::Delivered => step("the goods arrive", None),
            },
            (OrderStatus::Cancelling, _) => step("the order is being undone", None),
            (OrderStatus::Completed | OrderStatus::Cancelled | OrderStatus::Expired, _) => {
                match self.payment_summary() {
                    PaymentSummary::Refunding => step("the money goes back to the buyer", None),
                    PaymentSummary::Unpaid
                    | PaymentSummary::Pending
                    | PaymentSummary::Partial
                    | PaymentSummary::Paid
                    | PaymentSummary::Over
                    | PaymentSummary::Refunded => step("nothing", None),
                }
            }
        }
    }
}
