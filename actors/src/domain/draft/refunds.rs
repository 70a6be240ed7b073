//! Money on its way back: wished by staff, owed by a rule, or made at the provider and mirrored here.
//!
//! What goes back of a capture is never more than came with it: every refund is cut to what is left of its capture, on the
//! order's own copy, and the order decides one thing at a time.

use std::collections::HashSet;

use chrono::TimeDelta;
use serde_json::json;

use super::{Draft, patience};
use crate::domain::{
    About, Capture, Fact, FactKind, Invalid, Money, PaymentId, Refund, RefundId, RefundKind, RefundLimit, RefundState,
    RefundWish, Refusal, TaskKind, TaskState, Units,
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
        if minor > left || minor == 0 {
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
                    let left = self.bought(units.line) - self.paid_back(units.line);
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

    /// Units of a line whose price has gone back, or is going.
    fn paid_back(&self, line: i32) -> i64 {
        let units = self.live_refunds().flat_map(|refund| &refund.lines).filter(|units| units.line == line);
        units.map(|units| units.quantity).sum()
    }

    /// What units cost, without those of them whose price has gone back already.
    pub(super) fn price_not_paid_back(&self, lines: &[Units]) -> i64 {
        let price = |units: &Units| {
            let line = self.order.lines().find(|part| part.line == units.line)?;
            let owed = units.quantity.min(line.quantity - self.paid_back(units.line)).max(0);
            Some(owed * line.unit_price_minor)
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
        let captures = self.order.captures();
        let Some(capture) = captures.iter().find(|c| c.payment_id == payment_id && c.capture_id == capture_id) else {
            return;
        };
        let minor = amount.minor.min(self.order.left_of(capture));
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

    /// What is still owed of a refund that came to nothing is asked for anew, as a refund of its own.
    fn request_again(&mut self, old: &Refund, minor: i64, pause: TimeDelta) {
        if minor > 0 {
            let amount = Money { minor, ..old.amount };
            let fresh = Refund { id: RefundId(self.next_id()), amount, state: RefundState::Requested, ..old.clone() };
            self.request(Refund { provider_refund_id: None, command_id: None, ..fresh }, pause);
        }
    }

    // ── what the provider says of refunds ────────────────────────────────────────────────────────────────────────────

    /// The answer to a refund's own call names the provider's id of it: two refunds of one amount are told apart by nothing
    /// else. Whoever was taken for it by a webhook that came first gives the id back.
    pub(super) fn bind_refund(&mut self, refund_id: RefundId, facts: &[Fact]) {
        let Some(ours) = self.order.refunds.iter().position(|refund| refund.id == refund_id) else { return };
        let (capture_id, amount) = (self.order.refunds[ours].capture_id.clone(), self.order.refunds[ours].amount);
        let fits = |fact: &&Fact| {
            fact.kind == FactKind::Refund
                && fact.amount.is_none_or(|told| told == amount)
                && fact.parent.as_deref().is_none_or(|parent| parent == capture_id)
        };
        let mut told = facts.iter().filter(fits).map(|fact| fact.object_id.as_str());
        let (Some(provider_refund_id), None) = (told.next(), told.next()) else { return };
        let bound = |refund: &Refund| refund.provider_refund_id.as_deref() == Some(provider_refund_id);
        let other = self.order.refunds.iter().position(|refund| bound(refund) && refund.id != refund_id);
        let Some(other) = other else {
            let before = self.order.refunds[ours].clone();
            if before.provider_refund_id.as_deref().is_some_and(|id| id != provider_refund_id) {
                // what was taken for it, by a webhook that came first, was made at the provider after all
                let fresh = self.new_refund(before.payment_id, before.capture_id, before.amount);
                let (state, provider_refund_id) = (before.state, before.provider_refund_id);
                let (kind, reason) = (RefundKind::Mirrored, MADE_AT_PROVIDER.to_owned());
                let mirror = Refund { kind, reason, state, provider_refund_id, ..fresh };
                self.note_refund(&mirror);
                self.order.refunds.push(mirror);
            }
            self.order.refunds[ours].provider_refund_id = Some(provider_refund_id.to_owned());
            let told = self.order.refunds[ours].clone();
            return self.note_refund(&told);
        };
        let (state, id) = (self.order.refunds[ours].state, self.order.refunds[ours].provider_refund_id.clone());
        // a mirror of what was ours all along is none
        let mirror = self.order.refunds[other].kind == RefundKind::Mirrored;
        let was = std::mem::replace(
            &mut self.order.refunds[other].state,
            if mirror { RefundState::Cancelled } else { state },
        );
        self.order.refunds[other].provider_refund_id = id;
        self.order.refunds[ours].state = was;
        self.order.refunds[ours].provider_refund_id = Some(provider_refund_id.to_owned());
        for at in [ours, other] {
            let told = self.order.refunds[at].clone();
            self.note_refund(&told);
        }
    }

    /// The provider has nothing left to give of this refund's capture: what is there went back otherwise.
    pub(super) fn refund_has_nothing_left(&mut self, refund_id: RefundId) {
        let waits = |refund: &&mut Refund| refund.id == refund_id && refund.state == RefundState::Requested;
        if let Some(refund) = self.order.refunds.iter_mut().find(waits) {
            refund.state = RefundState::Cancelled;
            let told = refund.clone();
            self.note_refund(&told);
            self.event("refund_called_off", json!({ "refund_id": told.id, "amount": told.amount }));
        }
    }

    pub(super) fn refund_news(
        &mut self,
        payment_id: PaymentId,
        provider_refund_id: String,
        capture_id: Option<String>,
        amount: Option<Money>,
        state: RefundState,
    ) {
        let known = self.refund_that_is_meant(payment_id, &provider_refund_id, capture_id.as_deref(), amount);
        let at = match known {
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
        let decided = matches!(refund.state, RefundState::Failed | RefundState::Cancelled);
        let same = refund.provider_refund_id.as_deref() == Some(provider_refund_id.as_str());
        // what the provider took back by itself (a reversal) it can give back; what it has paid out for us stays paid
        let undone = same
            && refund.kind == RefundKind::Mirrored
            && matches!(state, RefundState::Failed | RefundState::Cancelled);
        if refund.state == RefundState::Completed && !undone
            || same && (refund.state == state || decided && state == RefundState::Pending)
        {
            return;
        }
        refund.state = state;
        refund.provider_refund_id = Some(provider_refund_id);
        let told = refund.clone();
        self.note_refund(&told);
        let kind = match state {
            RefundState::Completed => "refunded",
            RefundState::Requested | RefundState::Pending => "refund_pending",
            RefundState::Failed | RefundState::Cancelled => "refund_failed",
        };
        self.event(kind, json!({ "refund_id": told.id, "amount": told.amount, "reason": told.reason }));
        if told.is_live() {
            self.trim(payment_id, &told.capture_id);
        } else if told.kind != RefundKind::Mirrored {
            // it failed after it had been taken: the money is owed again
            self.request_again(&told, told.amount.minor, patience(0));
        }
    }

    /// The refund that the provider speaks of: by its id; else one of ours of this amount that has none yet, those first that
    /// are still asked for.
    fn refund_that_is_meant(
        &self,
        payment_id: PaymentId,
        provider_refund_id: &str,
        capture_id: Option<&str>,
        amount: Option<Money>,
    ) -> Option<usize> {
        let refunds = &self.order.refunds;
        let by_id = refunds.iter().position(|refund| refund.provider_refund_id.as_deref() == Some(provider_refund_id));
        let fits = |refund: &Refund| {
            refund.provider_refund_id.is_none()
                && refund.payment_id == payment_id
                && capture_id.is_none_or(|capture_id| refund.capture_id == capture_id)
                && Some(refund.amount) == amount
        };
        by_id
            .or_else(|| refunds.iter().position(|refund| fits(refund) && refund.is_live()))
            .or_else(|| refunds.iter().position(fits))
    }

    /// More goes back of a capture than came with it, because somebody gave some back at the provider: of what we have asked
    /// for and the provider has not taken, the newest is called off, and what is left of it asked for anew.
    fn trim(&mut self, payment_id: PaymentId, capture_id: &str) {
        let captures = self.order.captures();
        let known = captures.iter().find(|c| c.payment_id == payment_id && c.capture_id == capture_id);
        let Some(came) = known.and_then(|capture| capture.amount).map(|amount| amount.minor) else { return };
        while self.order.refunding_of(payment_id, capture_id) > came {
            let over = self.order.refunding_of(payment_id, capture_id) - came;
            let Some(called_off) = self.call_off_newest(payment_id, capture_id, "it went back otherwise") else {
                return;
            };
            self.request_again(&called_off, called_off.amount.minor - over, TimeDelta::zero());
        }
    }

    /// Refunds of a capture that the provider has not taken are asked for no more.
    pub(super) fn call_off_refunds(&mut self, payment_id: PaymentId, capture_id: &str) {
        while self.call_off_newest(payment_id, capture_id, "the money was taken back").is_some() {}
    }

    fn call_off_newest(&mut self, payment_id: PaymentId, capture_id: &str, why: &str) -> Option<Refund> {
        let waits = |refund: &&mut Refund| {
            refund.payment_id == payment_id
                && refund.capture_id == capture_id
                && refund.state == RefundState::Requested
                && refund.provider_refund_id.is_none()
        };
        let refund = self.order.refunds.iter_mut().rev().find(waits)?;
        refund.state = RefundState::Cancelled;
        let told = refund.clone();
        self.note_refund(&told);
        let task = self.order.tasks.iter().find(|task| task.about.refund_id() == Some(told.id)).map(|task| task.id);
        if let Some(task_id) = task {
            self.close_task(task_id, TaskState::Failed, Some(why.to_owned()));
        }
        self.event("refund_called_off", json!({ "refund_id": told.id, "amount": told.amount }));
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

    /// The provider is asked about an attempt that something is still open of.
    pub(super) fn keep_asking(&mut self, payment_id: PaymentId) {
        let tomorrow = self.at + TimeDelta::days(1);
        if self.payment_mut(payment_id).is_some_and(|payment| payment.check_at.is_none()) {
            self.set_check(payment_id, tomorrow);
        }
    }
}
