//! What one decision writes: rows, as values. The journal turns a batch of these into one statement per kind.

use chrono::{DateTime, Utc};

use super::{
    About, Call, Channel, Created, EventSeq, Fact, ImportId, Intent, LineProblem, Money, NoticeId, NoticeState,
    OrderId, OrderStatus, PartState, PaymentId, PaymentState, RefundId, RefundKind, RefundState, Return, Sale, SaleId,
    SaleShare, Shipment, ShipmentId, SkuId, Subscription, SubscriptionId, TaskId, TaskKind, TaskState, Tracking, Units,
    words,
};

words! {
    /// Why stock moved.
    Cause {
        /// The SKU was opened with its first stock.
        Open = "open",
        /// A person corrected it.
        Adjust = "adjust",
        /// A checkout held it.
        Reserve = "reserve",
        /// The order was paid: what was held is now sold. Moves no counter.
        Commit = "commit",
        /// The order was cancelled.
        Release = "release",
        /// The hold's deadline passed.
        Expire = "expire",
        /// The goods left.
        Ship = "ship",
        /// They came back and can be sold again.
        Restock = "restock",
        /// They came back and are put aside. Moves no counter.
        Quarantine = "quarantine",
        /// They came back and are thrown away. Moves no counter.
        Scrap = "scrap",
    }
}

/// Everything beside a checkout's own rows that an entry can write.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The order's new state, named by the version it was decided on: stale, and the whole entry is taken out.
    pub order: Option<OrderMove>,
    /// Reservations that are split, before any of them changes state.
    pub splits: Vec<PartSplit>,
    /// Reservations that change state; their ledger rows follow from them.
    pub parts: Vec<PartMove>,
    /// Lines of the order's timeline.
    pub events: Vec<EventRow>,
    /// Attempts to pay, inserted or brought up to date.
    pub payments: Vec<PaymentRow>,
    /// What a provider said, each once.
    pub facts: Vec<(PaymentId, Fact)>,
    /// Refunds, inserted or brought up to date.
    pub refunds: Vec<RefundRow>,
    /// Provider calls, inserted or brought up to date.
    pub tasks: Vec<TaskRow>,
    /// Shipments, inserted with their lines or brought up to date.
    pub shipments: Vec<ShipmentRow>,
    /// What a carrier said, each once.
    pub tracking: Vec<(ShipmentId, Tracking)>,
    /// Returns, inserted or brought up to date with their lines.
    pub returns: Vec<ReturnRow>,
    /// Webhooks that this entry has dealt with.
    pub inbox: Vec<InboxMark>,
    /// News that were sent, or tried.
    pub marks: Vec<NoticeMark>,
    /// News to be sent again.
    pub replays: Vec<NoticeId>,
    /// Subscriptions, inserted or brought up to date.
    pub subscriptions: Vec<Subscription>,
    /// Subscriptions that end, with everything that was on its way to them.
    pub unsubscribed: Vec<SubscriptionId>,
    /// A sale, inserted or brought up to date.
    pub sale: Option<SaleRow>,
    /// Waiting rooms, inserted or brought up to date.
    pub rooms: Vec<RoomMove>,
    /// The ticket that the entry's order uses up.
    pub ticket: Option<TicketUse>,
    /// Corrections of stock.
    pub adjustments: Vec<Adjustment>,
    /// SKUs whose stock begins.
    pub openings: Vec<Opening>,
    /// An import whose lines are there, and may be applied from now on.
    pub import: Option<ImportId>,
    /// Lines of an import whose turn has come.
    pub chunk: Option<Chunk>,
}

impl Changes {
    /// Whatever must be true for this to be written at all, by the ids that it is known by where it is not.
    pub fn conditions(&self) -> impl Iterator<Item = i64> {
        let on_hand = self.adjustments.iter().filter_map(|row| row.only_if.map(|condition| condition.id));
        on_hand.chain(self.sale.as_ref().map(|row| row.condition_id))
    }
}

