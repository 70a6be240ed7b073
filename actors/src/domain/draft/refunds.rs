//! Money on its way back: wished by staff, owed by a rule, or made at the provider and mirrored here.
//!
//! What goes back of a capture is never more than came with it: every refund is cut to what is left of its capture, on the
//! order's own copy, and the order decides one thing at a time.

use std::collections::HashSet;

use chrono::TimeDelta;
use serde_json::json;

use super::{Draft, patience};
use crate::domain::{
    About, Capture, Fact, FactStatus, Invalid, Money, PartState, PaymentId, Refund, RefundId, RefundKind, RefundLimit,
    RefundState, RefundWish, Refusal, TaskKind, TaskState, Units,
};

/// The reason of a refund that was made at the provider and is mirrored here.
const MADE_AT_PROVIDER: &str = "made_at_provider";
/// The most entries that a list of lines has, as many as an order may have lines.
const MOST_LINES: usize = 1_000;

/// What is to go back, before it is known of which captures.
pub(super) struct GiveBack<'a> {
    pub amount: Money,
    pub kind: RefundKind,
    pub lines: Vec<Units>,
    pub reason: &'a str,
    pub command_id: Option<i64>,
}

impl Draft<'_> {
    /// Refunds by command. Returns the number that the command's refunds carry.
    pub(super) fn refund_by_wish(&mut self, what: &RefundWish, reason: &str) -> Result<i64, Refusal> {
        let left = self.order.kept_minor();
        let (minor, kind, lines) = self.price(what, left)?;
        if minor > left {
            return Err(Refusal::RefundExceeds { limit: RefundLimit::Captured, left });
        }
        self.refund_priced(minor, kind, lines, reason)
    }

    /// Goods that came back are paid back as far as their price is still here: a kindness may have gone before.
    pub(super) fn refund_returned(&mut self, lines: Vec<Units>) -> Result<i64, Refusal> {
        let left = self.order.kept_minor();
        let (minor, kind, lines) = self.price(&RefundWish::Lines(lines), left)?;
        self.refund_priced(minor.min(left), kind, lines, "returned")
    }

    fn refund_priced(&mut self, minor: i64, kind: RefundKind, lines: Vec<Units>, reason: &str) -> Result<i64, Refusal> {
        if minor == 0 {
            let left = self.order.kept_minor();
            return Err(Refusal::RefundExceeds { limit: RefundLimit::Captured, left });
        }
        let command_id = self.next_id();
        let amount = Money::new(minor, self.order.total.currency);
        self.give_back(GiveBack { amount, kind, lines, reason, command_id: Some(command_id) });
        Ok(command_id)
    }

    fn price(&self, what: &RefundWish, left: i64) -> Result<(i64, RefundKind, Vec<Units>), Refusal> {
        let named = |amount: &Money, kind| match amount {
            Money { currency, .. } if *currency != self.order.total.currency => {
                Err(Invalid::new("currency", "is not the order's").into())
            }
            Money { minor: 0, .. } => Err(Invalid::new("amount", "must be more than nothing").into()),
            amount => Ok((amount.minor, kind, Vec::new())),
        };
        match what {
            RefundWish::Full => Ok((left, RefundKind::Full, Vec::new())),
            RefundWish::Amount(amount) => named(amount, RefundKind::Amount),
            RefundWish::Goodwill(amount) => named(amount, RefundKind::Goodwill),
            RefundWish::Shipping => {
                let paid_back = self.live_refunds().filter(|refund| refund.kind == RefundKind::Shipping);
                let left = self.order.shipping_minor - paid_back.map(|refund| refund.amount.minor).sum::<i64>();
                let exceeds = Refusal::RefundExceeds { limit: RefundLimit::Shipping, left };
                if left > 0 { Ok((left, RefundKind::Shipping, Vec::new())) } else { Err(exceeds) }
            }
            RefundWish::Lines(lines) => {
                let lines = self.merged(lines)?;
                for units in &lines {
                    let left = self.not_paid_back(units.line);
                    if units.quantity > left {
                        return Err(Refusal::RefundExceeds { limit: RefundLimit::Line, left });
                    }
                }
                Ok((self.price_not_paid_back(&lines), RefundKind::Lines, lines))
            }
        }
    }

    /// Units by line, each line once; all of them lines of this order.
    pub(super) fn merged(&self, lines: &[Units]) -> Result<Vec<Units>, Invalid> {
        if lines.len() > MOST_LINES {
            return Err(Invalid::new("lines", format!("has more than {MOST_LINES} entries")));
        }
        let bought: HashSet<i32> = self.order.lines().map(|line| line.line).collect();
        let mut merged: Vec<Units> = Vec::new();
        for units in lines {
            if !bought.contains(&units.line) {
                return Err(Invalid::new("lines", "names a line that the order has not"));
            }
            if units.quantity < 1 {
                return Err(Invalid::new("lines", "has a quantity below one"));
            }
            match merged.iter_mut().find(|known| known.line == units.line) {
                Some(known) => known.quantity = known.quantity.saturating_add(units.quantity),
                None => merged.push(*units),
            }
        }
        if merged.is_empty() { Err(Invalid::new("lines", "is empty")) } else { Ok(merged) }
    }

    fn bought(&self, line: i32) -> i64 {
        self.order.lines().find(|part| part.line == line).map_or(0, |part| part.quantity)
    }

    /// Units of a line that are neither called off nor refunded.
    fn not_paid_back(&self, line: i32) -> i64 {
        let called_off = self.order.units(line, |state| state == PartState::Released);
        (self.bought(line) - called_off - self.order.refunded_units(line)).max(0)
    }

    /// What units cost, without those of them whose price has gone back already.
    pub(super) fn price_not_paid_back(&self, lines: &[Units]) -> i64 {
        let price = |units: &Units| {
            let line = self.order.lines().find(|part| part.line == units.line)?;
            Some(units.quantity.min(self.not_paid_back(units.line)) * line.unit_price_minor)
        };
        lines.iter().filter_map(price).sum()
    }

    fn live_refunds(&self) -> impl Iterator<Item = &Refund> {
        self.order.refunds.iter().filter(|refund| refund.is_live())
    }

    // ── giving back ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everything that is here goes back: the order has no claim to it any more.
    pub(super) fn give_all_back(&mut self, reason: &str) {
        let amount = Money::new(self.order.kept_minor(), self.order.total.currency);
        self.give_back(GiveBack { amount, kind: RefundKind::Correction, lines: Vec::new(), reason, command_id: None });
    }

    /// Takes an amount from the captures, oldest first; the first refund carries the lines.
    pub(super) fn give_back(&mut self, wish: GiveBack<'_>) {
        let mut owed = wish.amount.minor;
        let mut lines = wish.lines;
        for capture in self.order.captures() {
            let ours = capture.amount.is_some_and(|amount| amount.currency == wish.amount.currency);
            let minor = if ours { owed.min(self.order.left_of(&capture)) } else { 0 };
            if minor <= 0 {
                continue;
            }
            owed -= minor;
            let refund = self.new_refund(capture.payment_id, capture.capture_id, Money { minor, ..wish.amount });
            let lines = std::mem::take(&mut lines);
            let reason = wish.reason.to_owned();
            self.request(
                Refund { kind: wish.kind, lines, reason, command_id: wish.command_id, ..refund },
                TimeDelta::zero(),
            );
        }
    }

    /// Gives (part of) one capture back, to which the order has no claim.
    pub(super) fn refund(&mut self, payment_id: PaymentId, capture_id: &str, amount: Money, reason: &str) {
        let Some(capture) = self.capture(payment_id, capture_id) else { return };
        let minor = amount.minor.min(self.order.left_of(&capture));
        if minor > 0 {
            let refund = self.new_refund(payment_id, capture_id.to_owned(), Money { minor, ..amount });
            self.request(Refund { reason: reason.to_owned(), ..refund }, TimeDelta::zero());
        }
    }

    fn new_refund(&mut self, payment_id: PaymentId, capture_id: String, amount: Money) -> Refund {
        Refund {
            id: RefundId(self.next_id()),
            payment_id,
            capture_id,
            amount,
            kind: RefundKind::Correction,
            lines: Vec::new(),
            reason: String::new(),
            state: RefundState::Requested,
            provider_refund_id: None,
            command_id: None,
            replaces: None,
        }
    }

    fn request(&mut self, refund: Refund, pause: TimeDelta) {
        self.note_refund(&refund);
        self.open_task(TaskKind::Refund, About::Refund(refund.payment_id, refund.id), pause);
        self.keep_asking(refund.payment_id); // until it is done
        let (id, amount, kind, reason) = (refund.id, refund.amount, refund.kind, &refund.reason);
        self.event(
            "refund_requested",
            json!({ "refund_id": id, "amount": amount, "kind": kind, "lines": refund.lines, "reason": reason }),
        );
        self.order.refunds.push(refund);
    }

    /// So much of a refund that came to nothing is asked for anew, as a refund of its own.
    fn request_again(&mut self, old: &Refund, minor: i64, pause: TimeDelta) {
        let fresh = self.in_place_of(old, minor);
        self.request(fresh, pause);
    }

    fn in_place_of(&mut self, old: &Refund, minor: i64) -> Refund {
        let (id, amount, replaces) = (RefundId(self.next_id()), Money { minor, ..old.amount }, Some(old.id));
        let (provider_refund_id, command_id) = (None, None);
        Refund { id, amount, state: RefundState::Requested, provider_refund_id, command_id, replaces, ..old.clone() }
    }

    // ── what the provider says of refunds ────────────────────────────────────────────────────────────────────────────

    /// Refunds that name ours are ours, whatever was taken for them before; also those that were called off while their
    /// call was on its way: their money is out.
    pub(super) fn know_ours(&mut self, payment_id: PaymentId, facts: &[Fact]) {
        for fact in facts {
            let is_meant = |refund: &Refund| {
                Some(refund.id) == fact.refund_id()
                    && refund.payment_id == payment_id
                    && refund.provider_refund_id.is_none()
                    && fact.amount.is_none_or(|told| told == refund.amount)
                    && fact.parent.as_deref().is_none_or(|parent| parent == refund.capture_id)
            };
            if let Some(ours) = self.order.refunds.iter().position(is_meant) {
                self.bind(ours, fact);
            }
        }
    }

    fn bind(&mut self, ours: usize, fact: &Fact) {
        let is_told = |refund: &Refund| refund.provider_refund_id.as_deref() == Some(fact.object_id.as_str());
        let known = self.order.refunds.iter().position(is_told);
        let mut refund = self.order.refunds[ours].clone();
        refund.provider_refund_id = Some(fact.object_id.clone());
        if let Some(known) = known {
            // mirrored when nobody knew yet whose it is
            let mirror = &mut self.order.refunds[known];
            if mirror.kind != RefundKind::Mirrored {
                return;
            }
            refund.state = std::mem::replace(&mut mirror.state, RefundState::Cancelled);
            mirror.provider_refund_id = None;
            let told = mirror.clone();
            self.note_refund(&told);
        } else if matches!(fact.status, FactStatus::Pending | FactStatus::Completed) {
            refund.state = RefundState::Requested; // it went out, although it was called off
        }
        self.note_refund(&refund);
        let (id, is_out) = (refund.id, refund.is_live());
        self.order.refunds[ours] = refund;
        if is_out {
            self.drop_replacements(id);
        }
    }

    /// A refund has gone out after all: what waits in its place is not owed.
    fn drop_replacements(&mut self, of: RefundId) {
        let replaces = |refund: &&Refund| refund.replaces == Some(of);
        for refund in self.order.refunds.iter().filter(replaces).cloned().collect::<Vec<_>>() {
            if refund.waits() || refund.state == RefundState::SetAside {
                self.end_refund(refund.id, RefundState::Cancelled, "what it replaces went out");
            }
            self.drop_replacements(refund.id);
        }
    }

    /// The provider has nothing left to give of this refund's capture: what is there went back otherwise.
    pub(super) fn refund_has_nothing_left(&mut self, refund_id: RefundId) {
        let is_meant = |refund: &&Refund| refund.id == refund_id && refund.state == RefundState::Requested;
        if self.order.refunds.iter().any(|refund| is_meant(&refund)) {
            self.end_refund(refund_id, RefundState::Cancelled, "nothing is left of its charge");
        }
    }

    /// The bank lets nobody give this money back: it is owed again when the bank has changed its mind. Until then nothing
    /// asks for it, and nobody has to end it. What the bank did, the next look shows.
    pub(super) fn refund_is_barred(&mut self, payment_id: PaymentId, refund_id: RefundId) {
        self.end_refund(refund_id, RefundState::SetAside, "the bank has taken back what it was of");
        let now = self.at;
        self.set_check(payment_id, now);
    }

    pub(super) fn refund_news(
        &mut self,
        payment_id: PaymentId,
        provider_refund_id: String,
        capture_id: Option<String>,
        amount: Option<Money>,
        (state, late): (RefundState, bool),
    ) {
        let is_told = |refund: &Refund| refund.provider_refund_id.as_deref() == Some(provider_refund_id.as_str());
        let at = match self.order.refunds.iter().position(is_told) {
            Some(at) => at,
            None => {
                // made at the provider: mirrored, so that the sums are the provider's
                let (Some(capture_id), Some(amount)) = (capture_id, amount) else { return };
                let mirror = self.new_refund(payment_id, capture_id, amount);
                let (kind, reason) = (RefundKind::Mirrored, MADE_AT_PROVIDER.to_owned());
                self.order.refunds.push(Refund { kind, reason, ..mirror });
                self.order.refunds.len() - 1
            }
        };
        let refund = &mut self.order.refunds[at];
        if !may_become(refund, state, late) {
            return;
        }
        let before = std::mem::replace(&mut refund.state, state);
        refund.provider_refund_id = Some(provider_refund_id);
        let told = refund.clone();
        self.note_refund(&told);
        let kind = match state {
            RefundState::Completed => "refunded",
            RefundState::Requested | RefundState::Pending => "refund_pending",
            RefundState::Failed | RefundState::Cancelled | RefundState::SetAside => "refund_failed",
        };
        self.event(kind, json!({ "refund_id": told.id, "amount": told.amount, "reason": told.reason }));
        if told.is_live() {
            if before == RefundState::Failed {
                self.drop_replacements(told.id);
            }
            self.trim(payment_id, &told.capture_id);
        } else if told.kind == RefundKind::Mirrored {
            // what somebody gave back at the provider is here again: an order that is over has no claim to it
            self.settle(payment_id, &told.capture_id);
        } else {
            // it failed after it had been taken: the money is owed again
            self.request_again(&told, told.amount.minor, patience(0));
            self.trim(payment_id, &told.capture_id);
        }
    }

    /// More goes back of a capture than can, because somebody gave some back at the provider, or a bank took it: of what we
    /// have asked for and the provider has not taken, the newest waits for that to change, and the rest of it is asked for
    /// anew.
    pub(super) fn trim(&mut self, payment_id: PaymentId, capture_id: &str) {
        let Some(capture) = self.capture(payment_id, capture_id).filter(|capture| capture.amount.is_some()) else {
            return;
        };
        loop {
            let over = self.order.refunding_of(payment_id, capture_id) - self.order.refundable_of(&capture);
            let of = |refund: &&Refund| refund.payment_id == payment_id && refund.capture_id == capture_id;
            let newest = self.order.refunds.iter().filter(of).rfind(|refund| refund.waits()).cloned();
            let Some(newest) = newest.filter(|_| over > 0) else { return };
            let rest = newest.amount.minor - over;
            if rest <= 0 {
                self.end_refund(newest.id, RefundState::SetAside, "it went back otherwise");
                continue;
            }
            self.end_refund(newest.id, RefundState::Cancelled, "part of it went back otherwise");
            self.set_aside(&newest, over);
            self.request_again(&newest, rest, TimeDelta::zero());
        }
    }

    /// Part of a refund waits for its money; the rest of it carries the lines.
    fn set_aside(&mut self, old: &Refund, minor: i64) {
        let part = Refund { state: RefundState::SetAside, lines: Vec::new(), ..self.in_place_of(old, minor) };
        self.note_refund(&part);
        self.order.refunds.push(part);
    }

    /// Money of a capture is here again: what was set aside of it, oldest first, is asked for anew.
    pub(super) fn ask_for_set_aside(&mut self, payment_id: PaymentId, capture_id: &str) {
        let Some(capture) = self.capture(payment_id, capture_id) else { return };
        let waits = |refund: &&Refund| {
            refund.payment_id == payment_id && refund.capture_id == capture_id && refund.state == RefundState::SetAside
        };
        for refund in self.order.refunds.iter().filter(waits).cloned().collect::<Vec<_>>() {
            let here = self.order.refundable_of(&capture) - self.order.refunding_of(payment_id, capture_id);
            let minor = refund.amount.minor.min(here);
            if minor <= 0 {
                return;
            }
            self.change_refund(refund.id, RefundState::Cancelled);
            self.request_again(&refund, minor, TimeDelta::zero());
            if minor < refund.amount.minor {
                self.set_aside(&refund, refund.amount.minor - minor);
            }
        }
    }

    /// A refund is asked for no more.
    fn end_refund(&mut self, refund_id: RefundId, state: RefundState, why: &str) {
        let Some(told) = self.change_refund(refund_id, state) else { return };
        let task = self.order.tasks.iter().find(|task| task.about.refund_id() == Some(refund_id)).map(|task| task.id);
        if let Some(task_id) = task {
            self.close_task(task_id, TaskState::Failed, Some(why.to_owned()));
        }
        self.event("refund_called_off", json!({ "refund_id": told.id, "amount": told.amount, "why": why }));
    }

    fn change_refund(&mut self, refund_id: RefundId, state: RefundState) -> Option<Refund> {
        let refund = self.order.refunds.iter_mut().find(|refund| refund.id == refund_id)?;
        refund.state = state;
        let told = refund.clone();
        self.note_refund(&told);
        Some(told)
    }

    /// More than the order costs is here: the surplus goes back, of this capture.
    pub(super) fn refund_surplus(&mut self, capture: &Capture, reason: &str) {
        let surplus = self.order.paid_minor() - self.order.due_minor();
        if surplus > 0 {
            let amount = Money::new(surplus, self.order.total.currency);
            self.refund(capture.payment_id, &capture.capture_id, amount, reason);
        }
    }

    pub(super) fn capture(&self, payment_id: PaymentId, capture_id: &str) -> Option<Capture> {
        let is_meant = |capture: &Capture| capture.payment_id == payment_id && capture.capture_id == capture_id;
        self.order.captures().into_iter().find(is_meant)
    }

    /// The provider is asked about an attempt that something is still open of.
    pub(super) fn keep_asking(&mut self, payment_id: PaymentId) {
        let tomorrow = self.at + TimeDelta::days(1);
        if self.payment_mut(payment_id).is_some_and(|payment| payment.check_at.is_none()) {
            self.set_check(payment_id, tomorrow);
        }
    }
}

/// Whether a provider's word moves a refund, a late one although a newer one was heard. One that came to nothing there does
/// not wait any more; what was paid out for us stays paid; only what the provider took by itself (a reversal) it can give back.
fn may_become(refund: &Refund, state: RefundState, late: bool) -> bool {
    let comes_to_nothing = matches!(state, RefundState::Failed | RefundState::Cancelled);
    let mirrored = refund.kind == RefundKind::Mirrored;
    match refund.state {
        _ if late && (mirrored || state != RefundState::Completed) => false,
        RefundState::Completed => comes_to_nothing && mirrored,
        RefundState::Failed | RefundState::Cancelled | RefundState::SetAside => state == RefundState::Completed,
        RefundState::Pending => state != RefundState::Pending,
        RefundState::Requested => true,
    }
}