/// An order's row after the entry.
#[derive(Debug, Clone)]
pub struct OrderMove {
    /// Which order.
    pub order_id: OrderId,
    /// The version it was decided on.
    pub expected: i32,
    /// Its new status.
    pub status: OrderStatus,
    /// Why nothing of it may be shipped for now.
    pub hold_reason: Option<String>,
    /// Its hold's new end.
    pub deadline: DateTime<Utc>,
    /// The hold's own end, while the deadline is a later one.
    pub hold_ends_at: Option<DateTime<Utc>>,
}

/// Some units of a reservation become one of their own, in the same state. No stock moves.
#[derive(Debug, Clone)]
pub struct PartSplit {
    /// Which order.
    pub order_id: OrderId,
    /// Which of its parts gives.
    pub part: i32,
    /// The number of the new one.
    pub new_part: i32,
    /// How many units it gets.
    pub quantity: i64,
}

/// One reservation changes state.
#[derive(Debug, Clone)]
pub struct PartMove {
    /// Which order.
    pub order_id: OrderId,
    /// Which of its parts.
    pub part: i32,
    /// Of which SKU.
    pub sku_id: SkuId,
    /// The state it was decided on.
    pub from: PartState,
    /// The new state.
    pub to: PartState,
    /// What the ledger says of it.
    pub cause: Cause,
    /// How many units it is.
    pub units: i64,
    /// The sale that it was bought in.
    pub share: Option<SaleShare>,
}

/// One line of an order's timeline.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// Which order.
    pub order_id: OrderId,
    /// Its number; the placement is 1.
    pub seq: i32,
    /// What happened, in one word.
    pub kind: &'static str,
    /// Its particulars, a JSON object.
    pub data: serde_json::Value,
}

/// An attempt's row after the entry.
#[derive(Debug, Clone)]
pub struct PaymentRow {
    /// Ours.
    pub id: PaymentId,
    /// Whose.
    pub order_id: OrderId,
    /// With whom.
    pub provider: String,
    /// When it is charged.
    pub intent: Intent,
    /// The provider's answer, once there.
    pub announced: Option<Created>,
    /// Where it stands.
    pub state: PaymentState,
    /// When the provider is next asked unbidden.
    pub check_at: Option<DateTime<Utc>>,
    /// How often it was.
    pub checks: i32,
}

/// A refund's row after the entry.
#[derive(Debug, Clone)]
pub struct RefundRow {
    /// Ours.
    pub id: RefundId,
    /// Of which order.
    pub order_id: OrderId,
    /// Of which attempt.
    pub payment_id: PaymentId,
    /// Of which capture.
    pub capture_id: String,
    /// How much.
    pub amount: Money,
    /// What it is of.
    pub kind: RefundKind,
    /// Which units it pays for.
    pub lines: Vec<Units>,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub state: RefundState,
    /// The provider's id.
    pub provider_refund_id: Option<String>,
    /// The command that wished it.
    pub command_id: Option<i64>,
    /// In whose place it is.
    pub replaces: Option<RefundId>,
}

/// A provider call's row after the entry.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// Ours, and the provider's idempotency key.
    pub id: TaskId,
    /// For which order.
    pub order_id: OrderId,
    /// What it is about.
    pub about: About,
    /// What is asked.
    pub kind: TaskKind,
    /// How much is asked for, where that must stay as it is.
    pub amount: Option<Money>,
    /// Whether it is still to be made.
    pub state: TaskState,
    /// How often it was made without an answer.
    pub attempts: i32,
    /// When it is to be made (again).
    pub due_at: DateTime<Utc>,
    /// What came instead of an answer.
    pub last_error: Option<String>,
}

/// A shipment after the entry.
#[derive(Debug, Clone)]
pub struct ShipmentRow {
    /// Of which order.
    pub order_id: OrderId,
    /// As it is then.
    pub shipment: Shipment,
}

/// A return after the entry.
#[derive(Debug, Clone)]
pub struct ReturnRow {
    /// Of which order.
    pub order_id: OrderId,
    /// As it is then.
    pub goods: Return,
}

/// A webhook that was dealt with.
#[derive(Debug, Clone)]
pub struct InboxMark {
    /// The inbox row.
    pub inbox_id: i64,
    /// What came of it, in a word.
    pub outcome: &'static str,
}

/// A piece of news to be told of an event, committed together with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// By which way out.
    pub channel: Channel,
    /// To whom; none: to the order's buyer.
    pub subscription_id: Option<SubscriptionId>,
    /// Of which order.
    pub order_id: OrderId,
    /// Of which event of it.
    pub event_seq: EventSeq,
    /// The event, in one word.
    pub kind: &'static str,
}

/// What became of a try to tell a piece of news.
#[derive(Debug, Clone)]
pub struct NoticeMark {
    /// Which.
    pub id: NoticeId,
    /// Told, given up, or still to be told.
    pub state: NoticeState,
    /// Tries so far.
    pub attempts: i32,
    /// When it is tried again; what follows it to the same receiver about the same order waits as long.
    pub next_at: DateTime<Utc>,
    /// Why it was not told; no address.
    pub error: Option<String>,
    /// A line of the delivery log, which subscriptions have.
    pub attempt: Option<AttemptRow>,
}

/// One try of calling a merchant, for the delivery log.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Whom.
    pub subscription_id: SubscriptionId,
    /// How long it took.
    pub millis: i64,
    /// The HTTP status of the answer, where there was one.
    pub status: Option<u16>,
    /// The beginning of the answer.
    pub said: String,
}

/// A sale after the entry.
#[derive(Debug, Clone)]
pub struct SaleRow {
    /// As it is then. Its version is one more than the one it was decided on; 1 where it is new.
    pub sale: Sale,
    /// What it is known by where it had moved on, has sold more than it is to have, or has sold anything and was thought not to
    /// have begun: an id that nothing else has.
    pub condition_id: i64,
}

/// A waiting room's row after the entry, and whom it calls.
#[derive(Debug, Clone)]
pub struct RoomMove {
    /// Of which sale.
    pub sale_id: SaleId,
    /// Numbers below this are leased.
    pub given: i64,
    /// What the places were drawn by, and for how many.
    pub drawn: Option<(i64, i64)>,
    /// Places below this are called.
    pub called: i64,
    /// Those that are called by this entry.
    pub call: Option<Call>,
}

/// A place in a waiting room whose turn has ended with an order.
#[derive(Debug, Clone)]
pub struct TicketUse {
    /// Of which sale.
    pub sale_id: SaleId,
    /// Which place.
    pub place: i64,
    /// Which order.
    pub order_id: OrderId,
}

/// A correction of stock on hand.
#[derive(Debug, Clone)]
pub struct Adjustment {
    /// Of which SKU.
    pub sku_id: SkuId,
    /// By how many units; by none moves nothing, and may yet be conditional.
    pub delta: i64,
    /// Only on this condition: else the whole entry is taken out.
    pub only_if: Option<OnHand>,
    /// Why, as a person wrote it.
    pub note: String,
}

/// A condition on what is on hand when the correction's turn has come.
#[derive(Debug, Clone, Copy)]
pub struct OnHand {
    /// So many units must be there.
    pub expected: i64,
    /// What this very condition is known by where it does not hold: an id that nothing else has.
    pub id: i64,
}

/// Lines of one import, each settled with its outcome: its correction is made, or its problem written down.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Of which import.
    pub import_id: ImportId,
    /// Which lines.
    pub turns: Vec<Turn>,
}

/// One line of an import whose turn has come. One that is settled already is passed over.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Its number.
    pub line: i32,
    /// Of which SKU.
    pub sku_id: SkuId,
    /// By how many units.
    pub delta: i64,
    /// Only if so many are on hand; else the line fails.
    pub expected: Option<i64>,
    /// Why, as a person wrote it.
    pub note: String,
    /// Why it fails without being tried: no promise could be had for it.
    pub problem: Option<(LineProblem, String)>,
}

/// A SKU's first stock. Opening one that is open changes nothing.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Which SKU.
    pub sku_id: SkuId,
    /// Units on hand.
    pub on_hand: i64,
}
